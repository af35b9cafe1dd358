"""What a recipe will cost, before any training."""

import logging
import os
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..modeling_lejepa import LeJEPAForPreTraining
from .dry_run import peak_resident_bytes, rehearse
from .initial_model import build_config
from .recipe_sources import training_source
from .recipes import Recipe
from .resolving import resolve

logger = logging.getLogger("lejepa_hf")

_BACKWARD = 2  # times the operations of the forward pass
_LONGEST_STEP = 5.0  # seconds; where a step is expected to take longer, one with fewer images is rehearsed
_FEWEST_IMAGES = 4  # of such a step; half of them still make a distribution
_USUAL_SHARE = 0.4  # of a large matrix product's rate that a training step reaches
_MOMENTS = 2  # of AdamW, in the precision of the weights


@dataclass
class ViewPlan:
    """
    Args:
        kind (`str`): `global` or `local`.
        number (`int`): Views of an image.
        size (`int`): Side in pixels.
        tokens (`int`): Places of the backbone's last layer, class and register tokens included.
    """

    kind: str
    number: int
    size: int
    tokens: int


@dataclass
class Plan:
    """
    Args:
        source (`str`): The images.
        images (`int`, *optional*): Of an epoch; None for a stream that does not say.
        steps (`int`): Optimiser steps.
        batch (`int`): Images of a process and micro-batch.
        global_batch (`int`): Images a step over all processes.
        processes (`int`): Of the run as started; one unless a launcher says otherwise.
        views (`list[ViewPlan]`): Of each image.
        encoder_parameters (`int`): What is kept.
        projector_parameters (`int`): What serves training alone.
        flops_per_image (`float`): Multiplications and additions of forward and backward pass over all views.
        state_bytes (`int`): Weights, gradients and AdamW's moments on a device, counted.
        activation_bytes (`int`): Kept for the backward pass on a device; counted on a small batch and scaled.
        view_bytes (`int`): Views of a batch in fp32, counted.
        device (`str`): Where this process would train.
        device_bytes (`int`, *optional*): Its memory.
        workers (`int`): Loader processes of a training process; 0 if it cuts views itself.
        rehearsed_batch (`int`): Images of a micro-batch in the rehearsal; fewer than `batch` if a step would have
            taken too long, 0 if there was none.
        images_per_second (`float`): Of one process with its workers.
        data_wait_fraction (`float`): Share of a step in which training waits for views.
        process_bytes (`int`): Most memory resident of a training process.
        worker_bytes (`int`): The same of each of its workers; pages shared with the process count in both.
        used_bytes (`int`): Most memory a process takes on its device: on a CPU `process_bytes`, on a GPU what PyTorch
            reserves.
        allocated_bytes (`int`): What of it is allocated at most on a GPU; 0 on a CPU.
        fits (`bool`): Whether the device has that.
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
    rehearsed_batch: int
    images_per_second: float
    data_wait_fraction: float
    process_bytes: int
    worker_bytes: int
    used_bytes: int
    allocated_bytes: int
    fits: bool

    @property
    def tokens_per_image(self) -> int:
        """Over all views."""
        return sum(view.number * view.tokens for view in self.views)

    @property
    def is_estimated(self) -> bool:
        """Whether speed and memory were worked out from fewer images or from the operations."""
        return self.rehearsed_batch != self.batch

    @property
    def epochs(self) -> float | None:
        """Passes over the images."""
        return self.steps * self.global_batch / self.images if self.images else None

    @property
    def seconds_per_epoch(self) -> float | None:
        """Time of a pass over the images."""
        return self.images / (self.images_per_second * self.processes) if self.images else None

    @property
    def seconds(self) -> float:
        """Of the whole training."""
        return self.steps * self.global_batch / (self.images_per_second * self.processes)


def make_plan(recipe: Recipe, seconds: float = 10.0) -> Plan:
    """
    Count what can be counted, rehearse on this machine what must be measured. Nothing of it is kept.

    Args:
        recipe ([`Recipe`]): The run.
        seconds (`float`, *optional*, defaults to 10.0): Of training to measure, see [`~runs.dry_run.rehearse`].

    Returns:
        [`Plan`]

    Raises:
        ValueError: If the recipe cannot be run: as in training.
    """
    recipe = resolve(recipe)
    data, training = recipe.data, recipe.training
    with torch.device("meta"):
        model = LeJEPAForPreTraining(build_config(recipe.model, training.seed, recipe.earlier))
    if training.recomputes_activations:
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable()
    source = training_source(data)
    batch = training.per_device_train_batch_size
    global_batch = batch * training.world_size * training.gradient_accumulation_steps
    steps = training.max_steps
    if steps <= 0:
        if source.num_images is None:
            raise ValueError("`max_steps` is needed: the stream does not say how many images it has.")
        steps = -(-int(training.num_train_epochs * source.num_images) // global_batch)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    states = parameters * 4 * (2 + _MOMENTS) // (training.world_size if training.fsdp else 1)
    flops = (1 + _BACKWARD) * count_flops(model, data)
    activations = count_activations(model, data) // (2 if training.bf16 or training.fp16 else 1)
    kinds = [("global", data.num_global_views, data.global_crop_size)]
    kinds += [("local", data.num_local_views, data.local_crop_size)] if data.num_local_views else []
    view_bytes = sum(4 * len(data.image_mean) * number * size**2 for _, number, size in kinds)
    measured = _measure(recipe, seconds, flops, states, activations + view_bytes)
    return Plan(
        source=source.name,
        images=source.num_images,
        steps=steps,
        batch=batch,
        global_batch=global_batch,
        processes=training.world_size,
        views=[ViewPlan(kind, number, size, count_tokens(model, data, size, kind)) for kind, number, size in kinds],
        encoder_parameters=sum(parameter.numel() for parameter in model.encoder.parameters()),
        projector_parameters=sum(parameter.numel() for parameter in model.projector.parameters()),
        flops_per_image=flops,
        state_bytes=states,
        activation_bytes=activations * batch,
        view_bytes=view_bytes * batch,
        device=training.device.type,
        device_bytes=_memory_of(training.device),
        workers=training.dataloader_num_workers,
        **measured,
    )


def _measure(recipe: Recipe, seconds: float, flops: float, states: int, bytes_per_image: int) -> dict:
    """Speed and memory of a process, from a rehearsal if one can be made, else from what was counted."""
    training = recipe.training
    device, batch, memory = training.device, training.per_device_train_batch_size, _memory_of(training.device)
    dtype = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32
    expected = flops / (_USUAL_SHARE * _matmul_rate(device, dtype))  # seconds an image

    def is_quick(images: int) -> bool:
        roomy = memory is None or states + images * bytes_per_image < memory
        return roomy and images * training.gradient_accumulation_steps * expected <= _LONGEST_STEP

    few = batch
    while few >= 2 * _FEWEST_IMAGES and not is_quick(few):
        few //= 2
    # What several processes share a single one may not hold, and would not show.
    can_rehearse = is_quick(few) and not training.fsdp
    result = rest = None
    if can_rehearse:
        logger.info(f"Rehearsing on {device.type} with {few} images a step ...")
        result = rehearse(recipe, few, seconds)
        rest = rehearse(recipe, few // 2, 0.0) if result and few < batch else result
    counted = states + batch * bytes_per_image
    if rest is None:
        process = peak_resident_bytes() + (counted if device.type == "cpu" else 0)
        used = process if device.type == "cpu" else counted
        return {
            "rehearsed_batch": 0,
            "images_per_second": 1 / expected,
            "data_wait_fraction": 0.0,
            "process_bytes": process,
            "worker_bytes": 0,
            "used_bytes": used,
            "allocated_bytes": 0 if device.type == "cpu" else counted,
            "fits": not can_rehearse and (memory is None or used < memory),
        }

    def at_full_batch(name: str) -> int:
        """On the straight line through both rehearsals."""
        growth = max(0, getattr(result, name) - getattr(rest, name)) * (batch - few) // (few - few // 2)
        return getattr(result, name) + growth

    process, allocated, reserved = map(at_full_batch, ("process_bytes", "allocated_bytes", "reserved_bytes"))
    used = {"cpu": process, "cuda": reserved}.get(device.type, counted)
    return {
        "rehearsed_batch": few,
        "images_per_second": result.images_per_second,
        "data_wait_fraction": result.data_wait_fraction,
        "process_bytes": process,
        "worker_bytes": at_full_batch("worker_bytes"),
        "used_bytes": used,
        "allocated_bytes": allocated,
        "fits": memory is None or used < memory,
    }


def _views_on_meta(data, batch: int) -> list[torch.Tensor]:
    channels = len(data.image_mean)
    sizes = [(data.num_global_views, data.global_crop_size), (data.num_local_views, data.local_crop_size)]
    return [torch.empty(batch * number, channels, size, size, device="meta") for number, size in sizes if number]


def _project(model: LeJEPAForPreTraining, data, batch: int) -> torch.Tensor:
    """All views of a batch through encoder and projector: what a step does but for the loss, which is small."""
    embeddings = [
        model.encoder(views, drop_tokens=model.config.drops_tokens_of(kind)).pooler_output
        for kind, views in zip(("global", "local"), _views_on_meta(data, batch), strict=False)
    ]
    return model.projector(*embeddings)


def count_tokens(model: LeJEPAForPreTraining, data, size: int, kind: str | None = None) -> int:
    """Places of the backbone's last layer for one view: tokens of a transformer, pixels of a feature map."""
    drop_tokens = kind is not None and model.config.drops_tokens_of(kind)
    model.train(drop_tokens)  # only where needed: batch norm refuses a single value
    with torch.no_grad():
        pixels = torch.empty(1, len(data.image_mean), size, size, device="meta")
        last = model.encoder(pixels, drop_tokens=drop_tokens).last_hidden_state
    return last.shape[1] if last.ndim == 3 else last[0, 0].numel()


