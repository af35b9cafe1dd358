"""Where work is done that nobody gave a place."""

import torch


def default_device() -> torch.device:
    """The accelerator of this process if there is one, or the CPU."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
