import math

import pytest
import torch

from lejepa_hf.evaluation.rank import rank_and_spread


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def isotropic(rank: int, dim: int = 40, number: int = 200) -> torch.Tensor:
    """Centred rows whose spread is the same along `rank` axes and nothing along the others."""
    centred = normal(number, rank)
    return torch.linalg.qr(centred - centred.mean(0)).Q @ torch.linalg.qr(normal(dim, dim)).Q[:rank]


@pytest.mark.parametrize("rank", [1, 2, 7, 40])
def test_rank_is_the_number_of_dimensions_that_are_used(rank):
    assert rank_and_spread(5 + isotropic(rank))["effective_rank"] == pytest.approx(rank, rel=1e-3)


def test_rank_is_of_singular_values():
    rows = isotropic(40) * torch.arange(1, 41)
    values = torch.linalg.svdvals((rows - rows.mean(0)).double())
    shares = values / values.sum()
    expected = (-(shares * shares.log()).sum()).exp().item()
    assert rank_and_spread(rows)["effective_rank"] == pytest.approx(expected, rel=1e-4)


def test_fewer_rows_than_dimensions():
    found = rank_and_spread(normal(6, 300))["effective_rank"]
    assert 4.5 < found <= 5  # the mean takes one


def test_spread():
    rows = normal(400, 3) * torch.tensor([1.0, 2.0, 0.5]) + 7
    found = rank_and_spread(rows)
    assert found["embedding_spread"] == pytest.approx(3.5 / 3, rel=0.05)
    assert found["smallest_spread"] == pytest.approx(0.5, rel=0.1)


def test_the_same_embedding_for_all_images():
    assert rank_and_spread(torch.full((20, 8), 3.7)) == pytest.approx(
        {"effective_rank": 0, "embedding_spread": 0, "smallest_spread": 0}, abs=1e-5
    )


def test_512_rows_count():
    """Of which the first half spans 3 dimensions and all of them 6, each as much as the others."""
    rows = torch.zeros(512, 6)
    rows[:256, :3], rows[256:, 3:] = isotropic(3, 3, 256), isotropic(3, 3, 256)
    assert rank_and_spread(rows)["effective_rank"] == pytest.approx(6, rel=1e-3)


def test_first_rows_only_and_half_precision():
    rows = torch.cat([isotropic(3, number=512), 100 * normal(500, 40)])
    assert rank_and_spread(rows)["effective_rank"] == pytest.approx(3, rel=1e-3)
    assert rank_and_spread(normal(100, 8).bfloat16())["effective_rank"] > 7


def test_not_finite():
    assert all(math.isnan(value) for value in rank_and_spread(torch.tensor([[1.0], [float("inf")]])).values())
