"""Speed and memory of a training process: from a dry run where one is possible, otherwise estimated from counts."""

import logging
import time
from collections.abc import Callable
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
    """
    Costs of a process, counted without running it.

    Args:
        flops_per_image (`float`): Multiplications and additions of forward and backward pass over all views.
        state_bytes (`int`): Weights, gradients and AdamW's moments on a device.
        image_bytes (`int`): Activations and views of an image on a device.
    """

    flops_per_image: float
    state_bytes: int
    image_bytes: int

    def batch_bytes(self, images: int) -> int:
        """Memory on a device with `images` images in a micro-batch."""
        return self.state_bytes + images * self.image_bytes


@dataclass(frozen=True)
class Measurement:
    """
    Speed and memory of one training process.

    Args:
        batch (`int`): Images of a micro-batch in the dry run; fewer than the recipe's if a step would have taken too
            long, 0 if there was no dry run.
        images_per_second (`float`): Images of the process and its workers in a second.
        data_wait_fraction (`float`): Share of a step in which training waits for views.
        process_bytes (`int`): Peak resident memory of the process.
        worker_bytes (`int`): Peak resident memory of each worker; pages shared with the process are counted in both.
        used_bytes (`int`): Peak memory of the process on its device: `process_bytes` on a CPU, PyTorch's reservation
            on a GPU.
        allocated_bytes (`int`): Peak memory allocated on a GPU, part of `used_bytes`; 0 on a CPU.
        fits (`bool`): Whether the device has that much memory.
    """

    batch: int
    images_per_second: float
    data_wait_fraction: float
    process_bytes: int
    worker_bytes: int
    used_bytes: int
    allocated_bytes: int
    fits: bool


def measure(recipe: Recipe, seconds: float, counted: CountedCosts) -> Measurement:
    """
    Measure speed and memory of a process of a run.

    Args:
        recipe ([`Recipe`]): Recipe of the run.
        seconds (`float`): Duration of the dry run after its warm-up.
        counted ([`CountedCosts`]): The process's costs as far as they can be counted.

    Returns:
        [`Measurement`]

    Raises:
        ValueError: If the recipe cannot be run: as in training.
    """
    training = recipe.training
    batch, memory = training.per_device_train_batch_size, memory_of(training.device)
    dtype = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else torch.float32
    seconds_per_image = counted.flops_per_image / (_USUAL_SHARE * _matmul_rate(training.device, dtype))

    def is_quick(images: int) -> bool:
        has_room = memory is None or counted.batch_bytes(images) < memory
        return has_room and images * training.gradient_accumulation_steps * seconds_per_image <= _LONGEST_STEP

    few = _largest_quick(batch, is_quick)
    # A dry run is one process: a model that FSDP shards over several may be too large for it.
    if training.fsdp or not is_quick(few):
        return _estimate(training.device, batch, counted, seconds_per_image, memory)
    logger.info(f"Dry run on {training.device.type} with {few} images per step ...")
    larger = dry_run(recipe, few, seconds)
    smaller = dry_run(recipe, few // 2, 0.0) if larger is not None and few < batch else larger
    if larger is None or smaller is None:
        return _out_of_memory(training.device, batch, counted, seconds_per_image)
    return _extrapolate(training.device, batch, (few, larger), (few // 2, smaller), counted, memory)


def _largest_quick(batch: int, is_quick: Callable[[int], bool]) -> int:
    """The batch, or a half, quarter and so on of it."""
    while batch >= 2 * _FEWEST_IMAGES and not is_quick(batch):
        batch //= 2
    return batch


def _estimate(
    device: torch.device, batch: int, counted: CountedCosts, seconds_per_image: float, memory: int | None
) -> Measurement:
    bytes_ = counted.batch_bytes(batch)
    on_cpu = device.type == "cpu"
    process = peak_resident_bytes() + (bytes_ if on_cpu else 0)
    used = process if on_cpu else bytes_
    fits = memory is None or used < memory
    return Measurement(0, 1 / seconds_per_image, 0.0, process, 0, used, 0 if on_cpu else bytes_, fits)


def _out_of_memory(device: torch.device, batch: int, counted: CountedCosts, seconds_per_image: float) -> Measurement:
    return replace(_estimate(device, batch, counted, seconds_per_image, memory=None), fits=False)


def _extrapolate(
    device: torch.device,
    batch: int,
    larger: tuple[int, DryRun],
    smaller: tuple[int, DryRun],
    counted: CountedCosts,
    memory: int | None,
) -> Measurement:
    """Memory at the full batch, on the straight line through both dry runs; each is given with its batch."""
    (few, result), (fewer, rest) = larger, smaller

    def at_full_batch(of_result: int, of_rest: int) -> int:
        return of_result + max(0, of_result - of_rest) * (batch - few) // (few - fewer)

    process = at_full_batch(result.process_bytes, rest.process_bytes)
    reserved = at_full_batch(result.reserved_bytes, rest.reserved_bytes)
    used = {"cpu": process, "cuda": reserved}.get(device.type, counted.batch_bytes(batch))
    return Measurement(
        batch=few,
        images_per_second=result.images_per_second,
        data_wait_fraction=result.data_wait_fraction,
        process_bytes=process,
        worker_bytes=at_full_batch(result.worker_bytes, rest.worker_bytes),
        used_bytes=used,
        allocated_bytes=at_full_batch(result.allocated_bytes, rest.allocated_bytes),
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
