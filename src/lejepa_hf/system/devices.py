"""Where work is done that nobody gave a place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORTH_A_THREAD = 2**24  # multiplications: with fewer, threads mostly wait for each other, for ever on a busy machine


def default_device() -> torch.device:
    """The accelerator of this process if there is one, or the CPU."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


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
