"""Dataset repositories laid out as their pages on the Hub show, with two generated images in each Parquet file."""

import io
import tarfile
from dataclasses import dataclass, field
from functools import cache

import yaml
from datasets import ClassLabel, Dataset, DatasetInfo, Features, SplitDict, SplitInfo, Value
from datasets import Image as ImageFeature
from hub_server import HubServer
from PIL import Image

CONVERTED = "refs/convert/parquet"
_ROWS = 2  # of a Parquet file
_CLASS = ClassLabel(names=["first", "second"])


@dataclass(frozen=True)
class Layout:
    """
    A dataset repository.

    Args:
        columns (`dict`): Name of each column and its feature.
        splits (`dict[str, int]`): Name of each split and its number of Parquet files.
        configs (`tuple[str, ...]`, *optional*): Configurations; all have the same splits.
        folder (`str`, *optional*): Of the Parquet files on the branch `main`, which may name the configuration.
        is_script (`bool`, *optional*): Whether `main` holds a program, and the Parquet files are on a branch that the
            Hub made from its output.
        gated (`bool`, *optional*): Whether only the users `let_in` may read it.
        in_tars (`bool`, *optional*): Whether there are tars for `webdataset` instead, with text files beside them.
    """

    columns: dict = field(default_factory=lambda: {"image": ImageFeature(), "label": _CLASS})
    splits: dict[str, int] = field(default_factory=lambda: {"train": 1, "test": 1})
    configs: tuple[str, ...] = ("default",)
    folder: str = "data"
    is_script: bool = False
    gated: bool = False
    in_tars: bool = False


_NOISY = [
    "contrast",
    "gaussian_noise",
    "impulse_noise",
    "jpeg_compression",
    "motion_blur",
    "pixelate",
    "spatter",
]
_CIFAR = {"img": ImageFeature(), "label": _CLASS}
_CIFAR100 = {"img": ImageFeature(), "fine_label": _CLASS, "coarse_label": _CLASS}
_PETS = {"image": ImageFeature(), "label": _CLASS, "image_id": Value("string"), "label_cat_dog": _CLASS}
_MASKS = {"image": ImageFeature(), "mask": ImageFeature()}
_IMAGENET = {"image": ImageFeature(), "label": ClassLabel(names=[f"class {number}" for number in range(1000)])}
WORDNET_IDS = ("n01498041", "n01531178")  # stingray and goldfinch, classes 6 and 11 of ImageNet
_IMAGENET_CLASSES = (0, 6, 11)  # that it has images of
_TWO = {"train": 1, "validation": 1}
_THREE = {"train": 1, "validation": 1, "test": 1}

# What the presets and recipes name. Splits, file names and columns were read from pages of the Hub in November 2026;
# of mteb/FGVCAircraft, jxie/stl10 and jxie/pascal-voc-2012 the types of labels and masks are a guess. The names of
# ImageNet's classes are invented; ImageNet-A and ImageNet-R have two of their classes.
LAYOUTS = {
    "ILSVRC/imagenet-1k": Layout(_IMAGENET, splits={"train": 3, "validation": 1, "test": 1}, gated=True),
    "clane9/imagenet-100": Layout(splits={"train": 2, "validation": 1}),
    "frgfm/imagenette": Layout(splits=_TWO, configs=("160px", "320px", "full_size"), is_script=True),
    "ethz/food101": Layout(splits={"train": 2, "validation": 1}),
    "uoft-cs/cifar10": Layout(_CIFAR, configs=("plain_text",), folder="plain_text"),
    "uoft-cs/cifar100": Layout(_CIFAR100, configs=("cifar100",), folder="cifar100"),
    "tanganke/stl10": Layout(),
    "jxie/stl10": Layout(splits={"train": 1, "test": 1, "unlabeled": 2, **{f"train_{fold}": 1 for fold in range(10)}}),
    "dpdl-benchmark/oxford_flowers102": Layout(splits=_THREE),
    "tanganke/dtd": Layout(),
    "mteb/FGVCAircraft": Layout({"image": ImageFeature(), "variant": _CLASS}, splits=_THREE),
    "tanganke/stanford_cars": Layout(splits={"train": 1, "test": 2, **dict.fromkeys(_NOISY, 1)}),
    "timm/oxford-iiit-pet": Layout(_PETS),
    "matthieulel/galaxy10_decals": Layout({"image": ImageFeature(), "label": Value("uint8")}),
    "zhoubolei/scene_parse_150": Layout(
        {"image": ImageFeature(), "annotation": ImageFeature(), "scene_category": _CLASS},
        splits=_THREE,
        configs=("instance_segmentation", "scene_parsing"),
        is_script=True,
    ),
    "clip-benchmark/wds_imagenetv2": Layout({"webp": ImageFeature()}, splits={"test": 2}, in_tars=True),
    "clip-benchmark/wds_imagenet_sketch": Layout({"jpg": ImageFeature()}, splits={"test": 2}, in_tars=True),
    "barkermrl/imagenet-a": Layout(
        {"image": ImageFeature(), "label": ClassLabel(names=list(WORDNET_IDS))}, splits={"train": 2}
    ),
    "axiong/imagenet-r": Layout(
        {"image": ImageFeature(), "wnid": Value("string"), "class_name": Value("string")},
        splits={"test": 2},
        configs=("test",),
        folder="test",
    ),
    "jxie/pascal-voc-2012": Layout(_MASKS, splits={"train": 1, "val": 1}),
}


