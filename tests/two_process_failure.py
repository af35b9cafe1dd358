"""Run in several processes: one rank fails, or is set to something else, and all of them learn of it."""

import os
import sys

import pytest
import torch.distributed as dist

from lejepa_hf.system.distributed import failing_together, process_index, starting_together, world_size


def together() -> None:
    """For tests/system/test_distributed.py."""
    try:
        with starting_together():
            if os.environ["RANK"] == "1":
                raise ValueError("no such recipe")
    except (ValueError, RuntimeError) as error:
        sys.stdout.write(f"rank {os.environ['RANK']} at the start: {error!r}\n")
    dist.init_process_group("gloo")
    with failing_together():
        pass
    try:
        with failing_together():
            if process_index() == 1:
                raise OSError("no room")
    except (OSError, RuntimeError) as error:
        sys.stdout.write(f"rank {process_index()}: {error!r}\n")
    assert world_size() == 3
    dist.destroy_process_group()


def settings() -> None:
    """For tests/training/test_launch_checks.py."""
    from accelerate import PartialState

    from lejepa_hf.training.launch_checks import check_same_everywhere

    state = PartialState(cpu=True)
    check_same_everywhere({"`seed`": 0, "`hidden_sizes`": [8, 16]})
    for values in ({"`seed`": state.process_index}, {"`seed`": 0} if state.process_index else {}):
        with pytest.raises(ValueError, match="same command") as raised:
            check_same_everywhere(values)
        sys.stdout.write(f"rank {state.process_index}: {raised.value}\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    {"together": together, "settings": settings}[sys.argv[1]]()
