import io
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "make_shards.py"


def make(folder: Path, *arguments: str) -> list[Path]:
    command = [sys.executable, str(SCRIPT), str(folder), "--classes", "10", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make(folder, "--images", "120", "--shards", "2", "--distinct", "40", "--validation_images", "5")
    return folder


def rows(folder: Path, split: str = "train", **settings):
    return datasets.load_dataset("parquet", data_files=str(folder / f"{split}-*.parquet"), split="train", **settings)


def test_schema_is_that_of_imagenet(folder):
    assert [path.name for path in sorted(folder.iterdir())] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
        "validation-00000-of-00001.parquet",
    ]
    stream = rows(folder, streaming=True)
    assert list(stream.features) == ["image", "label"]
    assert isinstance(stream.features["image"], datasets.Image)
    assert stream.features["label"].num_classes == 10
    assert pq.ParquetFile(folder / "train-00000-of-00002.parquet").num_row_groups == 1
    assert len(list(rows(folder, "validation", streaming=True))) == 5


def test_pictures_are_like_photographs(folder):
    undecoded = list(rows(folder, streaming=True).cast_column("image", datasets.Image(decode=False)))
    encoded = [row["image"]["bytes"] for row in undecoded]
    assert len(encoded) == len(set(encoded)) == 120
    assert 80_000 < np.mean([len(data) for data in encoded]) < 120_000
    images = [Image.open(io.BytesIO(data)) for data in encoded[:30]]
    assert {image.format for image in images} == {"JPEG"}
    assert 400 * 300 < np.mean([image.width * image.height for image in images]) < 640 * 480
    assert len({image.size for image in images}) > 3
    slopes = []
    window = np.hanning(256)
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    middle = (frequency > 0.01) & (frequency < 0.3)
    for image in images:
        grey = np.asarray(image.convert("L"), dtype=float)[:256, :256]
        if grey.shape == (256, 256):
            power = np.abs(np.fft.fft2((grey - grey.mean()) * window[:, None] * window)) ** 2
            slopes.append(np.polyfit(np.log(frequency[middle]), np.log(power[middle]), 1)[0])
    assert len(slopes) > 15 and -2.8 < np.mean(slopes) < -1.8  # photographs have about -2


def test_same_whatever_the_processes_and_shards_that_are_there_stay(tmp_path):
    first = make(tmp_path / "a", "--images", "12", "--shards", "2", "--workers", "1")
    second = make(tmp_path / "b", "--images", "12", "--shards", "2", "--workers", "2")
    contents = [path.read_bytes() for path in first]
    assert contents == [path.read_bytes() for path in second]
    second[1].unlink()
    before = second[0].stat().st_mtime_ns
    second = make(tmp_path / "b", "--images", "12", "--shards", "2")
    assert [path.read_bytes() for path in second] == contents
    assert second[0].stat().st_mtime_ns == before
