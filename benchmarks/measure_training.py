"""
Parts `training-MODEL` of measure_gpu.sh: the training step at the largest batch that fits, eager and compiled, with
crops in memory and with JPEG images that workers decode; ours, the bare loop, and lightly where it is installed.
"""

import os
import sys

import benchmark_training
import torch
from benchmark_training import MODELS, peak_alone, read_options
from measure_rows import Rows, options_of_part

from lejepa_hf.system.durable_files import write_text

FIGURES = (
    "way", "batch", "workers", "precision", *(f"{part}_ms" for part in (*benchmark_training.PARTS, "total")),
    "images_per_second", "times_faster_than_bare", "mfu", "peak_mib", "data_share", "gflop_per_image", "views",
)  # fmt: skip
TINY = ["--batch_size", "4", "--steps", "2", "--skip_peak", "--global_crop_size", "32", "--local_crop_size", "16"]
TINY += ["--num_local_views", "2", "--projector_dims", "16", "8", "--num_slices", "16"]
TINY_BACKBONES = {
    "vit": {"model_type": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 32},
    "resnet": {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16],
               "depths": [1, 1]},
}  # fmt: skip
STEPS_FROM_JPEG = 40
LARGEST_BATCH, USED = 1024, 0.85  # the part of the memory that is used: each loop keeps weights and moments


def command_for(model: str, compiled: bool, images: str, options) -> list[str]:
    workers = 0 if images == "memory" else 1 if options.tiny else max(2, min(16, len(os.sched_getaffinity(0)) - 1))
    command = ["--device", options.device, "--workers", str(workers)]
    # More than a way sees, so that no loop starts its workers again; they are 64 photographs, repeated.
    number = 16 if options.tiny else (STEPS_FROM_JPEG + 2 * workers) * LARGEST_BATCH
    command += ["--views_in_memory"] if images == "memory" else ["--jpegs", str(number)]
    command += ["--compile"] if compiled else []
    if options.tiny:
        tiny = TINY_BACKBONES["vit" if model.startswith("vit") else "resnet"]
        return [*command, "--recipe", "recipes/imagenet1k/vit_s16.yaml", "--backbone_config", str(tiny), *TINY]
    return [*command, "--model", model, "--steps", "12" if images == "memory" else str(STEPS_FROM_JPEG)]


def largest_batch(command: list[str]) -> int:
    """From the peaks of two small batches, which grow in proportion; then smaller, as long as it does not fit."""
    small, large = (peak_alone(read_options([*command, "--batch_size", str(size)]), "bare loop") for size in (8, 24))
    each, fixed = (large - small) / 16, small - (large - small) / 2
    room = USED * torch.cuda.mem_get_info()[1] / 2**20 - 3 * max(0, fixed)
    batch = max(8, min(LARGEST_BATCH, int(room / each)) // 8 * 8)
    while not fits(command, batch) and batch > 8:
        batch = max(8, int(0.8 * batch) // 8 * 8)
    return batch


def fits(command: list[str], batch: int) -> bool:
    try:
        peak_alone(read_options([*command, "--batch_size", str(batch)]), "bare loop")
    except torch.OutOfMemoryError:
        return False
    return True


def batch_of(model: str, options) -> list[str]:
    """The largest batch size, for all rows of this model; found once, also if a kill follows."""
    if options.tiny:
        return []
    found = options.folder / f"batch-{model}.txt"
    if not found.is_file():
        write_text(found, str(largest_batch(command_for(model, False, "memory", options))))
    return ["--batch_size", found.read_text(encoding="utf-8")]


def measure(model: str, compiled: bool, images: str, options) -> list[dict]:
    torch._dynamo.reset()
    command = [*command_for(model, compiled, images, options), *batch_of(model, options)]
    return benchmark_training.measure(read_options(command))


def main(arguments: list[str] | None = None) -> int:
    parser = options_of_part(__doc__)
    parser.add_argument("model", choices=MODELS)
    options = parser.parse_args(arguments)
    rows = Rows(options.folder / f"training-{options.model}.csv", ("model", "compiled", "images"), FIGURES)
    for images in ("memory", "JPEG"):
        for compiled in (False, True):
            if compiled and options.tiny and images == "JPEG":
                continue
            case = {"model": options.model, "compiled": compiled, "images": images}
            rows.measure(case, lambda case=case: measure(*case.values(), options))
    return rows.problems()


if __name__ == "__main__":
    sys.exit(main())
