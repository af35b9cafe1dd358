import importlib.util
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


pytestmark = pytest.mark.slow  # each makes shards in a process


def make(folder: Path, *arguments: str) -> list[Path]:
    command = [sys.executable, str(SCRIPT), str(folder), "--classes", "10", *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    sizes = ["--images", "120", "--shards", "2", "--distinct", "60", "--validation_images", "5"]
    make(folder, *sizes, "--row_group_size", "25")
    return folder


def rows(folder: Path, split: str = "train"):
    files = str(folder / f"{split}-*.parquet")
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)


def undecoded(folder: Path, split: str = "train") -> list[dict]:
    return list(rows(folder, split).cast_column("image", datasets.Image(decode=False)))


def images_of(folder: Path) -> list[Image.Image]:
    return [Image.open(io.BytesIO(row["image"]["bytes"])) for row in undecoded(folder)[:60]]


def test_schema_is_that_of_imagenet(folder):
    names = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "validation-00000-of-00001.parquet"]
    assert [path.name for path in sorted(folder.iterdir())] == names
    label = datasets.ClassLabel(names=[f"n{number:08d}" for number in range(10)])
    features = datasets.Features({"image": datasets.Image(), "label": label})
    for name in names:
        schema = pq.read_schema(folder / name)
        assert schema.equals(features.arrow_schema, check_metadata=True)
        assert str(schema.field("image").type) == "struct<bytes: binary, path: string>"
    assert rows(folder).features == features
    groups = pq.read_metadata(folder / names[0])
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [25, 25, 10]


def test_rows_read_back(folder):
    train, validation = undecoded(folder), undecoded(folder, "validation")
    assert len(train) == 120 and len(validation) == 5
    for number, row in enumerate(train):
        name = f"n{row['label']:08d}"
        assert row["image"]["path"] == f"{name}_{number}_{name}.JPEG"
    encoded = [row["image"]["bytes"] for row in train + validation]
    assert len(set(encoded)) == 125
    # 60 pictures of 10 classes, used twice; those for validation are others.
    labels = [row["label"] for row in train]
    assert np.bincount(labels).tolist() == [12] * 10 and labels[:60] == labels[60:] and labels[:10] != labels[10:20]
    pixels = [Image.open(io.BytesIO(data)).tobytes() for data in encoded]
    assert pixels[:60] == pixels[60:120] and len(set(pixels)) == 65
    first = next(iter(rows(folder)))["image"]
    assert first.tobytes() == pixels[0]


def test_jpegs_are_like_those_of_imagenet(folder):
    images = images_of(folder)
    assert {image.format for image in images} == {"JPEG"}
    assert {image.layer[0][1:3] for image in images if image.mode == "RGB"} == {(2, 2)}  # 4:2:0
    assert all(image.info["jfif"] == 257 for image in images)  # its header comes first
    assert [image.info["comment"] for image in images] == [f"picture {number}".encode() for number in range(60)]
    assert 80_000 < np.mean([len(row["image"]["bytes"]) for row in undecoded(folder)]) < 120_000
    sizes = [image.size for image in images]
    assert max(set(sizes), key=sizes.count) == (500, 375) and len(set(sizes)) > 5
    assert 420 * 340 < np.mean([width * height for width, height in sizes]) < 540 * 420


def test_pictures_have_the_spectrum_of_photographs(folder):
    window = np.hanning(256)
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    middle = (frequency > 0.01) & (frequency < 0.3)
    slopes, correlations = [], []
    for image in images_of(folder):
        grey = np.asarray(image.convert("L"), dtype=float)[:256, :256]
        if grey.shape == (256, 256):
            power = np.abs(np.fft.fft2((grey - grey.mean()) * window[:, None] * window)) ** 2
            slopes.append(np.polyfit(np.log(frequency[middle]), np.log(power[middle]), 1)[0])
        if image.mode == "RGB":
            correlations.append(np.corrcoef(np.asarray(image).reshape(-1, 3).T)[0, 1])
    assert len(slopes) > 40 and -2.8 < np.mean(slopes) < -1.5  # photographs have about -2
    assert 0.7 < np.mean(correlations) < 0.99


def test_pictures_of_a_class_look_alike(folder):
    # The mean colour says the class more often than the one chance in ten: nearest other picture, leave one out.
    train = undecoded(folder)[:60]
    labels = np.array([row["label"] for row in train])
    small = [image.convert("RGB").resize((8, 8), Image.Resampling.BOX) for image in images_of(folder)]
    colours = np.array([np.asarray(image).mean(axis=(0, 1)) for image in small])
    colours /= colours.sum(axis=1, keepdims=True)
    distances = np.linalg.norm(colours[:, None] - colours, axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.25


def test_same_whatever_the_processes_and_a_killed_run_goes_on(tmp_path):
    sizes = ["--images", "12", "--shards", "2"]
    contents = [path.read_bytes() for path in make(tmp_path / "a", *sizes, "--workers", "1")]
    second = make(tmp_path / "b", *sizes, "--workers", "2")
    assert [path.read_bytes() for path in second] == contents
    # What a killed run leaves: one shard whole, one torn.
    second[1].unlink()
    second[1].with_suffix(".part").write_bytes(contents[1][:1000])
    before = second[0].stat().st_mtime_ns
    second = make(tmp_path / "b", *sizes)
    assert [path.read_bytes() for path in second] == contents
    assert second[0].stat().st_mtime_ns == before


def load_script():
    spec = importlib.util.spec_from_file_location("make_shards", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_number_label_and_seed_all_count():
    make_jpeg = load_script().make_jpeg
    assert len({make_jpeg(job) for job in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]}) == 4


def run_here(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    load_script().main()


@pytest.mark.parametrize("name", ["images", "shards", "distinct", "classes", "workers", "row_group_size"])
def test_bad_numbers_are_named(tmp_path, monkeypatch, name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        run_here(monkeypatch, tmp_path / "new", f"--{name}", 0)
    assert not (tmp_path / "new").exists()


def test_numbers_that_do_not_fit_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`shards` must be at most `images`, 3, got 4"):
        run_here(monkeypatch, tmp_path, "--images", 3, "--shards", 4)
    with pytest.raises(ValueError, match="`validation_images` must be 0 or more, got -1"):
        run_here(monkeypatch, tmp_path, "--validation_images", -1)


def test_shards_of_another_command_are_not_mixed_in(folder, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(ValueError, match="`folder` holds train-00000-of-00002.parquet, not one of 3 shards"):
        run_here(monkeypatch, folder, "--images", 120, "--shards", 3)
    with pytest.raises(ValueError, match="holds train-00000-of-00002.parquet with 60 rows, not 50"):
        run_here(monkeypatch, folder, "--images", 100, "--shards", 2)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
