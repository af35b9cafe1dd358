"""Callbacks with something to keep in checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback, TrainerState, TrainingArguments


class StatefulCallback(TrainerCallback, ABC):
    """Saves tensors in checkpoints, on every rank; `ExportableState` of transformers saves JSON of the first rank."""

    @abstractmethod
    def save_state(self, folder: Path) -> None:
        """Write the state into a checkpoint folder. Every rank calls this."""

    @abstractmethod
    def load_state(self, folder: Path) -> None:
        """Read what [`save_state`] wrote. Every rank calls this, after training has begun."""


class StateLoader(TrainerCallback):
    """Loads stateful callbacks from the checkpoint a run resumes from, and at the end from that of the best model."""

    def __init__(self, callbacks: Callable[[], list[StatefulCallback]]) -> None:
        self._callbacks = callbacks
        self.checkpoint: str | None = None

    def load(self, checkpoint: str) -> None:
        """Load all states from a checkpoint folder."""
        for callback in self._callbacks():
            callback.load_state(Path(checkpoint))

    def on_epoch_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Load, now that model, optimizer and all callbacks are ready."""
        if self.checkpoint is not None:
            self.load(self.checkpoint)
            self.checkpoint = None

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: object, **kwargs: object) -> None:
        """Load the states of the best model, which the Trainer has just loaded."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.load(state.best_model_checkpoint)
