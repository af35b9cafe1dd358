import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from lejepa_hf.evaluation.embeddings.extraction import LabelledEmbeddings
from lejepa_hf.evaluation.protocols.knn import Knn, nearest_neighbours

knn = Knn().run


def overlapping_classes(rows: int, seed: int) -> LabelledEmbeddings:
    """Four classes that no method separates: an accuracy tells right neighbours and weights from wrong ones."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (rows,), generator=generator)
    centres = torch.randn(4, 8, generator=torch.Generator().manual_seed(99))
    return LabelledEmbeddings(0.6 * centres[labels] + torch.randn(rows, 8, generator=generator), labels)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("k", [1, 7, 20])
def test_equals_scikit_learn(k, temperature):
    train, test = overlapping_classes(200, 0), overlapping_classes(1500, 1)  # more queries than fit in one chunk
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(train.embeddings, train.labels)
    expected = reference.score(test.embeddings, test.labels)
    assert 0.4 < expected < 0.9
    name = "eval_knn_top1" if k == 20 else f"eval_knn{k}_top1"
    results = knn(train, test, ks=(k, 3), temperature=temperature)
    assert list(results) == [name, f"{name}_ci95", "eval_knn3_top1", "eval_knn3_top1_ci95"]
    assert results[name] == pytest.approx(expected, abs=1e-9)


def test_a_bank_in_several_blocks():
    """More images than are compared at a time, the nearest of them anywhere."""
    train, test = overlapping_classes(40_000, 0), overlapping_classes(50, 1)
    cosines, rows = nearest_neighbours(train.embeddings, test.embeddings, 7)
    every = F.normalize(test.embeddings, dim=1) @ F.normalize(train.embeddings, dim=1).T
    expected = every.topk(7)
    torch.testing.assert_close(cosines, expected.values)
    assert torch.equal(rows, expected.indices)
    assert rows.min() < 16384 < rows.max()


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**30])
def test_scale_of_the_embeddings_does_not_matter(scale):
    train, test = overlapping_classes(200, 0), overlapping_classes(300, 1)
    scaled = [LabelledEmbeddings(part.embeddings * scale, part.labels) for part in (train, test)]
    assert knn(*scaled) == knn(train, test)


def test_more_neighbours_than_images_is_all_images():
    train, test = overlapping_classes(12, 0), overlapping_classes(300, 1)
    assert list(knn(train, test, ks=(500,)).values()) == list(knn(train, test, ks=(12,)).values())


@pytest.mark.parametrize(("temperature", "winner"), [(0.07, 0), (0.001, 0), (10.0, 1)])
def test_one_near_neighbour_against_two_far_ones(temperature, winner):
    angles = torch.tensor([0.1, 1.0, -1.0])
    train = LabelledEmbeddings(torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 1, 1]))
    test = LabelledEmbeddings(torch.tensor([[1.0, 0.0]]), torch.tensor([winner]))
    assert knn(train, test, ks=(3,), temperature=temperature)["eval_knn3_top1"] == 1


def test_a_cold_vote_is_the_nearest_neighbour_alone():
    train, test = overlapping_classes(200, 0), overlapping_classes(300, 1)
    assert knn(train, test, temperature=1e-5)["eval_knn_top1"] == knn(train, test, ks=(1,))["eval_knn1_top1"]


def test_a_class_that_never_voted_is_never_guessed():
    train, test = overlapping_classes(50, 0), overlapping_classes(20, 1)
    test.labels[:] = 7
    assert knn(train, test)["eval_knn_top1"] == 0


def test_class_numbers_far_apart_vote_as_others_do():
    """Each query had a vote for all of 50 million numbers, in 200 GB."""
    train, test = overlapping_classes(200, 0), overlapping_classes(300, 1)
    apart = [LabelledEmbeddings(part.embeddings, part.labels * 50_000_000) for part in (train, test)]
    assert knn(*apart) == knn(train, test)
