"""The arguments that a Trainer works with: its own copy, epochs counted in steps, fitting schedules."""

import copy
import inspect
import logging
import math
from typing import Any, TypeVar

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from transformers import TrainingArguments, get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR
from transformers.trainer_utils import SchedulerType

from ..system.number_range import NumberRange

logger = logging.getLogger("lejepa_hf")

PUBLISHED_KWARGS = {"min_lr_rate": 1e-3}
# Two of the functions hand all their arguments on to a class.
_CLASSES = {SchedulerType.REDUCE_ON_PLATEAU: ReduceLROnPlateau, SchedulerType.GREEDY: GreedyLR}
_MAKERS: dict[SchedulerType, Any] = {**TYPE_TO_SCHEDULER_FUNCTION, **_CLASSES}
_NOT_KWARGS = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch")

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def fitting_kwargs(
    kind: SchedulerType | str, given: dict[str, Any] | str | None, learning_rate: float = 5e-4
) -> dict[str, Any] | None:
    """Checked arguments of a learning rate schedule; as published, the cosine ends at a thousandth of the peak."""
    kind = SchedulerType(kind)
    if given is None:
        given = dict(PUBLISHED_KWARGS) if kind == SchedulerType.COSINE_WITH_MIN_LR else None
    elif given == PUBLISHED_KWARGS and kind.value.startswith("constant"):
        given = None  # recipes of version 0.1.0 hold the default of the cosine beside every type
    if isinstance(given, str):
        raise ValueError(f"`lr_scheduler_kwargs` must be names and values, as '{{\"min_lr\": 1e-6}}', got {given!r}.")
    taken = inspect.signature(_MAKERS[kind]).parameters
    known = [name for name in taken if name not in _NOT_KWARGS]
    unknown = ", ".join(f"`{name}`" for name in given or {} if name not in known)
    if unknown:
        raise ValueError(
            f"`lr_scheduler_kwargs`: {unknown} does not fit `lr_scheduler_type` {kind.value!r}, which takes "
            f"{', '.join(known) or 'none'}."
        )
    for name, value in (given or {}).items():
        if isinstance(value, int | float):  # transformers hides NaN and negative rates, which become 0
            NumberRange(0).check(f"lr_scheduler_kwargs.{name}", value)
    try:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)
        _check_factors(get_scheduler(kind, optimizer, 1, 10, given))
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(
            f"`lr_scheduler_kwargs` {given} do not make a schedule of `lr_scheduler_type` {kind.value!r}: {error}"
        ) from error
    return given


def _check_factors(schedule: LRScheduler) -> None:
    """Refuse a schedule whose learning rates leave [0, the peak] in ten steps with one of warmup."""
    for factor in schedule.lr_lambdas if isinstance(schedule, LambdaLR) else ():
        found = [float(factor(step)) for step in range(11)]
        wrong = [value for value in found if not 0 <= value <= 1 + 1e-6]
        if wrong:
            raise ValueError(f"it would reach {wrong[0]:g} times `learning_rate`, which must stay in [0, 1].")


def count_steps(args: TrainingArguments, num_images: int | None, global_batch: int) -> int:
    """Number of steps of a run; ValueError for a stream that does not say how many images its epochs have."""
    if args.max_steps > 0:
        return args.max_steps
    if num_images is None:
        raise ValueError("`max_steps` is needed: the stream does not say how many images it has.")
    return math.ceil(args.num_train_epochs * num_images / global_batch)


def own_arguments(args: Arguments, num_images: int | None, global_batch: int) -> Arguments:
    """
    A Trainer's own copy of the arguments, with `max_steps`, and with 'steps' in place of each strategy 'epoch'. A
    stream that does not say its number of images is refused where epochs must be counted. `push_to_hub` is false in
    the copy: a callback pushes checkpoints, not transformers.
    """
    own = copy.copy(args)
    own.accelerator_config = copy.deepcopy(args.accelerator_config)  # transformers writes into it
    own.push_to_hub = False
    own.max_steps = count_steps(own, num_images, global_batch)
    if own.get_warmup_steps(own.max_steps) > own.max_steps:
        logger.warning(
            f"`warmup_steps` {own.warmup_steps} is more than the {own.max_steps} steps of this run: the learning rate "
            f"never reaches `learning_rate` {own.learning_rate}. Below 1 it is a share of all steps."
        )
    for name in ("logging", "eval", "save"):
        strategy = vars(own)[f"{name}_strategy"]
        if strategy != "epoch":
            continue
        if num_images is None:
            raise ValueError(
                f"`{name}_strategy` 'epoch' needs the number of images, which this stream does not say: use 'steps' "
                f"with `{name}_steps`."
            )
        steps = math.ceil(num_images / global_batch)
        setattr(own, f"{name}_strategy", type(strategy)("steps"))
        setattr(own, f"{name}_steps", steps)
        if name == "eval":
            own.eval_delay *= steps
    return own
