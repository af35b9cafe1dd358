"""LogLines: what a run prints while it trains, one aligned line for each logged row."""

import time

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerState, TrainingArguments

from ...system.quiet import is_quiet
from .monitor import Row

_COLUMNS = {  # title: name in a row and its format
    "loss": ("loss", "{:.4g}"),
    "prediction": ("prediction_loss", "{:.4g}"),
    "SIGReg": ("sigreg_loss", "{:.4g}"),
    "rank": ("effective_rank", "{:.1f}"),
    "probe": ("online_probe_top1", "{:.1%}"),
    "k-NN": ("knn_top1", "{:.1%}"),
    "images/s": ("images_per_second", "{:.0f}"),
    "waiting": ("data_wait_fraction", "{:.0%}"),
}
_NARROWEST = 7
_HELD_OUT = "eval_"
_LINES = 25  # from one heading to the next


class LogLines(TrainerCallback):
    """
    Prints one line for each logged row, in columns, and one for each evaluation of held-out images, except where it is
    quiet. All values of a row are in `metrics.jsonl`, and trackers get them too.
    """

    def __init__(self) -> None:
        self._lines = 0

    def on_train_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Start the clock that the time left follows from."""
        self._began, self._first_step, self._lines = time.monotonic(), state.global_step, 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: object,
        logs: Row | None = None,
        **kwargs: object,
    ) -> None:
        """Print the row."""
        if not state.is_world_process_zero or not logs or is_quiet():
            return
        if "loss" in logs:
            self._print(state, logs, "", self._time_left(state))
        elif f"{_HELD_OUT}loss" in logs:
            self._print(state, logs, _HELD_OUT, "held out")
        elif "train_runtime" in logs:
            tqdm.write(f"{state.global_step:,} steps in {tqdm.format_interval(logs['train_runtime'])}")

    def _print(self, state: TrainerState, logs: Row, prefix: str, last: str) -> None:
        titles = [
            "step".rjust(len(str(state.max_steps))),
            *(title.rjust(_NARROWEST) for title in _COLUMNS),
            "time left",
        ]
        if self._lines % _LINES == 0:
            tqdm.write("  ".join(titles))
        self._lines += 1
        values = ((logs.get(prefix + name), form) for name, form in _COLUMNS.values())
        cells = [
            str(state.global_step),
            *("" if value is None else form.format(value) for value, form in values),
            last,
        ]
        tqdm.write("  ".join(cell.rjust(len(title)) for cell, title in zip(cells, titles, strict=True)))

    def _time_left(self, state: TrainerState) -> str:
        done = state.global_step - self._first_step
        if done < 1:
            return ""
        return tqdm.format_interval((time.monotonic() - self._began) / done * (state.max_steps - state.global_step))