def put_dataset(server: HubServer, name: str, layout: Layout, let_in: tuple[str, ...] = ()) -> None:
    """Create the dataset `name` on a server."""
    repo = f"datasets/{name}"
    server.create(repo, gated=layout.gated, let_in=let_in)
    if layout.is_script:
        readme = "---\nlicense: apache-2.0\n---\n"
        server.put(repo, {"README.md": readme.encode(), f"{name.split('/')[1]}.py": b"raise SystemExit(1)\n"})
        server.put(repo, dict(_converted_files(layout)), CONVERTED, on_top=False)
    elif layout.in_tars:
        texts = {"classnames.txt": b"tench\n", "zeroshot_classification_templates.txt": b"a photo of a {c}.\n"}
        server.put(repo, texts | {f"{split}/nshards.txt": b"2" for split in layout.splits} | dict(_tars(layout)))
    else:
        server.put(repo, {"README.md": _readme(layout), **dict(_files(layout))})


def _files(layout: Layout):
    for split, shards in layout.splits.items():
        for shard in range(shards):
            yield f"{layout.folder}/{split}-{shard:05d}-of-{shards:05d}.parquet", _parquet(layout, split, shard)


def _tars(layout: Layout):
    """Each sample is an image and the number of its class, as the packers of clip-benchmark wrote them."""
    (extension,) = layout.columns
    for split, shards in layout.splits.items():
        for shard in range(shards):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                for number in range(_ROWS * shard, _ROWS * (shard + 1)):
                    for name, content in (
                        (extension, _picture(number)),
                        ("cls", str(_imagenet_class(number)).encode()),
                    ):
                        member = tarfile.TarInfo(f"s{number:07d}.{name}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
            yield f"{split}/{shard}.tar", buffer.getvalue()


def _converted_files(layout: Layout):
    for number, config in enumerate(layout.configs):
        for split, shards in layout.splits.items():
            for shard in range(shards):
                yield f"{config}/{split}/{shard:04d}.parquet", _parquet(layout, split, shard, number)


def _readme(layout: Layout) -> bytes:
    """The metadata that `push_to_hub` writes: files, columns and sizes of each configuration."""
    (config,) = layout.configs
    files = [{"split": split, "path": f"{layout.folder}/{split}-*"} for split in layout.splits]
    splits = {name: SplitInfo(name=name, num_examples=_ROWS * shards) for name, shards in layout.splits.items()}
    info = DatasetInfo(features=Features(layout.columns), splits=SplitDict(splits), config_name=config)
    head = {"dataset_info": info._to_yaml_dict(), "configs": [{"config_name": config, "data_files": files}]}
    return f"---\n{yaml.safe_dump(head)}---\n".encode()


def _parquet(layout: Layout, split: str, shard: int, config: int = 0) -> bytes:
    place = 40 * config + 8 * (list(layout.splits).index(split) % 4) + _ROWS * shard
    columns = {name: _values(name, feature, place) for name, feature in layout.columns.items()}
    buffer = io.BytesIO()
    Dataset.from_dict(columns, features=Features(layout.columns)).to_parquet(buffer)
    return buffer.getvalue()


def _imagenet_class(number: int) -> int:
    return _IMAGENET_CLASSES[number % len(_IMAGENET_CLASSES)]


def _values(name: str, feature, place: int) -> list:
    numbers = range(place, place + _ROWS)
    if name == "wnid":
        return [WORDNET_IDS[number % 2] for number in numbers]
    if isinstance(feature, ImageFeature):
        return [{"bytes": _picture(number), "path": None} for number in numbers]
    if feature == _IMAGENET["label"]:
        return [_imagenet_class(number) for number in numbers]
    return [f"{number}" if getattr(feature, "dtype", "") == "string" else number % 2 for number in numbers]


@cache
def _picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 6), number).save(buffer, "PNG")
    return buffer.getvalue()
