"""Signals that end a run, SIGTERM from clusters and SIGINT from Ctrl+C: save a checkpoint, then stop."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from transformers import TrainerCallback, TrainerControl, TrainerState

from ..system.distributed import AnyRank, is_first_rank

logger = logging.getLogger("lejepa_hf")

EXIT_STATUS = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT  # what shells report for a command that Ctrl+C ended

_ONCE = "SIGINT: stopping after this step, with a checkpoint; Ctrl+C again ends at once."


class Preemption(TrainerCallback):
    """Stops training after the current step, with a checkpoint, when any process has received SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self.stopped = False
        self._received: signal.Signals | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """
        Train within this context, which all ranks enter. The first SIGTERM or SIGINT does not end the process there,
        if this is the main thread, as Python requires. SIGINT becomes a KeyboardInterrupt at the end of the context; a
        second one has the effect that it had before.
        """
        self.stopped, self._received = False, None
        self._any_rank = AnyRank()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
        if self._before[signal.SIGINT] in (signal.SIG_IGN, None):  # of a job in the background, or not Python's
            del self._before[signal.SIGINT]
        for signum in self._before:
            signal.signal(signum, self._receive)
        try:
            yield
        finally:
            for signum, handler in self._before.items():
                signal.signal(signum, handler)
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(signum)
        if signum == signal.SIGINT:
            signal.signal(signum, self._before[signal.SIGINT])
            if is_first_rank():
                # Not through a buffer, which may be in use where the signal arrived.
                os.write(2, f"\n{_ONCE}\n".encode())

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Stop if any process has received a signal."""
        # The last step saves a checkpoint anyway, and the remaining time is better spent on the run's results.
        if self._any_rank(self._received is not None) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True
            name = (self._received or signal.SIGTERM).name
            logger.warning(f"{name}: saving step {state.global_step} and stopping.")


@contextmanager
def second_interrupt_ends() -> Iterator[None]:
    """
    Let SIGINT end the process without a traceback within this context: what a second one then does in
    [`Preemption.listening`], also when the process waits for another. For commands; notebooks need KeyboardInterrupt.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
