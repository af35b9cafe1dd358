"""Small pictures, each of one colour that tells its number, and where to put them."""

import io
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from lejepa_hf.data.sources import load_source

FEATURES = Features({"photo": ImageFeature(), "kind": ClassLabel(names=["cat", "dog"])})


def encoded(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (number, 2 * number, 0)).save(buffer, kind)
    return buffer.getvalue()


def save(path: Path, number: int):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(number))


def table(numbers, features: Features = FEATURES, **columns) -> Dataset:
    columns = columns or {
        "photo": [{"bytes": encoded(i), "path": None} for i in numbers],
        "kind": [i % 2 for i in numbers],
    }
    return Dataset.from_dict(columns, features=features)


def number_of(value: dict) -> int:
    """The number of a picture as a row holds it, which shows too that it is undecoded."""
    data = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    return Image.open(io.BytesIO(data)).getpixel((0, 0))[0]


def contents(source) -> list[int]:
    """The numbers of a source's pictures."""
    return sorted(number_of(row[source.image_column]) for row in source.dataset)


def message(*arguments, **settings) -> str:
    """With which a source is refused."""
    with pytest.raises(ValueError) as error:
        load_source(*arguments, **settings)
    return str(error.value)
