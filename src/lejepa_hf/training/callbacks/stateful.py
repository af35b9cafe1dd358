"""Callbacks with something to keep in checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback


class StatefulCallback(TrainerCallback, ABC):
    """Saves tensors in checkpoints, on every rank; `ExportableState` of transformers saves JSON of the first rank."""

    @abstractmethod
    def save_state(self, folder: Path) -> None:
        """Write the state into a checkpoint folder. Every rank calls this."""

    @abstractmethod
    def load_state(self, folder: Path) -> None:
        """Read what [`save_state`] wrote. Every rank calls this, after training has begun, and for the best model."""


class StateLoader(TrainerCallback):
    """Calls `load` with the checkpoint that a run resumes from, once model, optimizer and all callbacks are ready."""

    def __init__(self, load: Callable[[str], None]) -> None:
        self._load = load
        self.checkpoint: str | None = None

    def on_epoch_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Load."""
        if self.checkpoint is not None:
            self._load(self.checkpoint)
            self.checkpoint = None
