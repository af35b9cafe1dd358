"""What a run will cost, before any training, in numbers and as text for the terminal."""

import copy
from dataclasses import dataclass

import torch

from ..data.class_balance import balance_classes
from ..data.normalisation import format_normalisation, measure_normalisation
from ..hub.pictures.embedding_map import MOST_ON_A_MAP
from ..modeling_lejepa import LeJEPAForPreTraining
from ..system.installed_package import find_packaged
from ..training.own_arguments import count_steps
from .final_evaluation import MOST_TRAINING
from .finishing import NUM_STATISTICS
from .measurement import CountedCosts, Measurement, measure, memory_of
from .own_images import facts_of, read_machine
from .recipe_choice import ImageFacts, choose_recipe
from .recipe_sources import fitting_source, held_out_source, training_source
from .recipe_text import load_yaml
from .recipes import Recipe
from .resolving import resolve
from .step_costs import count_activations, count_embedding_flops, count_flops, count_tokens, kinds_of_views

_BACKWARD = 2  # FLOPs of the backward pass, in those of the forward pass
_DAY = 86_400  # seconds
_MOST_ENLARGED = 2  # times the shorter side of the images that crops may have
_MOMENTS = 2  # of AdamW, in the precision of the weights


@dataclass(frozen=True)
class ViewPlan:
    """Views of one size."""

    kind: str  # global or local
    number: int  # of an image
    size: int  # side in pixels
    tokens: int  # positions of the backbone's last layer, class and register tokens included


@dataclass(frozen=True)
class Plan:
    """What a run will do, and what it will cost."""

    source: str  # name of the training images
    images: int | None  # of an epoch; None for a stream that does not say
    steps: int  # of the optimizer
    batch: int  # images of a process and micro-batch
    global_batch: int  # images of a step over all processes
    processes: int  # as started now; one unless a launcher starts more
    views: list[ViewPlan]  # of each image, by size
    encoder_parameters: int  # exported
    projector_parameters: int  # that only training needs
    flops_per_image: float  # multiplications and additions of forward and backward pass over all views
    state_bytes: int  # weights, gradients and AdamW's moments on a device, counted
    activation_bytes: int  # that a batch keeps for the backward pass; counted on a small batch and scaled
    view_bytes: int  # views of a batch in fp32, counted
    device: str  # type of the device that this process would train on
    device_bytes: int | None  # memory of that device
    workers: int  # loader processes of a training process; 0 if it cuts views itself
    measured: Measurement  # speed and memory of a process
    image_side: int  # shorter side of the images in pixels, median of a sample
    flops_after: float | None  # of one process after training; None if a stream does not say how many images it has
    fitting: str | None  # why and how to take another packaged recipe for these images; None if it is this one

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

    @property
    def seconds_after(self) -> float | None:
        """Time after training for embedding images and for statistics, at the speed of training; None as above."""
        if self.flops_after is None:
            return None
        return self.flops_after / (self.measured.images_per_second * self.flops_per_image)


def make_plan(recipe: Recipe, seconds: float = 10.0) -> Plan:
    """
    Count what can be counted, and measure the rest in a dry run on this machine, which lasts `seconds` after its
    warm-up and leaves nothing behind. A recipe that cannot be run raises the ValueError of training.
    """
    recipe = resolve(recipe)
    data, training, batch = recipe.data, recipe.training, recipe.training.per_device_train_batch_size
    with torch.device("meta"):
        model = LeJEPAForPreTraining(copy.deepcopy(recipe.config))
    if training.recomputes_activations:
        # transformers calls it checkpointing of activations from 5.23 on
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    source = training_source(data)
    if training.class_balanced:
        balance_classes(source.dataset, source.label_column, source.image_column)  # refuses labels of other kinds
    global_batch = batch * training.world_size * training.gradient_accumulation_steps
    steps = count_steps(training, source.num_images, global_batch)
    facts = facts_of(source, num_channels=data.num_channels, pixel_range=data.pixel_range)
    flops = (1 + _BACKWARD) * count_flops(model, data)
    activations = count_activations(model, data) // (2 if training.bf16 or training.fp16 else 1)
    views = [
        ViewPlan(kind, number, size, count_tokens(model, data, size, kind))
        for kind, number, size in kinds_of_views(data)
    ]
    view_bytes = sum(4 * data.num_channels * view.number * view.size**2 for view in views)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    states = parameters * 4 * (2 + _MOMENTS) // (training.world_size if training.fsdp else 1)
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
        image_side=facts.median_side,
        flops_after=_flops_after(recipe, model, source.num_images, flops / (1 + _BACKWARD)),
        fitting=_fitting_recipe(recipe, facts),
    )


def plan_normalisation(recipe: Recipe) -> str:
    """Lines for a recipe: how its training images are to be normalised, measured on some of them."""
    data = recipe.data
    source = training_source(data)
    return format_normalisation(measure_normalisation(source, data.num_channels, data.pixel_range), source.name)


def _flops_after(recipe: Recipe, model: LeJEPAForPreTraining, images: int | None, forward: float) -> float | None:
    """
    Operations of the forward passes after training: training and held-out images through the encoder, and through
    those that it is compared with; and images with all their views, `forward` operations each, for the statistics.
    """
    held_out = held_out_source(recipe.data)
    if images is None or (held_out is not None and held_out.num_images is None):
        return None
    statistics = forward * min(images, NUM_STATISTICS)
    if held_out is None:
        return statistics
    trained_on, shown, encoders = images, held_out.num_images or 0, 2 + bool(recipe.training.ema_decay)
    if held_out.label_column is None:
        trained_on, shown, encoders = min(images, MOST_TRAINING), min(shown, MOST_ON_A_MAP), 1
    elif recipe.data.mixture is not None:
        trained_on = fitting_source(recipe.data).num_images or 0
    return statistics + encoders * (trained_on + shown) * count_embedding_flops(model, recipe.data)


