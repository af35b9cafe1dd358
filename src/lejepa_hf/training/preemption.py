"""SIGTERM, which clusters send before they take a machine away: save a checkpoint, then stop."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from transformers import TrainerCallback, TrainerControl, TrainerState

from ..system.distributed import AnyRank

logger = logging.getLogger("lejepa_hf")

EXIT_STATUS = 128 + signal.SIGTERM


class Preemption(TrainerCallback):
    """Stops training after the current step, with a checkpoint, when any process has received SIGTERM."""

    def __init__(self) -> None:
        self.stopped = False
        self._received = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """
        Train within this context, which all ranks enter. SIGTERM does not kill the process there, if this is the main
        thread, as Python requires.
        """
        self.stopped = self._received = False
        self._any_rank = AnyRank()
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

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Stop if any process has received the signal."""
        # The last step saves a checkpoint anyway, and the remaining time is better spent on the run's results.
        if self._any_rank(self._received) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
            logger.warning(f"SIGTERM: saving step {state.global_step} and stopping.")
