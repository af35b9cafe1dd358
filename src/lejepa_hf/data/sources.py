"""Where images come from: the embedded digits, the Hub, image folders, Parquet files; map-style or streaming."""

import difflib
import glob
import io
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .streaming import count_rows

DIGITS = "digits"
_DIGITS_TEST_SHARE = 0.25


@dataclass
class ImageSource:
    """
    A dataset and where its images and labels stand.

    Args:
        dataset: `datasets.Dataset` or `datasets.IterableDataset` with undecoded images.
        name (`str`): What the user asked for.
        image_column (`str`): Column of the images.
        label_column (`str`, *optional*): Column of integer labels, if there is one.
        class_names (`list[str]`, *optional*): Names of the labels, if known.
    """

    dataset: object
    name: str
    image_column: str
    label_column: str | None = None
    class_names: list[str] | None = None

    @property
    def num_images(self) -> int | None:
        """Number of images, None for a stream that does not say."""
        return count_rows(self.dataset)


def load_source(
    name: str,
    split: str = "train",
    config: str | None = None,
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
) -> ImageSource:
    """
    Open a source of images.

    Args:
        name (`str`): `"digits"`, a dataset id of the Hub, a folder of images, or Parquet files (a path or a glob).
        split (`str`, *optional*, defaults to `"train"`): Which part; a slice like `"train[:1000]"` works unstreamed.
        config (`str`, *optional*): Configuration of a Hub dataset.
        streaming (`bool`, *optional*, defaults to `False`): Read while training instead of downloading first.
        image_column (`str`, *optional*): Found by its type if missing.
        label_column (`str`, *optional*): Found by its type if missing; a source without labels is fine.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.

    Returns:
        [`ImageSource`]

    Raises:
        ValueError: If there is no such source, split, column or image; the message names what was found.
    """
    import datasets

    name = os.path.expanduser(name)
    if name == DIGITS:
        dataset = _digits(split)
        dataset = dataset.to_iterable_dataset(num_shards=4) if streaming else dataset
    elif name.endswith(".parquet"):
        files = sorted(glob.glob(name, recursive=True))
        if not files:
            raise ValueError(f"`dataset` {name!r}: no such Parquet file. {_nearby(name)}")
        # One split, whatever the files are called: the glob says which files. Another one must not pass silently, or
        # an encoder would be measured on the rows that fitted its probe.
        try:
            dataset = datasets.load_dataset("parquet", data_files={"train": files}, split=split, streaming=streaming)
        except ValueError as error:
            raise _unknown_split(name, split, error) from error
    elif os.path.isdir(name):
        dataset = _folder(name, split, streaming)
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"`dataset` {name!r}: no such folder. {_nearby(name)}")
    else:
        dataset = _from_hub(name, split, config, revision, streaming)
    return _describe(dataset, name, image_column, label_column)


def _describe(dataset, name: str, image_column: str | None, label_column: str | None) -> ImageSource:
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    features = dataset.features
    if features is None:  # a stream whose schema nobody wrote down: its first row tells
        dataset = dataset._resolve_features()
        features = dataset.features
    images = [column for column, feature in features.items() if isinstance(feature, ImageFeature)]
    labels = [column for column, feature in features.items() if isinstance(feature, ClassLabel)]
    described = ", ".join(f"{column}: {type(feature).__name__}" for column, feature in features.items())
    if image_column is None:
        if len(images) != 1:
            found = f"{len(images)} image columns ({', '.join(images)})" if images else "no image column"
            raise ValueError(f"`dataset` {name!r} has {found}; set `image_column` to one of its columns: {described}.")
        image_column = images[0]
    for field, column in (("image_column", image_column), ("label_column", label_column)):
        if column is not None and column not in features:
            raise ValueError(f"`{field}` {column!r} is not in `dataset` {name!r}; its columns are: {described}.")
    if image_column in images:
        dataset = dataset.cast_column(image_column, ImageFeature(decode=False))
    label_column = label_column or (labels[0] if labels else None)
    class_names = features[label_column].names if label_column in labels else None
    return ImageSource(dataset, name, image_column, label_column, class_names)


def _digits(split: str):
    """scikit-learn's 8x8 scans, a stratified quarter held out as test."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        raise ValueError(f"`dataset` 'digits' has the splits train and test, got {split!r}.")
    scans, labels = load_digits(return_X_y=True)
    parts = train_test_split(scans, labels, test_size=_DIGITS_TEST_SHARE, random_state=0, stratify=labels)
    pixels, labels = (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])
    pixels = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype("uint8")
    return Dataset.from_dict(
        {"image": [{"bytes": _png(scan), "path": None} for scan in pixels], "label": labels.tolist()},
        features=Features({"image": ImageFeature(), "label": ClassLabel(names=[str(digit) for digit in range(10)])}),
    )


def _png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _folder(name: str, split: str, streaming: bool):
    import datasets

    known = set(Image.registered_extensions())
    kinds: dict[str, int] = {}
    for path in Path(name).rglob("*"):
        if path.is_file():
            kinds[path.suffix.lower() or "no ending"] = kinds.get(path.suffix.lower() or "no ending", 0) + 1
    if not known & kinds.keys():
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
        hint = f" For Parquet write `dataset: {name}/*.parquet`." if ".parquet" in kinds else ""
        raise ValueError(f"`dataset` {name!r} holds no images: found {found}.{hint}")
    try:
        return datasets.load_dataset("imagefolder", data_dir=name, split=split, streaming=streaming)
    except ValueError as error:
        raise _unknown_split(name, split, error) from error


def _from_hub(name: str, split: str, config: str | None, revision: str | None, streaming: bool):
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split, revision=revision, streaming=streaming)
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):
            raise ValueError(
                f"`dataset` {name!r} is gated: accept its terms on the Hub, then log in with `hf auth login`."
            ) from error
        raise ValueError(
            f"`dataset` {name!r} was not found: it is neither 'digits', a folder here, nor a dataset of the Hub that "
            "can be reached with this login. Check the spelling; private and gated sets need `hf auth login`."
        ) from error
    except FileNotFoundError as error:
        raise ValueError(f"`dataset` {name!r} has no images: {error}") from error
    except ConnectionError as error:
        raise ValueError(f"`dataset` {name!r} is not a folder here, and the Hub cannot be reached: {error}") from error
    except ValueError as error:
        raise _unknown_split(name, split, error) from error


def _unknown_split(name: str, split: str, error: ValueError) -> ValueError:
    """`datasets` knows which splits or configs there are, and says so in its message."""
    if "corresponds to no data" in str(error):
        return ValueError(f"`dataset` {name!r} has no images: the split {split!r} is empty.")
    if "split" not in str(error).lower() and "config" not in str(error).lower():
        return error
    return ValueError(f"`dataset` {name!r} has no split {split!r}: {error}")


def _nearby(name: str) -> str:
    parent = Path(name).parent
    if not parent.is_dir():
        return f"The folder {str(parent)!r} does not exist either."
    entries = sorted(entry.name for entry in parent.iterdir())
    close = difflib.get_close_matches(Path(name).name, entries) or entries[:8]
    return f"{str(parent)!r} holds {', '.join(close) or 'nothing'}."