def _fitting_recipe(recipe: Recipe, images: ImageFacts) -> str | None:
    choice = choose_recipe(images, read_machine(recipe.training.use_cpu))
    found = load_yaml(find_packaged(choice.name).read_text(encoding="utf-8"))
    if isinstance(found, dict) and found["backbone_config"] == recipe.model.backbone_config:
        return None
    data = f" --dataset {recipe.data.dataset}" if recipe.data.dataset else ""
    return f"Recipe {choice.name} fits: {choice.reason} (`lejepa plan {choice.name}{data}`)."


def format_plan(plan: Plan) -> str:
    """The plan as text; its last line says whether it fits, and whether training will wait for data."""
    epochs = f", {plan.epochs:.1f} passes over {plan.images:,} images" if plan.images else ""
    views = " + ".join(f"{view.number} x {view.size} px ({view.tokens} tokens each)" for view in plan.views)
    room = f" of {as_size(plan.device_bytes)}" if plan.device_bytes else ""
    measured = plan.measured
    how = "measured in a dry run"
    if plan.is_estimated:
        how = f"estimated from {measured.batch} images per step" if measured.batch else "estimated"
    counted = (
        f"{as_size(plan.state_bytes)} weights, gradients and AdamW, {as_size(plan.activation_bytes)} activations, "
        f"{as_size(plan.view_bytes)} views"
    )
    process = f"{as_size(measured.process_bytes)} per process"
    if measured.worker_bytes:
        process += f", {as_size(measured.worker_bytes)} each of its {plan.workers} workers"
    allocated = f", {as_size(measured.allocated_bytes)} of it allocated at once" if measured.allocated_bytes else ""
    on_device = f"{as_size(measured.used_bytes)}{room}{allocated}, {how}"
    epoch = _duration(plan.seconds_per_epoch) if plan.seconds_per_epoch else "unknown"
    speed = f"{plan.images_per_second:,.3g} images/s"
    waiting = f", {measured.data_wait_fraction:.0%} of the time waiting for views" if measured.batch else ""
    rows = [
        ("images", f"{plan.source}: {f'{plan.images:,}' if plan.images else 'a stream of unknown length'}"),
        ("training", f"{plan.steps:,} steps of {plan.global_batch} images, {plan.processes} process(es){epochs}"),
        ("views per image", f"{views}: {sum(view.number * view.tokens for view in plan.views):,} tokens"),
        ("parameters", f"encoder {plan.encoder_parameters:,}, projector {plan.projector_parameters:,}"),
        ("operations", f"{plan.flops_per_image / 1e9:,.1f} GFLOP per image, forward and backward"),
        ("counted memory", counted),
        (f"memory on the {plan.device}", on_device),
        ("memory of the host", process),
        ("speed", f"{speed}{waiting}, {how}"),
        ("time per epoch", epoch),
        ("whole training", _duration(plan.seconds)),
        ("after training", _after(plan)),
    ]
    return "\n".join([*(f"{name:<20}{value}" for name, value in rows), *_advice(plan), _verdict(plan)])


def _after(plan: Plan) -> str:
    if plan.seconds_after is None:
        return "unknown"
    return (
        f"{_duration(plan.seconds_after)} to embed images and measure statistics, estimated; fitting probes is extra"
    )


def _advice(plan: Plan) -> list[str]:
    """What to change where a run does not fit, takes days, or enlarges its images."""
    lines = []
    if plan.fitting is not None and (not plan.measured.fits or plan.seconds > _DAY):
        lines.append(plan.fitting)
    size = max(view.size for view in plan.views)
    if size > _MOST_ENLARGED * plan.image_side:
        lines.append(
            f"Crops of {size} pixels enlarge these images, whose shorter side has {plan.image_side}, "
            f"{size / plan.image_side:.1f} times: a smaller `global_crop_size` and `local_crop_size` cost less."
        )
    return lines


def _verdict(plan: Plan) -> str:
    wait = plan.measured.data_wait_fraction
    if not plan.measured.fits:
        return (
            "It does not fit: lower `per_device_train_batch_size` (with `gradient_accumulation_steps` and "
            "`exact_accumulation` the loss stays that of the large batch), or set `activation_checkpointing`; `--fit` "
            "tries them."
        )
    if not plan.measured.batch:
        return "There was no dry run: the speed is estimated from the operations, without cutting views."
    if plan.workers == 0:
        return f"Views are cut between steps, {wait:.0%} of the time: set `dataloader_num_workers` if cores are idle."
    if wait <= 0.1:
        return "The data keep up."
    if plan.device == "cpu":
        return "Training and cutting views share the CPU: fewer or smaller views, or an accelerator, speed it up."
    return (
        f"The {plan.device} will wait for data {wait:.0%} of the time: it needs {plan.workers / (1 - wait):.0f} "
        f"workers, not {plan.workers}. More `dataloader_num_workers` and cores, smaller images, or fewer views."
    )


def as_size(number: float) -> str:
    """Bytes for people."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.0f} min" if seconds > 120 else f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
