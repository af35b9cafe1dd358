"""
Stand-in for ImageNet-1k: Parquet shards of its schema with generated, photo-like JPEGs, to run and measure offline.

    python benchmarks/make_shards.py SHARDS --images 50000 [--distinct 1000] [--validation_images 1000]
    accelerate launch train.py recipes/imagenet1k/vit_s16.yaml --dataset "SHARDS/train-*.parquet" --eval_split null

Pictures are "dead leaves": overlapping shapes of all sizes, each with a texture of spectrum 1/f, lit from one side,
with sensor noise. Sizes vary as ImageNet's do around 500 x 375, a few are grey, JPEGs have about 100 kB. A class has a
palette, a shape and a texture of its own, so that there is something to learn. All follows from (seed, number of the
picture), whatever the number of processes. With `--distinct` fewer pictures are made and used again under another
comment: making them is the slow part. Shards that are there are kept, a torn one is never left.
"""

import argparse
import colorsys
import functools
import io
import math
import os
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw
from tqdm import tqdm

ROWS_A_GROUP = 100  # as on the Hub
FIELD = 768  # side of the noise fields that textures are cut from
SIZES = {(500, 375): 0.5, (375, 500): 0.13, (500, 333): 0.15, (333, 500): 0.05, (640, 480): 0.05, (400, 300): 0.05}
GREY_SHARE = 0.02
QUALITY = 93


@functools.cache
def noise_fields(seed: int) -> np.ndarray:
    """(16, FIELD, FIELD) fields of unit variance with amplitude 1 / f, what photographs have on average."""
    rng = np.random.default_rng([seed, 1])
    frequency = np.hypot(np.fft.fftfreq(FIELD)[:, None], np.fft.rfftfreq(FIELD)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((16, FIELD, FIELD))) / frequency
    fields = np.fft.irfft2(spectrum, s=(FIELD, FIELD))
    return (fields / fields.std(axis=(1, 2), keepdims=True)).astype(np.float32)


def texture(rng, fields: np.ndarray, width: int, height: int, colour: np.ndarray, contrast: float) -> Image.Image:
    """A patch of one colour, its lightness from one field and its tint, weaker, from others."""

    def patch() -> np.ndarray:
        left, upper = rng.integers(0, FIELD - width + 1), rng.integers(0, FIELD - height + 1)
        return fields[rng.integers(len(fields)), upper : upper + height, left : left + width, None]

    pixels = colour + contrast * (patch() + 0.25 * patch() * rng.standard_normal(3).astype(np.float32))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def shape_mask(rng, kind: int, width: int, height: int) -> Image.Image:
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    if kind == 0:
        draw.ellipse((0, 0, width - 1, height - 1), fill=255)
    else:  # polygons, from triangles to rough blobs
        corners = (3, 4, 5, 9)[kind - 1]
        angles = np.sort(rng.uniform(0, 2 * math.pi, corners)) if kind == 4 else np.linspace(0, 6.283, corners + 1)[1:]
        angles = angles + rng.uniform(0, 6.283)
        points = [(width / 2 * (1 + math.cos(angle)), height / 2 * (1 + math.sin(angle))) for angle in angles.tolist()]
        draw.polygon(points, fill=255)
    return mask


