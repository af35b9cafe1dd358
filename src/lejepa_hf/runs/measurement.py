"""Speed and memory of a training process: from a dry run where one is possible, otherwise estimated from counts."""

import logging
import time
from dataclasses import dataclass, replace

import torch

from ..system.devices import memory_of
from .dry_run import DryRun, dry_run, peak_resident_bytes
from .recipes import Recipe

logger = logging.getLogger("lejepa_hf")

_LONGEST_STEP = 5.0  # seconds; where a step is expected to take longer, the dry run has fewer images
_FEWEST_IMAGES = 4  # images of such a step; half of them are still enough for a distribution
_USUAL_SHARE = 0.4  # of a large matrix product's rate, reached by a training step


@dataclass(frozen=True)
class CountedCosts:
    """What is known of a process without running it."""

    flops_per_image: float  # multiplications and additions of forward and backward pass over all views
    state_bytes: int  # weights, gradients and AdamW's moments on a device
    image_bytes: int  # activations and views of an image on a device

    def batch_bytes(self, images: int) -> int:
        """Memory on a device with `images` images in a micro-batch."""
        return self.state_bytes + images * self.image_bytes


@dataclass(frozen=True)
class Measurement:
    """Speed and peak memory of one training process."""

    batch: int  # images of a micro-batch in the dry run: fewer than the recipe's if steps are long, 0 without dry run
    images_per_second: float
    data_wait_fraction: float  # share of a step in which training waits for views
    process_bytes: int  # resident
    worker_bytes: int  # resident in each worker; pages shared with the process are counted in both
    used_bytes: int  # on the device: `process_bytes` on a CPU, PyTorch's reservation on a GPU
    allocated_bytes: int  # on a GPU, part of `used_bytes`; 0 on a CPU
    fits: bool  # whether the device has that much memory


def measure(recipe: Recipe, seconds: float, counted: CountedCosts) -> Measurement:
    """Measure a process of a run in a dry run that lasts `seconds` after its warm-up, or estimate it from counts."""
    training = recipe.training
    batch, memory = training.per_device_train_batch_size, memory_of(training.device)
    dtype = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32
    seconds_per_image = counted.flops_per_image / (_USUAL_SHARE * _matmul_rate(training.device, dtype))

    def is_quick(images: int) -> bool:
        has_room = memory is None or counted.batch_bytes(images) < memory
        return has_room and images * training.gradient_accumulation_steps * seconds_per_image <= _LONGEST_STEP

    few = batch
    while few >= 2 * _FEWEST_IMAGES and not is_quick(few):
        few //= 2
    estimate = _estimate(training.device, batch, counted, seconds_per_image, memory)
    # A dry run is one process: a model that FSDP shards over several may be too large for it.
    if training.fsdp or not is_quick(few):
        return estimate
    logger.info(f"Dry run on {training.device.type} with {few} images per step ...")
    larger = dry_run(recipe, few, seconds)
    smaller = dry_run(recipe, few // 2, 0.0) if larger is not None and few < batch else larger
    if larger is None or smaller is None:
        return replace(estimate, fits=False)
    return _extrapolate(training.device, batch, few, larger, smaller, counted, memory)


def _estimate(
    device: torch.device, batch: int, counted: CountedCosts, seconds_per_image: float, memory: int | None
) -> Measurement:
    bytes_ = counted.batch_bytes(batch)
    on_cpu = device.type == "cpu"
    process = peak_resident_bytes() + (bytes_ if on_cpu else 0)
    used = process if on_cpu else bytes_
    fits = memory is None or used < memory
    return Measurement(0, 1 / seconds_per_image, 0.0, process, 0, used, 0 if on_cpu else bytes_, fits)


def _extrapolate(
    device: torch.device,
    batch: int,
    few: int,
    larger: DryRun,
    smaller: DryRun,
    counted: CountedCosts,
    memory: int | None,
) -> Measurement:
    """Memory at the full batch, on the straight line through the dry runs with `few` images and with half of them."""

    def at_full_batch(name: str) -> int:
        at_few = vars(larger)[name]
        return at_few + max(0, at_few - vars(smaller)[name]) * (batch - few) // (few - few // 2)

    process, reserved = at_full_batch("process_bytes"), at_full_batch("reserved_bytes")
    used = {"cpu": process, "cuda": reserved}.get(device.type, counted.batch_bytes(batch))
    return Measurement(
        batch=few,
        images_per_second=larger.images_per_second,
        data_wait_fraction=larger.data_wait_fraction,
        process_bytes=process,
        worker_bytes=at_full_batch("worker_bytes"),
        used_bytes=used,
        allocated_bytes=at_full_batch("allocated_bytes"),
        fits=memory is None or used < memory,
    )


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiplications and additions in a second of a large matrix product."""
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
