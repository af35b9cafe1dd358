"""SIGTERM, as clusters send it before they take a machine away: a checkpoint at once, then the end."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..system.distributed import AnyRank

logger = logging.getLogger("lejepa_hf")

EXIT_STATUS = 128 + signal.SIGTERM


class Preemption(TrainerCallback):
    """Ends the training behind the current step, with a checkpoint, when any process received SIGTERM."""

    def __init__(self) -> None:
        self.stopped = False
        self._received = False
        self._any_rank: AnyRank | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """SIGTERM is noted instead of killing; in the main thread only, Python allows no other to listen."""
        self.stopped = self._received = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self._received = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Agree with the other processes how to ask each other."""
        self._any_rank = AnyRank()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """End the training if any process received the signal."""
        # After the last step everything is saved anyway, and the run's results are worth the rest of the time.
        if self._any_rank is not None and self._any_rank(self._received) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
            logger.warning(f"SIGTERM: saving step {state.global_step} and stopping.")