def make_picture(number: int, label: int, seed: int) -> Image.Image:
    """The picture of this number; `label` gives its palette, shapes and texture."""
    fields = noise_fields(seed)
    of_class, rng = np.random.default_rng([seed, 2, label]), np.random.default_rng([seed, 3, number])
    hues, kind = of_class.uniform(size=3), int(of_class.integers(5))
    contrast, steepness = of_class.uniform(14, 34), of_class.uniform(1.6, 2.4)
    width, height = list(SIZES)[rng.choice(len(SIZES), p=np.array(list(SIZES.values())) / sum(SIZES.values()))]
    if rng.random() < 0.1:
        width, height = (min(FIELD, int(side * rng.uniform(0.6, 1.4))) for side in (width, height))

    def colour() -> np.ndarray:
        hue = hues[rng.integers(3)] + rng.normal(0, 0.04)
        rgb = colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.1, 0.6), rng.uniform(0.15, 0.85))
        return 255 * np.array(rgb, dtype=np.float32)

    picture = texture(rng, fields, width, height, colour(), contrast)
    for _ in range(int(rng.integers(50, 110))):
        # Power law of sizes, largest first hidden by later ones: what makes edges at all scales.
        side = min(14 * (1 - rng.random()) ** (-1 / steepness), 0.7 * height, FIELD / 1.6)
        wide, high = (max(3, int(side * rng.uniform(0.6, 1.6))) for _ in range(2))
        own = kind if rng.random() < 0.7 else int(rng.integers(5))
        patch = texture(rng, fields, wide, high, colour(), contrast * rng.uniform(0.3, 1.2))
        place = int(rng.integers(-wide // 2, width - wide // 2)), int(rng.integers(-high // 2, height - high // 2))
        picture.paste(patch, place, shape_mask(rng, own, wide, high))
    pixels = np.asarray(picture, dtype=np.float32)
    tilt = rng.normal(0, 0.25, 2)
    light = (
        1 + tilt[0] * np.linspace(-1, 1, width)[None, :, None] + tilt[1] * np.linspace(-1, 1, height)[:, None, None]
    )
    grain = rng.standard_normal((height, width, 1), dtype=np.float32)
    pixels = (pixels * light.clip(0.4, 1.6) + 2.5 * grain).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    return picture.convert("L") if rng.random() < GREY_SHARE else picture


def make_jpeg(job: tuple[int, int, int]) -> bytes:
    number, label, seed = job
    buffer = io.BytesIO()
    make_picture(number, label, seed).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def with_comment(jpeg: bytes, number: int) -> bytes:
    """The same picture, other bytes."""
    comment = f"picture {number}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def write_split(folder: Path, split: str, first: int, images: int, options, pool) -> None:
    """All shards of a split that are not there yet; pictures `first` to `first + images`."""
    names = [f"n{label:08d}" for label in range(options.classes)]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    num_shards = options.shards if split == "train" and options.shards else max(1, math.ceil(images / 4400))
    bounds = np.linspace(first, first + images, num_shards + 1).astype(int).tolist()
    distinct = min(options.distinct or images, images)
    labels = np.random.default_rng([options.seed, 4]).integers(options.classes, size=first + distinct).tolist()
    jobs = [(number, labels[number], options.seed) for number in range(first, first + distinct)]
    kept: list[bytes] = []  # with --distinct, all of them; otherwise pictures go straight to their shard
    progress = tqdm(total=images, desc=split, unit="image")
    for shard, (begin, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        path = folder / f"{split}-{shard:05d}-of-{num_shards:05d}.parquet"
        if path.exists():
            progress.update(end - begin)
            continue
        torn = path.with_suffix(".part")
        with pq.ParquetWriter(torn, features.arrow_schema) as writer:
            for group in range(begin, end, ROWS_A_GROUP):
                numbers = range(group, min(end, group + ROWS_A_GROUP))
                if options.distinct:
                    if not kept:
                        kept = list(tqdm(pool.imap(make_jpeg, jobs, 8), total=distinct, desc="pictures"))
                    made = [kept[(number - first) % distinct] for number in numbers]
                else:
                    made = pool.map(make_jpeg, [jobs[number - first] for number in numbers], 4)
                values = [labels[first + (number - first) % distinct] for number in numbers]
                rows = [
                    {"bytes": with_comment(jpeg, number), "path": f"{names[label]}_{number}_{names[label]}.JPEG"}
                    for number, label, jpeg in zip(numbers, values, made, strict=True)
                ]
                writer.write_table(pa.table({"image": rows, "label": values}, schema=features.arrow_schema))
                progress.update(len(numbers))
        torn.rename(path)
    progress.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--validation_images", type=int, default=0)
    parser.add_argument("--shards", type=int, help="of the train split; as many images each as on the Hub if missing")
    parser.add_argument("--distinct", type=int, help="make only so many pictures")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with Pool(options.workers) as pool:
        write_split(options.folder, "train", 0, options.images, options, pool)
        if options.validation_images:
            write_split(options.folder, "validation", options.images, options.validation_images, options, pool)


if __name__ == "__main__":
    main()
