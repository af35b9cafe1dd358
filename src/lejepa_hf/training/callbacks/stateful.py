"""Callbacks with something to keep in checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StatefulCallback(TrainerCallback, ABC):
    """
    A callback whose tensors are saved in checkpoints. `ExportableState` of transformers keeps text in a JSON file, of
    the first rank only.
    """

    @abstractmethod
    def save_state(self, folder: Path) -> None:
        """Write what is needed to go on into a checkpoint. Every rank calls it."""

    @abstractmethod
    def load_state(self, folder: Path) -> None:
        """Read what [`save_state`] wrote. Every rank calls it, once training has begun."""


class StateLoader(TrainerCallback):
    """
    Gives stateful callbacks the checkpoint a run continues from, and at the end that of the best model.

    Args:
        callbacks (`Callable`): The stateful callbacks of the Trainer.
    """

    def __init__(self, callbacks: Callable[[], list[StatefulCallback]]) -> None:
        self._callbacks = callbacks
        self.checkpoint: str | None = None

    def load(self, checkpoint: str) -> None:
        """Load all states from a checkpoint folder."""
        for callback in self._callbacks():
            callback.load_state(Path(checkpoint))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Once each callback has begun the training, and model and optimizer are in place."""
        if self.checkpoint is not None:
            self.load(self.checkpoint)
            self.checkpoint = None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """The Trainer has loaded the best model."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.load(state.best_model_checkpoint)
