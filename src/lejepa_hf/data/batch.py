"""Batch: what the collator makes of rows, with the one definition of its keys."""

from collections.abc import Mapping
from typing import Final, TypedDict

import torch

from .reader_state import ReaderPosition

GLOBAL_VIEWS: Final = "global_views"
LOCAL_VIEWS: Final = "local_views"
GLOBAL_PHOTOMETRIC: Final = "global_photometric"
LOCAL_PHOTOMETRIC: Final = "local_photometric"
# Not `labels`, a key with which the Trainer changes how it scales the loss.
PROBE_LABELS: Final = "probe_labels"
POSITION: Final = "position"
BROKEN: Final = "broken"

# For each kind of view the keys of its crops and of their random numbers; global views come first everywhere.
VIEW_KEYS: Final = {"global": (GLOBAL_VIEWS, GLOBAL_PHOTOMETRIC), "local": (LOCAL_VIEWS, LOCAL_PHOTOMETRIC)}
PHOTOMETRIC_KEYS: Final = tuple(photometric for _, photometric in VIEW_KEYS.values())
_TENSORS_OF_VIEWS = tuple(key for keys in VIEW_KEYS.values() for key in keys)


class Batch(TypedDict, total=False):
    """The views of B images, V of each."""

    global_views: torch.Tensor  # uint8 crops (B, V, C, H, W)
    local_views: torch.Tensor  # the same for local views; missing if there are none
    global_photometric: torch.Tensor  # random numbers (B, V, NUM_UNIFORMS) in [0, 1) of the photometric operations
    local_photometric: torch.Tensor
    probe_labels: torch.Tensor  # class numbers (B,), -1 where there is none; for monitors, never for the model
    position: ReaderPosition  # of the rows' reader behind this batch
    broken: list[str]  # place and error of each image that could not be decoded


def tensors_of_views(batch: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """The crops of a batch and their random numbers, without what only the Trainer reads."""
    return {key: value for key, value in batch.items() if key in _TENSORS_OF_VIEWS and isinstance(value, torch.Tensor)}
