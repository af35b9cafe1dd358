"""Callbacks with something to keep in checkpoints."""

from abc import ABC, abstractmethod
from pathlib import Path

from transformers import TrainerCallback


class StatefulCallback(TrainerCallback, ABC):
    """Saves tensors in checkpoints, on every rank; `ExportableState` of transformers saves JSON of the first rank."""

    resumed_from: Path | None = None  # set by the Trainer before training begins

    @abstractmethod
    def save_state(self, folder: Path) -> None:
        """Write the state into a checkpoint folder. Every rank calls this."""

    @abstractmethod
    def load_state(self, folder: Path) -> None:
        """Read what [`save_state`] wrote. Every rank calls this, after training has begun, and for the best model."""

    def on_epoch_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Load the checkpoint that the run resumes from, now that model, optimizer and all callbacks are ready."""
        if self.resumed_from is not None:
            self.load_state(self.resumed_from)
            self.resumed_from = None
