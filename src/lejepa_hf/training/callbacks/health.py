"""HealthWatch: warns of collapse and divergence while a run can still be saved."""

import logging
import math

from transformers import TrainerCallback, TrainerState, TrainingArguments

from .monitor import MonitoredRun, Row

logger = logging.getLogger("lejepa_hf")

_NEAR_COLLAPSED = 0.9  # of SIGReg's value where all projections are the same point
_LOWEST_RANK = 2.0
_RANK_LOSS, _SPREAD_LOSS = 0.1, 0.01  # of the best seen
_LOSS_RISE = 3.0  # times the best seen
_WINDOWS = {"point": 3, "rank": 3, "spread": 3, "divergence": 5}  # in a row: one bad window is not a trend

_MORE_SIGREG = "Raise `sigreg_weight`, lower `learning_rate`, or use a longer `warmup_steps`"


class HealthWatch(TrainerCallback):
    """
    Checks every logged row and warns, once for each kind of trouble, with value, meaning and remedy.

    - Point: `sigreg_loss` is at least nine tenths of its value for projections that are all 0.
    - Rank: `effective_rank` is below 2, or below a tenth of its best value.
    - Spread: `embedding_spread` is below a hundredth of its best value.
    - Divergence: `loss` is above 3 times its best value.

    The first three are checked after warmup and must hold for 3 rows in a row, the last one for 5. A resumed run
    includes the rows it already has. Without `collapsed_sigreg`, the `sigreg_loss` of projections that are all 0
    (0.402 times the number of images in a loss, with the default quadrature), the point is not checked.
    """

    def __init__(self, collapsed_sigreg: float | None = None) -> None:
        self.collapsed_sigreg = collapsed_sigreg
        self._forget()

    def _forget(self) -> None:
        self._best = {"effective_rank": 0.0, "embedding_spread": 0.0, "loss": math.inf}
        self._in_a_row = dict.fromkeys(_WINDOWS, 0)
        self._warned: set[str] = set()

    @classmethod
    def for_run(cls, run: MonitoredRun) -> "HealthWatch":
        """The watch of a run."""
        point = run.model.sigreg.collapsed_mean
        return cls(point and point * run.images_per_statistic)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: object, **kwargs: object) -> None:
        """Start again, with the rows that a resumed run already has."""
        self._forget()
        for row in state.log_history:  # not empty after a resume: its warnings are not repeated
            self._check(row, row["step"] > args.get_warmup_steps(state.max_steps))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: object, logs: Row | None = None, **kwargs: object
    ) -> None:
        """Check the row, and warn."""
        for message in self._check(logs or {}, state.global_step > args.get_warmup_steps(state.max_steps)):
            if state.is_world_process_zero:
                logger.warning(f"Step {state.global_step}: {message}")

    def _check(self, row: dict[str, float], warmed_up: bool) -> list[str]:
        if "loss" not in row:
            return []
        for name, better in (("effective_rank", max), ("embedding_spread", max), ("loss", min)):
            if math.isfinite(row.get(name, math.nan)):
                self._best[name] = better(self._best[name], row[name])
        found = self._troubles(row, warmed_up)
        messages = []
        for kind, needed in _WINDOWS.items():
            self._in_a_row[kind] = self._in_a_row[kind] + 1 if kind in found else 0
            if self._in_a_row[kind] >= needed and kind not in self._warned:
                self._warned.add(kind)
                messages.append(found[kind])
        return messages

    def _troubles(self, row: dict[str, float], warmed_up: bool) -> dict[str, str]:
        """What is wrong with a row, by kind."""
        found = {}
        loss, best = row["loss"], self._best["loss"]
        if loss > _LOSS_RISE * best:
            found["divergence"] = (
                f"`loss` is {loss:.4g}, more than {_LOSS_RISE:g} times its best, {best:.4g}: training diverges. Lower "
                "`learning_rate`, use longer `warmup_steps` or larger batches; `--resume` continues from a checkpoint."
            )
        if not warmed_up:
            return found
        sigreg, point = row.get("sigreg_loss"), self.collapsed_sigreg
        if sigreg is not None and point is not None and sigreg >= _NEAR_COLLAPSED * point:
            found["point"] = (
                f"`sigreg_loss` is {sigreg:.4g}, no better than if all projections were the same point, "
                f"{point:.4g}: the model has collapsed. {_MORE_SIGREG}, and restart or resume an earlier checkpoint."
            )
        rank, best = row.get("effective_rank"), self._best["effective_rank"]
        if rank is not None and (rank < _LOWEST_RANK or rank < _RANK_LOSS * best):
            found["rank"] = (
                f"`effective_rank` is {rank:.3g}, its best was {best:.3g}: the embeddings collapse to few dimensions. "
                f"{_MORE_SIGREG}, or use a larger batch."
            )
        spread, best = row.get("embedding_spread"), self._best["embedding_spread"]
        if spread is not None and spread < _SPREAD_LOSS * best:
            found["spread"] = (
                f"`embedding_spread` is {spread:.3g}, its best was {best:.3g}: all images get the same embedding. "
                f"{_MORE_SIGREG}, or a lower `weight_decay`."
            )
        return found
