from pathlib import Path

import pytest
import torch

from lejepa_hf.system.distributed import (
    OtherRankFailed,
    explain_lost_process,
    gather_for_loss,
    is_lost_process,
    stack_over_ranks,
    sum_for_loss,
    total_over_ranks,
    world_size,
)

SCRIPT = Path(__file__).parents[1] / "two_process_objective.py"


@pytest.mark.parametrize(
    ("norm", "sizes"), [("batch", "6,6"), ("batch", "9,3"), ("batch_per_size", "7,5"), ("layer", "7,5")]
)
def test_two_processes_are_one_on_the_joined_batch(two_processes, norm, sizes):
    assert two_processes(SCRIPT, norm, sizes).count("agrees") == 2


@pytest.mark.parametrize("sizes", ["6,6", "7,5"])
def test_sharded_parameters(two_processes, sizes):
    assert two_processes(SCRIPT, "layer", sizes, "fsdp2").count("agrees") == 2


@pytest.mark.parametrize("statistic", ["cramer_von_mises", "vcreg"])
def test_statistics_that_gather(two_processes, statistic):
    assert two_processes(SCRIPT, "layer", "7,5", "ddp", statistic).count("agrees") == 2


@pytest.mark.slow
def test_three_uneven_processes(two_processes):
    assert two_processes(SCRIPT, "batch", "2,1,5", processes=3).count("agrees") == 3


def test_what_one_rank_cannot_do_none_goes_on_with(two_processes):
    said = two_processes(SCRIPT.with_name("two_process_failure.py"), "together", processes=3)
    assert sorted(line for line in said.splitlines() if line.startswith("rank ")) == [
        "rank 0 at the start: OtherRankFailed('rank 1, ValueError: no such recipe')",
        "rank 0: OtherRankFailed('rank 1, OSError: no room')",
        "rank 1 at the start: ValueError('no such recipe')",
        "rank 1: OSError('no room')",
        "rank 2 at the start: OtherRankFailed('rank 1, ValueError: no such recipe')",
        "rank 2: OtherRankFailed('rank 1, OSError: no room')",
    ]


def test_one_process_needs_no_group():
    tensor = torch.ones(3, requires_grad=True)
    assert world_size() == 1
    assert sum_for_loss(tensor) is tensor and gather_for_loss(tensor) is tensor
    assert torch.equal(total_over_ranks(tensor), tensor) and torch.equal(stack_over_ranks(tensor), tensor[None])


def test_the_end_of_another_process_is_told_in_one_sentence():
    lost = RuntimeError("[/src/gloo/transport/tcp/pair.cc:545] Read error [::1]:5: Connection reset. Check it.\nMore")
    assert is_lost_process(lost) and is_lost_process(torch.distributed.DistNetworkError("timed out"))
    assert is_lost_process(OtherRankFailed("rank 1, OSError: no room"))
    assert not is_lost_process(RuntimeError("shapes do not fit"))
    said = explain_lost_process(lost)
    assert said.startswith("rank 0 stops, because another process has ended or cannot be reached (Read error [::1]:5:")
    assert "reset); what that" in said
