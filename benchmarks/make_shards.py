"""
Substitute for ImageNet-1k: Parquet shards with its schema and generated, photo-like JPEGs, to run and measure
offline.

    python benchmarks/make_shards.py SHARDS --images 50000 [--distinct 1000] [--validation_images 1000]
    accelerate launch train.py recipes/imagenet1k/vit_s16.yaml --dataset "SHARDS/train-*.parquet" --eval_split null

The images are "dead leaves": shapes of all sizes, the large ones drawn first, that cover each other and cast shadows.
Each shape has a texture with an amplitude of about 1/f and is lit from one side; sensor noise is added at the end.
Sizes vary like ImageNet's around 500 x 375, a few images are grey, and a JPEG has about 100 kB. Each class has its
own palette, shape and textures, so that there is something to learn. Everything follows from (seed, number of the
image), whatever the number of processes. With `--distinct`, fewer images are generated and reused with a different
comment, because generating them is the slow part. Shards that exist already are kept, so the same command continues
after a killed run; an incomplete shard is never mistaken for a complete one.
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

ROWS_A_SHARD = 4400  # as on the Hub
FIELD = 1024  # side of the noise fields that textures are cut from, and the longest side of a picture
SIZES = {(500, 375): 0.5, (375, 500): 0.13, (500, 333): 0.15, (333, 500): 0.05, (640, 480): 0.05, (400, 300): 0.05}
GREY_SHARE = 0.02
QUALITY = 94  # gives about 100 kB on average
HUES = (0.04, 0.09, 0.13, 0.25, 0.33, 0.57, 0.62)  # skin, wood, sand, grass, leaves, sky, water
HARMONICS = np.arange(2, 7)  # of a wobbly outline
LEVELS = np.linspace(-3, 3, 256)[:, None]  # standard deviations that the bytes of a noise field stand for


@functools.cache
def noise_fields(seed: int) -> list[Image.Image]:
    """Noise with an amplitude of about 1 / f, as in photos: rough and smooth fields, half of them with a grain."""
    rng = np.random.default_rng([seed, 1])
    down, across = np.meshgrid(np.fft.fftfreq(FIELD), np.fft.rfftfreq(FIELD), indexing="ij")
    fields = []
    for number in range(16):
        turn, stretch = rng.uniform(0, math.pi), 1 if number % 2 else rng.uniform(2, 5)
        along = across * math.cos(turn) + down * math.sin(turn)
        aside = down * math.cos(turn) - across * math.sin(turn)
        frequency = np.hypot(along * stretch, aside)
        frequency[0, 0] = np.inf
        white = np.fft.rfft2(rng.standard_normal((FIELD, FIELD), dtype=np.float32))
        spectrum = white / (frequency ** rng.uniform(0.5, 1.1)).astype(np.float32)
        field = np.fft.irfft2(spectrum, s=(FIELD, FIELD))
        fields.append(Image.fromarray((128 + 42 * field / field.std()).clip(0, 255).astype(np.uint8)))
    return fields


def textured(rng, field: Image.Image, size: tuple[int, int], ball: Image.Image, colour, contrast: float):
    """A patch of a field in shades of one colour, with the light and dark side of a ball."""
    left, upper = (int(rng.integers(FIELD - side + 1)) for side in size)
    lightness = field.crop((left, upper, left + size[0], upper + size[1]))
    lightness = Image.blend(lightness, ball.resize(size, Image.Resampling.BILINEAR), rng.uniform(0.1, 0.4))
    # Light parts paler than dark ones, a little to one side: channels go together, but not all the way.
    shades = (colour + contrast * LEVELS * (1 + 0.15 * rng.standard_normal(3))).clip(0, 255).astype(np.uint8)
    return Image.fromarray(shades.take(np.asarray(lightness), axis=0))


def shape_mask(rng, shape: dict, size: tuple[int, int]) -> Image.Image:
    """A lobed or cornered outline, turned at random, with a soft edge."""
    turn = np.arange(shape["corners"]) * (2 * math.pi / shape["corners"])
    radius = 1 + shape["depth"] * np.cos(shape["lobes"] * turn)
    wobble = shape["roughness"] / HARMONICS * rng.standard_normal(len(HARMONICS))
    radius += wobble @ np.cos(HARMONICS[:, None] * turn + rng.uniform(0, 2 * math.pi, (len(HARMONICS), 1)))
    radius /= radius.max()
    turn = turn + rng.uniform(0, 2 * math.pi)
    points = np.stack([size[0] / 2 * (1 + radius * np.cos(turn)), size[1] / 2 * (1 + radius * np.sin(turn))], axis=1)
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(points.ravel().tolist(), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))


def look_of(rng) -> dict:
    """Palette, shape and textures that the pictures of a class share."""
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
    """The picture with this number; `label` determines its palette, shapes and textures."""
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
    sides = 10 * (1 - rng.random(int(rng.integers(70, 140)))) ** -0.75
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
    make_picture(number, label, seed).save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


def with_comment(jpeg: bytes, number: int) -> bytes:
    """The same picture with different bytes: a comment is added after the JFIF header, which has to be first."""
    comment = f"picture {number}".encode()
    header = 4 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:header] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[header:]


def label_of(number: int, classes: int, seed: int) -> int:
    """Class of the picture with this number; each block of `classes` numbers has each class once, in random order."""
    block, place = divmod(number, classes)
    return int(np.random.default_rng([seed, 4, block]).permutation(classes)[place])


def check_folder(folder: Path, split: str, bounds: list[int]) -> list[Path]:
    """Paths of the shards of this split. A shard that exists already has the rows this command would write."""
    paths = [folder / f"{split}-{shard:05d}-of-{len(bounds) - 1:05d}.parquet" for shard in range(len(bounds) - 1)]
    for path in sorted(folder.glob(f"{split}-*.parquet")):
        if path not in paths:
            raise ValueError(f"`folder` holds {path.name}, not one of {len(paths)} shards: take an empty folder.")
        shard = paths.index(path)
        found, rows = pq.read_metadata(path).num_rows, bounds[shard + 1] - bounds[shard]
        if found != rows:
            raise ValueError(f"`folder` holds {path.name} with {found} rows, not {rows}: take an empty folder.")
    return paths


def write_split(folder: Path, split: str, first: int, images: int, num_shards: int, options, pool) -> None:
    """Write the missing shards of a split, which contain pictures `first` to `first + images`."""
    names = [f"n{label:08d}" for label in range(options.classes)]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    bounds = np.linspace(first, first + images, num_shards + 1).astype(int).tolist()
    distinct = min(options.distinct or images, images)
    kept: list[bytes] = []  # with --distinct, all of them; otherwise pictures go straight to their shard

    def jobs(numbers) -> list[tuple[int, int, int]]:
        return [(number, label_of(number, options.classes, options.seed), options.seed) for number in numbers]

    progress = tqdm(total=images, desc=split, unit="image")
    for path, begin, end in zip(check_folder(folder, split, bounds), bounds[:-1], bounds[1:], strict=True):
        if path.exists():
            progress.update(end - begin)
            continue
        torn = path.with_suffix(".part")
        with pq.ParquetWriter(torn, features.arrow_schema) as writer:
            for group in range(begin, end, options.row_group_size):
                numbers = range(group, min(end, group + options.row_group_size))
                sources = jobs(first + (number - first) % distinct for number in numbers)
                if options.distinct:
                    if not kept:
                        made = pool.imap(make_jpeg, jobs(range(first, first + distinct)), 4)
                        kept = list(tqdm(made, total=distinct, desc="pictures", unit="image"))
                    jpegs = [kept[source - first] for source, _, _ in sources]
                else:
                    jpegs = pool.map(make_jpeg, sources, 4)
                labels = [label for _, label, _ in sources]
                rows = [
                    {"bytes": with_comment(jpeg, number), "path": f"{names[label]}_{number}_{names[label]}.JPEG"}
                    for number, label, jpeg in zip(numbers, labels, jpegs, strict=True)
                ]
                writer.write_table(pa.table({"image": rows, "label": labels}, schema=features.arrow_schema))
                progress.update(len(numbers))
        torn.replace(path)
    progress.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--validation_images", type=int, default=0)
    parser.add_argument(
        "--shards", type=int, help="shards of the train split; default: with as many images as on the Hub"
    )
    parser.add_argument("--distinct", type=int, help="number of different pictures to generate; the others reuse them")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--row_group_size", type=int, default=100, help="rows per row group; 100 as on the Hub")
    options = parser.parse_args()
    for name in ("images", "shards", "distinct", "classes", "workers", "row_group_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    num_shards = options.shards or math.ceil(options.images / ROWS_A_SHARD)
    if num_shards > options.images:
        raise ValueError(f"`shards` must be at most `images`, {options.images}, got {num_shards}.")
    validation = options.validation_images
    if validation < 0:
        raise ValueError(f"`validation_images` must be 0 or more, got {validation}.")
    options.folder.mkdir(parents=True, exist_ok=True)
    noise_fields(options.seed)  # made before the processes are forked, they share them
    with Pool(options.workers) as pool:
        write_split(options.folder, "train", 0, options.images, num_shards, options, pool)
        if validation:
            shards = math.ceil(validation / ROWS_A_SHARD)
            write_split(options.folder, "validation", options.images, validation, shards, options, pool)


if __name__ == "__main__":
    main()
