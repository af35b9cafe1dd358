"""What a run will cost, before any training."""

from dataclasses import dataclass

import torch

from ..data.view_settings import ViewSettings
from ..modeling_lejepa import LeJEPAForPreTraining
from ..training_args import LeJEPATrainingArguments
from .initial_model import build_config
from .measurement import CountedCosts, Measurement, measure, memory_of
from .recipe_sources import training_source
from .recipes import Recipe
from .resolving import resolve
from .step_costs import count_activations, count_flops, count_tokens

_BACKWARD = 2  # FLOPs of the backward pass, in those of the forward pass
_MOMENTS = 2  # of AdamW, in the precision of the weights


@dataclass(frozen=True)
class ViewPlan:
    """
    Views of one size.

    Args:
        kind (`str`): `global` or `local`.
        number (`int`): Views of an image.
        size (`int`): Side in pixels.
        tokens (`int`): Positions of the backbone's last layer, class and register tokens included.
    """

    kind: str
    number: int
    size: int
    tokens: int


@dataclass(frozen=True)
class Plan:
    """
    What a run will do, and what it will cost.

    Args:
        source (`str`): Name of the training images.
        images (`int`, *optional*): Images per epoch; None for a stream of unknown length.
        steps (`int`): Optimiser steps.
        batch (`int`): Images per process and micro-batch.
        global_batch (`int`): Images per step over all processes.
        processes (`int`): Training processes as started now; one unless a launcher starts more.
        views (`list[ViewPlan]`): Views of each image, by size.
        encoder_parameters (`int`): Parameters that are exported.
        projector_parameters (`int`): Parameters that only training needs.
        flops_per_image (`float`): Multiplications and additions of forward and backward pass over all views.
        state_bytes (`int`): Weights, gradients and AdamW's moments on a device, counted.
        activation_bytes (`int`): Memory that a batch keeps for the backward pass; counted on a small batch and scaled.
        view_bytes (`int`): Views of a batch in fp32, counted.
        device (`str`): Type of the device that this process would train on.
        device_bytes (`int`, *optional*): Memory of that device.
        workers (`int`): Loader processes of a training process; 0 if it cuts views itself.
        measured ([`~runs.measurement.Measurement`]): Speed and memory of a process.
    """

    source: str
    images: int | None
    steps: int
    batch: int
    global_batch: int
    processes: int
    views: list[ViewPlan]
    encoder_parameters: int
    projector_parameters: int
    flops_per_image: float
    state_bytes: int
    activation_bytes: int
    view_bytes: int
    device: str
    device_bytes: int | None
    workers: int
    measured: Measurement

    @property
    def tokens_per_image(self) -> int:
        """Tokens of all views of an image."""
        return sum(view.number * view.tokens for view in self.views)

    @property
    def is_estimated(self) -> bool:
        """Whether speed and memory were derived from fewer images or from counted operations."""
        return self.measured.batch != self.batch

    @property
    def images_per_second(self) -> float:
        """Images per second of all processes."""
        return self.measured.images_per_second * self.processes

    @property
    def epochs(self) -> float | None:
        """Passes over the images, None for a stream of unknown length."""
        return self.steps * self.global_batch / self.images if self.images else None

    @property
    def seconds_per_epoch(self) -> float | None:
        """Time of a pass over the images, None for a stream of unknown length."""
        return self.images / self.images_per_second if self.images else None

    @property
    def seconds(self) -> float:
        """Time of the complete training."""
        return self.steps * self.global_batch / self.images_per_second


def make_plan(recipe: Recipe, seconds: float = 10.0) -> Plan:
    """
    Count what can be counted, and measure the rest in a dry run on this machine, which leaves nothing behind.

    Args:
        recipe ([`Recipe`]): Recipe of the run.
        seconds (`float`, *optional*, defaults to 10.0): Duration of the dry run, see [`~runs.dry_run.dry_run`].

    Returns:
        [`Plan`]

    Raises:
        ValueError: If the recipe cannot be run: as in training.
    """
    recipe = resolve(recipe)
    data, training, batch = recipe.data, recipe.training, recipe.training.per_device_train_batch_size
    with torch.device("meta"):
        model = LeJEPAForPreTraining(build_config(recipe.model, training.seed, recipe.earlier))
    if training.recomputes_activations:
        _recompute_activations(model)
    source = training_source(data)
    global_batch = batch * training.world_size * training.gradient_accumulation_steps
    steps = _count_steps(training, source.num_images, global_batch)
    flops = (1 + _BACKWARD) * count_flops(model, data)
    activations = count_activations(model, data) // (2 if training.bf16 or training.fp16 else 1)
    views = _plan_views(model, data)
    view_bytes = sum(4 * data.num_channels * view.number * view.size**2 for view in views)
    states = _count_states(model, training)
    return Plan(
        source=source.name,
        images=source.num_images,
        steps=steps,
        batch=batch,
        global_batch=global_batch,
        processes=training.world_size,
        views=views,
        encoder_parameters=sum(parameter.numel() for parameter in model.encoder.parameters()),
        projector_parameters=sum(parameter.numel() for parameter in model.projector.parameters()),
        flops_per_image=flops,
        state_bytes=states,
        activation_bytes=activations * batch,
        view_bytes=view_bytes * batch,
        device=training.device.type,
        device_bytes=memory_of(training.device),
        workers=training.dataloader_num_workers or 0,
        measured=measure(recipe, seconds, CountedCosts(flops, states, activations + view_bytes)),
    )


def _recompute_activations(model: LeJEPAForPreTraining) -> None:
    # transformers calls it checkpointing of activations from 5.23 on
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def _count_steps(training: LeJEPATrainingArguments, images: int | None, global_batch: int) -> int:
    if training.max_steps > 0:
        return training.max_steps
    if images is None:
        raise ValueError("`max_steps` is needed: the stream does not say how many images it has.")
    return -(-int(training.num_train_epochs * images) // global_batch)


def _count_states(model: LeJEPAForPreTraining, training: LeJEPATrainingArguments) -> int:
    """Bytes of weights, gradients and AdamW's moments on a device."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters * 4 * (2 + _MOMENTS) // (training.world_size if training.fsdp else 1)


def _plan_views(model: LeJEPAForPreTraining, data: ViewSettings) -> list[ViewPlan]:
    kinds = [("global", data.num_global_views, data.global_crop_size)]
    kinds += [("local", data.num_local_views, data.local_crop_size)] if data.num_local_views else []
    return [ViewPlan(kind, number, size, count_tokens(model, data, size, kind)) for kind, number, size in kinds]
