"""Batch, accumulation, recomputation and compilation for this machine, chosen by dry runs; the loss stays the same."""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from ..modeling_lejepa import LeJEPAForPreTraining
from .plan import Plan, as_size, format_plan, make_plan
from .recipes import Recipe, known_keys, parse_recipe
from .resolving import resolve

logger = logging.getLogger("lejepa_hf")

_FEWEST_IMAGES = 4  # of a micro-batch; with fewer, a step mostly consists of calls
_WORTH_COMPILING = 1.05  # times the speed: dry runs differ by some percent, and compilation takes minutes at the start
_SLACK = 1.05  # times the memory, above which a straight line through two measurements is believed
# Its name in older versions of transformers, which do not have the new one.
_RECOMPUTES = next(key for key in ("activation_checkpointing", "gradient_checkpointing") if key in known_keys())


@dataclass(frozen=True)
class StepSettings:
    """How a process computes its part of an optimiser step."""

    batch: int  # images of a micro-batch
    accumulation: int  # micro-batches
    is_exact: bool  # whether they have the loss of one batch
    recomputes: bool  # whether activations are recomputed in the backward pass
    compiles: bool  # whether the backbone is compiled

    def values(self) -> dict[str, int | bool]:
        """The keys of a recipe."""
        return {
            "per_device_train_batch_size": self.batch,
            "gradient_accumulation_steps": self.accumulation,
            "exact_accumulation": self.is_exact,
            _RECOMPUTES: self.recomputes,
            "torch_compile": self.compiles,
        }

    def lines(self) -> list[str]:
        """As lines of a recipe."""
        return [f"{key}: {str(value).lower()}" for key, value in self.values().items()]

    def arguments(self) -> list[str]:
        """As a command line."""
        return [part for key, value in self.values().items() for part in (f"--{key}", str(value).lower())]

    def __str__(self) -> str:
        extras = [
            f"{self.accumulation} micro-batches{' with one loss' if self.is_exact else ''}" * (self.accumulation > 1),
            "activations recomputed" * self.recomputes,
            "compiled" * self.compiles,
        ]
        return ", ".join([f"{self.batch} images", *filter(None, extras)])


@dataclass(frozen=True)
class Fit:
    """What was tried, in this order, and the settings that a run should have; None if nothing fits."""

    tried: list[tuple[StepSettings, Plan]]
    chosen: StepSettings | None

    @property
    def plan(self) -> Plan:
        """The plan of the chosen settings; if nothing fits, of those tried last."""
        return next((plan for settings, plan in self.tried if settings == self.chosen), self.tried[-1][1])


def fit(recipe: str, arguments: list[str], seconds: float = 10.0) -> Fit:
    """
    Choose, by dry runs on this machine, how a step of a recipe is computed, without changing its loss.

    Args:
        recipe (`str`): File or name of a recipe.
        arguments (`list[str]`): `--key value` pairs, which win.
        seconds (`float`, *optional*, defaults to 10.0): Duration of each dry run after its warm-up.

    Raises:
        ValueError: If the recipe cannot be run.
    """
    parsed = parse_recipe(recipe, arguments)
    with torch.device("meta"):
        can_recompute = LeJEPAForPreTraining(copy.deepcopy(resolve(parsed).config)).supports_gradient_checkpointing

    def attempt(settings: StepSettings) -> Plan:
        return make_plan(parse_recipe(recipe, [*arguments, *settings.arguments()]), seconds)

    return choose(candidates(parsed, can_recompute), attempt)


def choose(settings: Iterable[StepSettings], attempt: Callable[[StepSettings], Plan]) -> Fit:
    """
    Take the first settings that fit into memory, as `attempt` measures them. On a GPU they are then tried compiled,
    and compiled where that is at least 1.05 times as fast.
    """
    tried = list[tuple[StepSettings, Plan]]()
    for one in settings:
        if _is_too_large(one, tried):
            continue
        plan = attempt(one)
        tried.append((one, plan))
        if not plan.measured.fits:
            continue
        if plan.device != "cuda" or one.compiles:
            return Fit(tried, one)
        compiled = replace(one, compiles=True)
        try:
            tried.append((compiled, attempt(compiled)))
        except RuntimeError as error:  # a machine without a compiler
            logger.warning(f"`torch_compile` is left out, because its dry run failed: {str(error).splitlines()[-1]}")
            return Fit(tried, one)
        found = tried[-1][1].measured
        is_worth_it = found.fits and found.images_per_second >= _WORTH_COMPILING * plan.measured.images_per_second
        return Fit(tried, compiled if is_worth_it else one)
    return Fit(tried, None)


def candidates(recipe: Recipe, can_recompute: bool) -> Iterator[StepSettings]:
    """
    Settings with the loss of a recipe, cheapest first: all images of a statistic in one batch; activations recomputed,
    which costs a forward pass; exact accumulation over more and more micro-batches, which costs one too, and in which
    batch norm sees one micro-batch at a time; both.
    """
    training = recipe.training
    batch, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    if training.exact_accumulation:
        batch, accumulation = batch * accumulation, 1
    ways = (False, True) if can_recompute else (False,)
    for recomputes in ways:
        yield StepSettings(batch, accumulation, False, recomputes, training.torch_compile)
    # Micro-batches of plain accumulation have a statistic each, which must stay as large; other statistics than
    # Epps-Pulley's have no exact accumulation.
    if accumulation > 1 or recipe.model.statistic != "epps_pulley":
        return
    for recomputes in ways:
        parts = 2
        while batch % parts == 0 and batch // parts >= _FEWEST_IMAGES:
            yield StepSettings(batch // parts, parts, True, recomputes, training.torch_compile)
            parts *= 2


def _is_too_large(settings: StepSettings, tried: list[tuple[StepSettings, Plan]]) -> bool:
    """Whether larger batches show, by what was counted or measured of them, that this one does not fit either."""
    larger = [plan for known, plan in tried if known.recomputes == settings.recomputes]
    if not larger or (memory := larger[-1].device_bytes) is None:
        return False
    of_images = (larger[-1].activation_bytes + larger[-1].view_bytes) * settings.batch // larger[-1].batch
    if larger[-1].state_bytes + of_images >= memory:
        return True
    measured = [(plan.batch, plan.measured.used_bytes) for plan in larger if plan.measured.batch]
    if len(measured) < 2:
        return False
    (batch, used), (last_batch, last_used) = measured[-2:]
    of_image = (used - last_used) / (batch - last_batch)
    return of_image > 0 and last_used - of_image * (last_batch - settings.batch) > _SLACK * memory


def format_fit(found: Fit) -> str:
    """The plan of the chosen settings, what was tried, and the lines of a recipe."""
    rows = [f"{'tried':<60}{'images/s':>10}{'memory':>12}  fits"]
    for settings, plan in found.tried:
        measured = plan.measured
        speed, fits = f"{plan.images_per_second:,.3g}", "yes" if measured.fits else "no"
        rows.append(f"{settings!s:<60}{speed:>10}{as_size(measured.used_bytes):>12}  {fits}")
    if found.chosen is None:
        lines = ["Nothing fits: a smaller backbone, smaller views, bf16, or FSDP2 on several GPUs need less memory."]
    else:
        except_for = ", but batch norm sees one micro-batch at a time" if found.chosen.is_exact else ""
        lines = [f"For the recipe; the loss is the same{except_for}:", *found.chosen.lines()]
    return "\n".join([format_plan(found.plan), "", *rows, "", *lines])
