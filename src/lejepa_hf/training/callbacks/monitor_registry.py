"""Registry of monitors: the names that the argument `monitors` takes."""

from collections.abc import Callable

from transformers import TrainerCallback

from .health import HealthWatch
from .monitor import EmbeddingMonitor, MonitoredRun
from .online_probe import OnlineProbe

# Name -> function that builds the callback of a run, or returns None if it has nothing to measure there.
MONITORS: dict[str, Callable[[MonitoredRun], TrainerCallback | None]] = {
    "embeddings": lambda run: EmbeddingMonitor(run.num_global_views),
    "probe": OnlineProbe.for_run,
    "knn": lambda run: None,  # the Trainer passes k-NN on to its held-out evaluations
    "health": HealthWatch.for_run,
}


def check_monitors(names: list[str]) -> None:
    """Refuse unknown monitors; the message names those that are known."""
    unknown = [name for name in names if name not in MONITORS]
    if unknown:
        raise ValueError(f"`monitors`: {', '.join(unknown)} unknown; known are {', '.join(MONITORS)}.")


def build_monitors(names: list[str], run: MonitoredRun) -> list[TrainerCallback]:
    """The callbacks of the named monitors, as far as they have something to measure in the run."""
    built = [build(run) for name, build in MONITORS.items() if name in names]
    return [callback for callback in built if callback is not None]
