"""Whether the packages of trackers in `report_to` are installed, known without importing them."""

from collections.abc import Sequence
from importlib.util import find_spec

# Tracker -> modules of which it needs one; the first one is also what pip calls it.
_MODULES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    **{
        name: (name,)
        for name in ("clearml", "codecarbon", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio", "wandb")
    },
}


def check_trackers(report_to: str | Sequence[str] | None) -> None:
    """Refuse a tracker whose package is not installed; others are left to transformers, as `all` and `none` are."""
    for name in [report_to] if isinstance(report_to, str) else report_to or []:
        modules = _MODULES.get(name, ())
        if modules and not any(map(find_spec, modules)):
            raise ValueError(
                f"`report_to` {name!r}: its package is not installed: `pip install {modules[0]}`, or leave it out."
            )
