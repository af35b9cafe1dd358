"""What a recipe will cost, before any training."""

import logging
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch.utils.flop_counter import FlopCounterMode

from .data.collator import MultiCropCollator
from .data.multi_crop import MultiCropTransform
from .data.photometric import apply_photometric
from .data.streaming import EndlessRows
from .modeling_lejepa import LeJEPAForPreTraining
from .recipes import Recipe
from .train import build_model, check_crops, training_source
from .training_args import cores_of_this_process

logger = logging.getLogger("lejepa_hf")

_BACKWARD = 2  # times the operations of the forward pass
_LONGEST_STEP = 3.0  # seconds; a step expected to take longer is estimated instead of made
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
        global_batch (`int`): Images a step over all processes.
        processes (`int`): Of the run as started; one unless a launcher says otherwise.
        views (`list[ViewPlan]`): Of each image.
        encoder_parameters (`int`): What is kept.
        projector_parameters (`int`): What serves training alone.
        flops_per_image (`float`): Multiplications and additions of forward and backward pass over all views.
        state_bytes (`int`): Weights, gradients and AdamW's moments on a device.
        activation_bytes (`int`): Kept for the backward pass on a device; counted on a small batch and scaled.
        view_bytes (`int`): Views of a batch in fp32.
        device (`str`): Where this process would train.
        device_bytes (`int`, *optional*): Its memory.
        workers (`int`): Loader processes of a training process; 0 if it cuts views itself.
        cores (`int`): CPU cores of this process.
        images_per_second_per_worker (`float`): Decoded and cut, measured with one thread.
        training_images_per_second (`float`): Of one process, data at hand.
        training_is_estimated (`bool`): Whether that was worked out from the operations instead of measured.
    """

    source: str
    images: int | None
    steps: int
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
    cores: int
    images_per_second_per_worker: float
    training_images_per_second: float
    training_is_estimated: bool

    @property
    def tokens_per_image(self) -> int:
        """Over all views."""
        return sum(view.number * view.tokens for view in self.views)

    @property
    def total_bytes(self) -> int:
        """On a device."""
        return self.state_bytes + self.activation_bytes + self.view_bytes

    @property
    def epochs(self) -> float | None:
        """Passes over the images."""
        return self.steps * self.global_batch / self.images if self.images else None

    @property
    def data_images_per_second(self) -> float:
        """Of all workers of one process, which share its cores, or of the process itself."""
        return self.images_per_second_per_worker * max(1, min(self.workers, self.cores))

    @property
    def images_per_second(self) -> float:
        """Of one process: the slower side, or one after the other where the process cuts views itself."""
        data, training = self.data_images_per_second, self.training_images_per_second
        return min(data, training) if self.workers else 1 / (1 / data + 1 / training)

    @property
    def data_wait_fraction(self) -> float:
        """Share of a step in which training waits for views."""
        return max(0.0, 1 - self.images_per_second / self.training_images_per_second)

    @property
    def seconds(self) -> float:
        """Of the whole training."""
        return self.steps * self.global_batch / (self.images_per_second * self.processes)


def make_plan(recipe: Recipe, num_images: int = 200) -> Plan:
    """
    Count what can be counted, measure on this machine what must be measured. Nothing is trained or written.

    Args:
        recipe ([`Recipe`]): The run.
        num_images (`int`, *optional*, defaults to 200): Images decoded and cut to measure the data side; a stream is
            read no further.

    Returns:
        [`Plan`]

    Raises:
        ValueError: If the recipe cannot be run: as in training.
    """
    if num_images < 1:
        raise ValueError(f"The number of images must be at least 1, got {num_images}.")
    data, training = recipe.data, recipe.training
    with torch.device("meta"):
        model = build_model(recipe.model, training.seed)
    check_crops(model.config, data)
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    source = training_source(data)
    global_batch = training.per_device_train_batch_size * training.world_size * training.gradient_accumulation_steps
    steps = training.max_steps
    if steps <= 0:
        if source.num_images is None:
            raise ValueError("`max_steps` is needed: the stream does not say how many images it has.")
        steps = -(-int(training.num_train_epochs * source.num_images) // global_batch)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    states = parameters * 4 * (2 + _MOMENTS) // (training.world_size if training.fsdp else 1)
    flops = (1 + _BACKWARD) * count_flops(model, data)
    activations = count_activations(model, data) * training.per_device_train_batch_size
    logger.info(f"Decoding and cutting {num_images} images of {source.name} ...")
    rate, batch = _measure_data(recipe, source, num_images)
    logger.info(f"Measuring {training.device.type} ...")
    training_rate, estimated = _training_rate(recipe, flops, batch)
    kinds = [("global", data.num_global_views, data.global_crop_size)]
    kinds += [("local", data.num_local_views, data.local_crop_size)] if data.num_local_views else []
    return Plan(
        source=source.name,
        images=source.num_images,
        steps=steps,
        global_batch=global_batch,
        processes=training.world_size,
        views=[ViewPlan(kind, number, size, count_tokens(model, data, size, kind)) for kind, number, size in kinds],
        encoder_parameters=sum(parameter.numel() for parameter in model.encoder.parameters()),
        projector_parameters=sum(parameter.numel() for parameter in model.projector.parameters()),
        flops_per_image=flops,
        state_bytes=states,
        activation_bytes=activations // (2 if training.bf16 or training.fp16 else 1),
        view_bytes=sum(4 * len(data.image_mean) * number * size**2 for _, number, size in kinds)
        * training.per_device_train_batch_size,
        device=training.device.type,
        device_bytes=_memory_of(training.device),
        workers=training.dataloader_num_workers,
        cores=cores_of_this_process(),
        images_per_second_per_worker=rate,
        training_images_per_second=training_rate,
        training_is_estimated=estimated,
    )


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
    return model.projector(torch.cat(embeddings))


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


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measure_data(recipe: Recipe, source, num_images: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Images a second of one worker, and a batch of views to train with."""
    data, training = recipe.data, recipe.training
    collator = MultiCropCollator(MultiCropTransform.from_settings(data, training.seed), source.image_column)
    rows = EndlessRows(
        source.dataset,
        batch_size=1,
        seed=training.seed,
        image_column=source.image_column,
        shuffle_buffer_size=min(num_images, training.shuffle_buffer_size),
    )
    rows = list(islice(rows, num_images))
    size = min(32, len(rows))
    with _one_thread():
        first = collator(rows[:size])  # whatever happens only once
        begin = time.process_time()
        for place in range(0, len(rows), size):
            collator(rows[place : place + size])
        rate = len(rows) / (time.process_time() - begin)
    wanted = training.per_device_train_batch_size
    times = -(-wanted // size)
    views = {name: value for name, value in first.items() if torch.is_tensor(value)}
    return rate, {name: value.repeat(times, *[1] * (value.ndim - 1))[:wanted] for name, value in views.items()}


def _training_rate(recipe: Recipe, flops_per_image: float, batch: dict[str, torch.Tensor]) -> tuple[float, bool]:
    """Images a second of this process's device, and whether that is an estimate."""
    training = recipe.training
    device, images = training.device, training.per_device_train_batch_size
    dtype = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32
    expected = images * flops_per_image / (_USUAL_SHARE * _matmul_rate(device, dtype))
    if expected > _LONGEST_STEP:
        return images / expected, True
    model = build_model(recipe.model, training.seed).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    times = []
    for step in range(4):
        _finish(device)
        begin = time.perf_counter()
        moved = {name: value.to(device) if name.endswith("_views") else value for name, value in batch.items()}
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            loss = model(**apply_photometric(moved, MultiCropTransform.from_settings(recipe.data, 0)), step=step).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        _finish(device)
        times.append(time.perf_counter() - begin)
    return images / statistics.median(times[1:]), False


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiplications and additions a second of a large matrix product."""
    side = 1024 if device.type == "cpu" else 8192
    matrix = torch.randn(side, side, device=device, dtype=dtype, generator=torch.Generator(device).manual_seed(0))
    times = []
    for _ in range(4):
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
    memory = f" of {_size(plan.device_bytes)}" if plan.device_bytes else ""
    cutters = f"{plan.workers} workers" if plan.workers else "the training process itself"
    how = "estimated from the operations" if plan.training_is_estimated else "measured"
    rows = [
        ("images", f"{plan.source}: {f'{plan.images:,}' if plan.images else 'a stream that does not say how many'}"),
        ("training", f"{plan.steps:,} steps of {plan.global_batch} images, {plan.processes} process(es){epochs}"),
        ("views of an image", f"{views}: {plan.tokens_per_image:,} tokens"),
        ("parameters", f"encoder {plan.encoder_parameters:,}, projector {plan.projector_parameters:,}"),
        ("operations", f"{plan.flops_per_image / 1e9:,.1f} GFLOP an image, forward and backward"),
        (
            "memory on a device",
            f"{_size(plan.total_bytes)}{memory}: {_size(plan.state_bytes)} weights, gradients and AdamW, "
            f"{_size(plan.activation_bytes)} activations, {_size(plan.view_bytes)} views",
        ),
        (
            "data",
            f"{plan.images_per_second_per_worker:,.0f} images/s a core, {plan.data_images_per_second:,.0f} with "
            f"{cutters} ({plan.cores} cores)",
        ),
        (plan.device, f"{plan.training_images_per_second:,.3g} images/s a process, {how}"),
        ("whole training", f"{_duration(plan.seconds)} at {plan.images_per_second * plan.processes:,.3g} images/s"),
    ]
    lines = [f"{name:<20}{value}" for name, value in rows]
    if plan.device_bytes and plan.total_bytes > plan.device_bytes:
        lines.append(
            "It will not fit: lower `per_device_train_batch_size` (with `gradient_accumulation_steps` and "
            "`exact_accumulation` the loss stays that of the large batch), or set `gradient_checkpointing`."
        )
    return "\n".join([*lines, _verdict(plan)])


def _verdict(plan: Plan) -> str:
    wait = plan.data_wait_fraction
    if plan.device == "cpu" and plan.workers:
        return "Workers and training share the cores of this machine: expect less than either figure."
    if plan.workers == 0:
        return f"Views are cut between steps, {wait:.0%} of the time: set `dataloader_num_workers` if cores are idle."
    if wait > 0.1:
        needed = plan.workers / (1 - wait)
        return (
            f"The {plan.device} will wait for data {wait:.0%} of the time: it needs {needed:.0f} workers for "
            f"{plan.workers}. More `dataloader_num_workers` and cores, smaller images, or fewer views."
        )
    spare = plan.data_images_per_second / plan.training_images_per_second
    return f"The data will wait: it comes {spare:.1f} times as fast as the {plan.device} takes it."


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.0f} min" if seconds > 120 else f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