def count_flops(model: LeJEPAForPreTraining, data) -> float:
    """Multiplications and additions of the forward pass for all views of an image; `model` on the meta device."""
    model.eval().encoder.train(model.config.token_drop_rate > 0)  # tokens are dropped in training mode alone
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _project(model, data, 1)
    return float(counter.get_total_flops())


def count_activations(model: LeJEPAForPreTraining, data) -> int:
    """Bytes an image keeps for the backward pass, in fp32; `model` on the meta device."""

    def kept(batch: int) -> int:
        storages = {}  # the storages themselves, so that none is freed and its place given to another

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = _project(model.train(), data, batch)
        of_weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        found = sum(storage.nbytes() for place, storage in storages.items() if place not in of_weights)
        del output
        return found

    # The difference of two batches: what does not grow with the batch is no activation.
    return (kept(4) - kept(2)) // 2


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiplications and additions a second of a large matrix product."""
    side = 1024 if device.type == "cpu" else 4096
    matrix = torch.randn(side, side, device=device, dtype=dtype, generator=torch.Generator(device).manual_seed(0))
    times = []
    for _ in range(12):
        _finish(device)
        begin = time.perf_counter()
        matrix @ matrix
        _finish(device)
        times.append(time.perf_counter() - begin)
    return 2 * side**3 / min(times[1:])


def _finish(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _memory_of(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def format_plan(plan: Plan) -> str:
    """The plan as text, with the verdict which side will wait."""
    epochs = f", {plan.epochs:.1f} passes over {plan.images:,} images" if plan.images else ""
    views = " + ".join(f"{view.number} x {view.size} px ({view.tokens} tokens each)" for view in plan.views)
    room = f" of {_size(plan.device_bytes)}" if plan.device_bytes else ""
    how = "rehearsed"
    if plan.is_estimated:
        how = f"estimated from {plan.rehearsed_batch} images a step" if plan.rehearsed_batch else "estimated"
    counted = (
        f"{_size(plan.state_bytes)} weights, gradients and AdamW, {_size(plan.activation_bytes)} activations, "
        f"{_size(plan.view_bytes)} views"
    )
    process = f"{_size(plan.process_bytes)} a process"
    if plan.worker_bytes:
        process += f", {_size(plan.worker_bytes)} each of its {plan.workers} workers"
    allocated = f", {_size(plan.allocated_bytes)} of it allocated at once" if plan.allocated_bytes else ""
    on_device = f"{_size(plan.used_bytes)}{room}{allocated}, {how}"
    epoch = _duration(plan.seconds_per_epoch) if plan.images else "unknown"
    speed = f"{plan.images_per_second * plan.processes:,.3g} images/s"
    waiting = f", {plan.data_wait_fraction:.0%} of the time waiting for views" if plan.rehearsed_batch else ""
    rows = [
        ("images", f"{plan.source}: {f'{plan.images:,}' if plan.images else 'a stream that does not say how many'}"),
        ("training", f"{plan.steps:,} steps of {plan.global_batch} images, {plan.processes} process(es){epochs}"),
        ("views of an image", f"{views}: {plan.tokens_per_image:,} tokens"),
        ("parameters", f"encoder {plan.encoder_parameters:,}, projector {plan.projector_parameters:,}"),
        ("operations", f"{plan.flops_per_image / 1e9:,.1f} GFLOP an image, forward and backward"),
        ("counted memory", counted),
        (f"memory on the {plan.device}", on_device),
        ("memory of the host", process),
        ("speed", f"{speed}{waiting}, {how}"),
        ("time of an epoch", epoch),
        ("whole training", _duration(plan.seconds)),
    ]
    return "\n".join([*(f"{name:<20}{value}" for name, value in rows), _verdict(plan)])


def _verdict(plan: Plan) -> str:
    wait = plan.data_wait_fraction
    if not plan.fits:
        return (
            "It does not fit: lower `per_device_train_batch_size` (with `gradient_accumulation_steps` and "
            "`exact_accumulation` the loss stays that of the large batch), or set `activation_checkpointing`."
        )
    if not plan.rehearsed_batch:
        return "Nothing was rehearsed: speed is that of other networks with as many operations, views not counted."
    if plan.workers == 0:
        return f"Views are cut between steps, {wait:.0%} of the time: set `dataloader_num_workers` if cores are idle."
    if wait <= 0.1:
        return "The data keep up."
    if plan.device == "cpu":
        return "Training and cutting views share the CPU: fewer or smaller views, or an accelerator, speed it up."
    return (
        f"The {plan.device} will wait for data {wait:.0%} of the time: it needs {plan.workers / (1 - wait):.0f} "
        f"workers for {plan.workers}. More `dataloader_num_workers` and cores, smaller images, or fewer views."
    )


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.0f} min" if seconds > 120 else f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
