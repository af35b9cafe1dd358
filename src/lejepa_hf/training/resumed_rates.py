"""Lets a changed learning rate or weight decay take effect when a run is resumed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

# Keys of a group of parameters that change with its learning rate; the last two are OneCycleLR's.
_OF_THE_RATE = ("lr", "initial_lr", "max_lr", "min_lr")
# The same in a schedule, as lists with a number for each group.
_LISTS_OF_RATES = ("base_lrs", "max_lrs", "_last_lr")


def note_full_rates(optimizer: torch.optim.Optimizer) -> None:
    """Note the rate of each group, as most schedules do. ReduceLROnPlateau lowers the only rate that there is."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])


@contextmanager
def own_rates_kept(optimizer: torch.optim.Optimizer, lr_scheduler: object, factor: float = 1.0) -> Iterator[None]:
    """
    Let changed rates take effect on a checkpoint that is loaded within this context and replaces them by the old ones.

    Each group of parameters keeps its own rate: the one that the optimizer was made with, if that has changed.
    Otherwise `factor`, by which the `learning_rate` of the arguments has changed, multiplies the rate of each group.
    Where nothing has changed, everything stays as it was loaded, to the last bit.
    """
    asked = [(_full_rate(group), group.get("weight_decay", 0.0)) for group in optimizer.param_groups]
    yield
    groups = optimizer.param_groups
    loaded = [_full_rate(group) for group in groups]
    for group, (_, weight_decay) in zip(groups, asked, strict=True):
        if "weight_decay" in group:
            group["weight_decay"] = weight_decay
    # A checkpoint of an earlier version may lack the full rate; the loaded one may be lower by then.
    is_noted = all("initial_lr" in group for group in groups)
    rates = [rate for rate, _ in asked] if is_noted else loaded
    if rates == loaded:
        rates = [rate * factor for rate in rates]
    if rates != loaded:
        _change(groups, lr_scheduler, rates, loaded)


def _full_rate(group: dict) -> float:
    """The rate that a schedule multiplies, or the present one where no schedule has noted it."""
    return float(group.get("initial_lr", group["lr"]) or 0.0)  # None where the optimizer chooses it


def _change(groups: list[dict], lr_scheduler: object, rates: list[float], loaded: list[float]) -> None:
    ratios = [rate / before if before else 1.0 for rate, before in zip(rates, loaded, strict=True)]
    for group, ratio in zip(groups, ratios, strict=True):
        group.update({name: group[name] * ratio for name in _OF_THE_RATE if group.get(name) is not None})
    _scale(lr_scheduler, ratios)
    if type(lr_scheduler) is LambdaLR:  # exactly the rates of a run that had these from its first step on
        lr_scheduler.base_lrs = list(rates)
        for group, rate, factor in zip(groups, rates, lr_scheduler.lr_lambdas, strict=True):
            group["initial_lr"] = rate
            group["lr"] = rate * factor(lr_scheduler.last_epoch)
        lr_scheduler._last_lr = [group["lr"] for group in groups]  # what is logged


def _scale(lr_scheduler: object, ratios: list[float]) -> None:
    """Multiply the rates that a schedule has noted, and those of the schedules in it."""
    for name in _LISTS_OF_RATES:
        noted = getattr(lr_scheduler, name, None)
        if isinstance(noted, list):
            setattr(lr_scheduler, name, [rate * ratio for rate, ratio in zip(noted, ratios, strict=True)])
    for part in getattr(lr_scheduler, "_schedulers", ()):
        if isinstance(part, LRScheduler):
            _scale(part, ratios)
