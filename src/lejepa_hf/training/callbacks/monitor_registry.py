"""The monitors that `monitors` of the arguments may name."""

from collections.abc import Callable

from transformers import TrainerCallback

from .embedding_monitor import EmbeddingMonitor
from .health import HealthWatch
from .monitor import MonitoredRun
from .online_probe import OnlineProbe


def _at_evaluations(run: MonitoredRun) -> None:
    """No callback: held-out evaluations look for the name themselves."""


# Name -> what builds the callback for a run, or None where the run has nothing to measure.
MONITORS: dict[str, Callable[[MonitoredRun], TrainerCallback | None]] = {
    "embeddings": EmbeddingMonitor.for_run,
    "probe": OnlineProbe.for_run,
    "knn": _at_evaluations,
    "health": HealthWatch.for_run,
}


def check_monitors(names: list[str]) -> None:
    """
    Raises:
        ValueError: If a monitor is unknown; the message names those that are known.
    """
    unknown = [name for name in names if name not in MONITORS]
    if unknown:
        raise ValueError(f"`monitors`: {', '.join(unknown)} unknown; known are {', '.join(MONITORS)}.")


def build_monitors(names: list[str], run: MonitoredRun) -> list[TrainerCallback]:
    """The callbacks of the monitors that were asked for, where the run has something to measure."""
    built = [build(run) for name, build in MONITORS.items() if name in names]
    return [callback for callback in built if callback is not None]
