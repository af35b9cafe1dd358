"""
Cost per view of flip, jitter, gray, blur, solarise and normalise: torchvision v2 on one view after the other, kornia
on a batch if that package is installed, and ours, in one run.

    python benchmarks/benchmark_photometric.py [--device cuda] [--rounds 7] [--images 32]

The published settings, on batches of 2 views of 224 px and 6 of 98 px per image. Ours gets uint8 crops in
channels-last order, as the data loader delivers them; the others get channels-first crops, which suit them better.
torchvision takes each view as a separate tensor, once as bytes and once in floats (as ours computes), and does not
have to join the results. On a GPU, ours are fused kernels, and the operations one by one beside them. The
implementations alternate, so that other load on the machine affects all of them alike;
times are medians over rounds, with 20% and 80% quantiles. On a CPU, one thread is used, as in a loader's worker.
Writes results/photometric.csv; a run on a GPU keeps the CPU rows, and vice versa.
"""

import argparse
import csv
import datetime
import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms import v2

from lejepa_hf.data.photometric import (
    NUM_UNIFORMS,
    fused_kernels,
    one_by_one,
    parameters_from_uniforms,
    photometric,
)
from lejepa_hf.data.view_settings import ViewSettings

RESULTS = Path(__file__).parent / "results" / "photometric.csv"
SETTINGS = ViewSettings()
SHAPES = ((2, 224), (6, 98))  # views an image, side in pixels
JITTERS = (SETTINGS.brightness_jitter, SETTINGS.contrast_jitter, SETTINGS.saturation_jitter, SETTINGS.hue_jitter)
KERNEL, SIGMA = SETTINGS.blur_kernel_size, tuple(SETTINGS.blur_sigma)
BASELINE = "torchvision, uint8"


def torchvision_way(as_floats: bool) -> v2.Compose:
    to_float = v2.ToDtype(torch.float32, scale=True)
    colours = [
        v2.RandomHorizontalFlip(SETTINGS.horizontal_flip_probability),
        v2.RandomApply([v2.ColorJitter(*JITTERS)], SETTINGS.color_jitter_probability),
        v2.RandomGrayscale(SETTINGS.grayscale_probability),
        v2.RandomApply([v2.GaussianBlur(KERNEL, SIGMA)], SETTINGS.blur_probability),
        v2.RandomSolarize(SETTINGS.solarize_threshold / (255 if as_floats else 1), SETTINGS.solarize_probability),
    ]
    steps = [to_float, *colours] if as_floats else [*colours, to_float]
    return v2.Compose([*steps, v2.Normalize(SETTINGS.image_mean, SETTINGS.image_std)])


def kornia_way(device: str) -> torch.nn.Module:
    from kornia import augmentation

    threshold = SETTINGS.solarize_threshold / 255
    return torch.nn.Sequential(
        augmentation.RandomHorizontalFlip(p=SETTINGS.horizontal_flip_probability),
        augmentation.ColorJitter(*JITTERS, p=SETTINGS.color_jitter_probability),
        augmentation.RandomGrayscale(p=SETTINGS.grayscale_probability),
        augmentation.RandomGaussianBlur((KERNEL, KERNEL), SIGMA, p=SETTINGS.blur_probability),
        augmentation.RandomSolarize((threshold, threshold), (0.0, 0.0), p=SETTINGS.solarize_probability),
        augmentation.Normalize(torch.tensor(SETTINGS.image_mean), torch.tensor(SETTINGS.image_std)),
    ).to(device)


def implementations(views: torch.Tensor, device: str) -> dict[str, Callable[[], object]]:
    channels_first = views.flatten(0, 1).contiguous()
    of_bytes, of_floats = torchvision_way(as_floats=False), torchvision_way(as_floats=True)
    found = {
        BASELINE: lambda: [of_bytes(view) for view in channels_first],
        "torchvision, float": lambda: [of_floats(view) for view in channels_first],
    }
    if version("kornia"):
        module = kornia_way(device)
        found["kornia, batched"] = lambda: module(channels_first.float().div_(255))
    found["ours"] = lambda: photometric(views, torch.rand(*views.shape[:2], NUM_UNIFORMS), SETTINGS)
    if device == "cuda":
        if fused_kernels(views.device, SETTINGS) is None:
            raise RuntimeError("the fused kernels are not used here: LEJEPA_OPS=triton says why")
        found["ours, one by one"] = lambda: one_by_one(
            views.flatten(0, 1),
            parameters_from_uniforms(torch.rand(views.shape[:2].numel(), NUM_UNIFORMS), SETTINGS),
            SETTINGS,
        )
    return found


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def milliseconds(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begin)


def measure(num_views: int, side: int, device: str, images: int, rounds: int) -> list[dict]:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (images, num_views, side, side, 3), dtype=torch.uint8)
    calls = implementations(pixels.to(device).permute(0, 1, 4, 2, 3), device)
    times = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            taken = milliseconds(call, device) / (images * num_views)
            if round_:  # the first one warms up
                times[name].append(taken)
    baseline = np.median(times[BASELINE]).item()
    rows = []
    for name, values in times.items():
        low, middle, high = np.quantile(values, [0.2, 0.5, 0.8]).tolist()
        rows.append(
            {"device": device, "implementation": name, "images": images, "views": num_views, "side": side,
             "ms_per_view": round(middle, 4), "ms_20": round(low, 4), "ms_80": round(high, 4),
             f"times_faster_than_{BASELINE.replace(', ', '_')}": round(baseline / middle, 2)}
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stamp = {"date": str(datetime.date.today()), "threads": torch.get_num_threads()}
    stamp |= {package: version(package) for package in ("torch", "torchvision", "kornia")}
    stamp["gpu"] = torch.cuda.get_device_name() if options.device == "cuda" else ""
    rows = [
        row | stamp
        for num_views, side in SHAPES
        for row in measure(num_views, side, options.device, options.images, options.rounds)
    ]
    if RESULTS.exists():
        with RESULTS.open() as file:
            rows += [row for row in csv.DictReader(file) if row["device"] != options.device]
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
