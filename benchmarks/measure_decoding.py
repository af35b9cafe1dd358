"""
Part `decoding` of measure_gpu.sh: what decoding JPEG images on the device would bring (docs/speed.md). One CPU core
that decodes and cuts, as a worker of the loader does, against nvJPEG through torchvision, alone and with views cut on
the device. Differences are those of decoded pixels to PIL's, in levels of 255.
"""

import io
import sys
import time

import numpy as np
import torch
from benchmark_sigreg import synchronize
from benchmark_training import generated_jpegs
from measure_rows import Rows, options_of_part
from PIL import Image
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

from lejepa_hf import MultiCropTransform
from lejepa_hf.data.multi_crop import random_boxes

FIGURES = ("images_per_second", "cores", "mean_difference", "largest_difference")


def decode_on(device: str, files: list[bytes]) -> list[torch.Tensor]:
    encoded = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)


def cut_on_device(images: list[torch.Tensor], transform: MultiCropTransform, rng: np.random.Generator) -> None:
    """The views of each image; on CUDA, resizing with antialiasing needs floats."""
    kinds = (
        (transform.num_global_views, transform.global_crop_size, transform.global_crop_scale),
        (transform.num_local_views, transform.local_crop_size, transform.local_crop_scale),
    )
    for image in images:
        pixels = image[None].float()
        for number, side, scale in kinds:
            boxes = random_boxes(rng, number, *image.shape[:0:-1], scale, transform.crop_aspect_ratio)
            for left, upper, right, lower in boxes.round().astype(int):
                part = pixels[:, :, upper : max(lower, upper + 1), left : max(right, left + 1)]
                F.interpolate(part, (side, side), mode="bicubic", antialias=True).clamp(0, 255).to(torch.uint8)


def per_second(call, number: int, device: str, rounds: int) -> float:
    call()  # libraries are loaded, buffers made
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(rounds):
        call()
    synchronize(device)
    return rounds * number / (time.perf_counter() - begin)


def measure(files: list[bytes], device: str, rounds: int) -> list[dict]:
    transform, rng = MultiCropTransform(), np.random.default_rng(0)
    torch.set_num_threads(1)

    def on_a_core() -> None:
        for index, file in enumerate(files):
            transform(file, epoch=0, index=index)

    decoded = decode_on(device, files)
    exact = [np.asarray(Image.open(io.BytesIO(file)), dtype=np.int16) for file in files]
    gaps = np.stack([abs(a.permute(1, 2, 0).cpu().numpy() - b) for a, b in zip(decoded, exact, strict=True)])
    core = per_second(on_a_core, len(files), "cpu", 1)
    speeds = {
        "a core decodes and cuts": core,
        "the device decodes": per_second(lambda: decode_on(device, files), len(files), device, rounds),
        "the device decodes and cuts": per_second(
            lambda: cut_on_device(decode_on(device, files), transform, rng), len(files), device, rounds
        ),
    }
    pixels = {"mean_difference": round(float(gaps.mean()), 4), "largest_difference": int(gaps.max())}
    return [
        {"how": how, "images_per_second": round(speed, 1), "cores": round(speed / core, 2)}
        | (pixels if "device" in how else {})
        for how, speed in speeds.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    options = options_of_part(__doc__).parse_args(arguments)
    rows = Rows(options.folder / "decoding.csv", ("batch",), ("how", *FIGURES))
    for batch in (4,) if options.tiny else (64, 256):
        files = [row["image"] for row in generated_jpegs(batch)]
        rows.measure({"batch": batch}, lambda files=files: measure(files, options.device, 1 if options.tiny else 5))
    return rows.problems()


if __name__ == "__main__":
    sys.exit(main())
