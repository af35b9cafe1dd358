"""Callbacks with something to keep in checkpoints."""

from abc import ABC, abstractmethod
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
