"""Where work is done that nobody gave a place."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORTH_A_THREAD = 2**24  # multiplications: with fewer, threads mostly wait for each other, for ever on a busy machine


def default_device() -> torch.device:
    """The accelerator of this process if there is one, or the CPU."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def cores_of_this_process() -> int:
    """CPU cores that this process may use, those of the machine shared with the other processes on it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


@contextmanager
def threads_for(multiplications: int) -> Iterator[None]:
    """
    One thread on the CPU for steps that are too small to be shared out.

    Args:
        multiplications (`int`): Of the largest single operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if multiplications < _WORTH_A_THREAD else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
