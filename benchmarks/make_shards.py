"""
Stand-in for ImageNet-1k: Parquet shards of its schema with generated, photo-like JPEGs, to run and measure offline.

    python benchmarks/make_shards.py SHARDS --images 50000 [--distinct 1000] [--validation_images 1000]
    accelerate launch train.py recipes/imagenet1k/vit_s16.yaml --dataset "SHARDS/train-*.parquet" --eval_split null

Pictures are "dead leaves": shapes of all sizes, large ones first, that hide each other and cast shadows, each with a
texture of amplitude about 1/f and lit from one side; then sensor noise. Sizes vary as ImageNet's do around 500 x 375,
a few pictures are grey, JPEGs have about 100 kB. A class has a palette, a shape and textures of its own, so that there
is something to learn. All follows from (seed, number of the picture), whatever the number of processes. With
`--distinct` fewer pictures are made and used again under another comment: making them is the slow part. Shards that
are there are kept, so the same command goes on with what a killed run left; a torn one is never taken for whole.
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
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

FIELD = 1024  # side of the noise fields that textures are cut from, and the longest side of a picture
SIZES = {(500, 375): 0.5, (375, 500): 0.13, (500, 333): 0.15, (333, 500): 0.05, (640, 480): 0.05, (400, 300): 0.05}
GREY_SHARE = 0.02
QUALITY = 94  # gives about 100 kB on average
HUES = (0.04, 0.09, 0.13, 0.25, 0.33, 0.57, 0.62)  # skin, wood, sand, grass, leaves, sky, water


@functools.cache
def noise_fields(seed: int) -> list[Image.Image]:
    """Fields around amplitude 1 / f, what photographs have on average: rough and smooth, half of them with a grain."""
    rng = np.random.default_rng([seed, 1])
    down, across = np.meshgrid(np.fft.fftfreq(FIELD), np.fft.rfftfreq(FIELD), indexing="ij")
    fields = []
    for number in range(16):
        turn, stretch = rng.uniform(0, math.pi), 1 if number % 2 else rng.uniform(2, 5)
        along = across * math.cos(turn) + down * math.sin(turn)
        aside = down * math.cos(turn) - across * math.sin(turn)
        frequency = np.hypot(along * stretch, aside)
        frequency[0, 0] = np.inf
        spectrum = np.fft.rfft2(rng.standard_normal((FIELD, FIELD))) / frequency ** rng.uniform(0.7, 1.2)
        field = np.fft.irfft2(spectrum, s=(FIELD, FIELD))
        fields.append(Image.fromarray((128 + 42 * field / field.std()).clip(0, 255).astype(np.uint8)))
    return fields


def textured(rng, field: Image.Image, size: tuple[int, int], ball: Image.Image, colour, contrast: float):
    """A patch of a field in shades of one colour, with the light and dark side of a ball."""
    left, upper = (int(rng.integers(FIELD - side + 1)) for side in size)
    lightness = field.crop((left, upper, left + size[0], upper + size[1]))
    lightness = Image.blend(lightness, ball.resize(size, Image.Resampling.BILINEAR), rng.uniform(0.1, 0.4))
    steps = np.linspace(-3 * contrast, 3 * contrast, 256)[:, None]
    # Light parts paler than dark ones, a little to one side: channels go together, but not all the way.
    shades = (colour + steps * (1 + 0.15 * rng.standard_normal(3))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(shades.take(np.asarray(lightness), axis=0))


def shape_mask(rng, shape: dict, size: tuple[int, int]) -> Image.Image:
    """A lobed or cornered outline, turned at random, with a soft edge."""
    turn = np.arange(shape["corners"]) * (2 * math.pi / shape["corners"])
    radius = 1 + shape["depth"] * np.cos(shape["lobes"] * turn)
    for harmonic in range(2, 7):
        radius += shape["roughness"] / harmonic * rng.standard_normal() * np.cos(harmonic * turn + rng.uniform(0, 6.28))
    radius /= radius.max()
    turn = turn + rng.uniform(0, 2 * math.pi)
    points = np.stack([size[0] / 2 * (1 + radius * np.cos(turn)), size[1] / 2 * (1 + radius * np.sin(turn))], axis=1)
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(points.ravel().tolist(), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))


def look_of(rng) -> dict:
    """What the pictures of a class share."""
    return {
        "hues": rng.choice(HUES, 3) + rng.normal(0, 0.03, 3),
        "saturation": rng.uniform(0.1, 0.6),
        "fields": rng.choice(16, 4),
        "contrast": rng.uniform(14, 40),
        "corners": int(rng.choice([3, 4, 48, 48, 48])),
        "lobes": int(rng.integers(1, 7)),
        "depth": rng.uniform(0, 0.35),
        "roughness": rng.uniform(0.05, 0.35),
    }


def make_picture(number: int, label: int, seed: int) -> Image.Image:
    """The picture of this number; `label` gives its palette, shapes and textures."""
    fields, rng = noise_fields(seed), np.random.default_rng([seed, 3, number])
    own = look_of(np.random.default_rng([seed, 2, label]))
    width, height = list(SIZES)[rng.choice(len(SIZES), p=np.array(list(SIZES.values())) / sum(SIZES.values()))]
    if rng.random() < 0.1:
        width, height = (int(side * rng.uniform(0.6, 1.6)) for side in (width, height))
    # Light comes from one side: the bright spot of the ball that lends its shading is off the centre.
    light = rng.uniform(-1, 1, 2)
    left, upper = (64 + 60 * light).tolist()
    ball = Image.radial_gradient("L").point(range(255, -1, -1)).crop((left, upper, left + 128, upper + 128))
    exposure = rng.uniform(0.7, 1.1)

    def leaf(look: dict, size: tuple[int, int]) -> Image.Image:
        hue, saturation = rng.choice(look["hues"]) + rng.normal(0, 0.02), look["saturation"] * rng.uniform(0.4, 1.3)
        value = exposure * rng.beta(1.6, 1.8)
        colour = 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))
        field = fields[rng.choice(look["fields"])]
        return textured(rng, field, size, ball, colour, look["contrast"] * rng.uniform(0.3, 1.2))

    picture = leaf(own, (width, height))
    # Sizes by a power law: what makes edges at all scales. Large ones first, or they would hide the others.
    sides = 10 * (1 - rng.random(int(rng.integers(80, 160)))) ** -0.75
    for side in sorted(sides.clip(max=0.6 * height).tolist(), reverse=True):
        look = own if rng.random() < 0.8 else look_of(rng)
        size = tuple(max(4, int(side * rng.uniform(0.6, 1.5))) for _ in range(2))
        mask = shape_mask(rng, look, size)
        corner = rng.integers((width, height)) - np.array(size) // 2
        shadow = corner - (0.08 * side * light).astype(int)
        picture.paste((10, 10, 16), tuple(shadow.tolist()), Image.fromarray(np.asarray(mask) // 2))
        picture.paste(leaf(look, size), tuple(corner.tolist()), mask)
    tilt = -0.3 * rng.random() * light
    shading = 1 + tilt[0] * np.linspace(-1, 1, width)[:, None] + tilt[1] * np.linspace(-1, 1, height)[:, None, None]
    noise = rng.uniform(1, 5) * rng.standard_normal((height, width, 1), dtype=np.float32)
    pixels = np.asarray(picture) * shading.astype(np.float32) + noise
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
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
