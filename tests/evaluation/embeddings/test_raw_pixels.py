import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from processes import Script
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lejepa_hf.data.errors import DataError
from lejepa_hf.data.sources import ImageSource, load_source
from lejepa_hf.evaluation.embeddings.raw_pixels import raw_pixels


def images_source(images: list[Image.Image]) -> ImageSource:
    rows = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    dataset = datasets.Dataset.from_dict({"image": rows, "label": list(range(len(rows)))})
    return ImageSource(dataset, "made here", "image", "label")


@pytest.mark.parametrize("split", ["train", "test"])
def test_raw_pixels_of_digits_are_those_of_scikit_learn(split):
    scans, labels = load_digits(return_X_y=True)
    parts = train_test_split(scans, labels, test_size=0.25, random_state=0, stratify=labels)
    scans, labels = (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])
    found = raw_pixels(load_source("digits", split))
    np.testing.assert_allclose(found.embeddings.numpy(), scans / 16, atol=0.5 / 255 + 1e-6)
    assert found.labels.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("images", "dim"),
    [
        ([("L", (8, 8), 10), ("L", (8, 8), 20)], 64),
        ([("RGB", (6, 5), (9, 9, 9))], 90),
        ([("L", (8, 8), 10), ("RGB", (8, 8), (10, 10, 10))], 192),  # one mode for all
        ([("L", (8, 8), 10), ("L", (9, 8), 10)], 1024),  # one size for all
        ([("L", (40, 40), 10)], 1024),
    ],
)
def test_raw_pixels_of_all_images_have_one_shape(images, dim):
    found = raw_pixels(images_source([Image.new(*image) for image in images])).embeddings
    assert found.shape == (len(images), dim)
    first = images[0][2]
    assert found[0].unique().tolist() == pytest.approx([(first if isinstance(first, int) else first[0]) / 255])


@pytest.mark.parametrize(
    ("late", "shape"),
    [
        (("L", (8, 8)), (8, 8)),
        (("L", (9, 8)), (32, 32)),
        (("RGB", (8, 8)), (8, 8, 3)),
        (("RGB", (500, 20)), (32, 32, 3)),
    ],
)
def test_a_late_image_changes_all_vectors(late, shape):
    rng, (mode, size) = np.random.default_rng(0), late
    images = [Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(300)]
    images.append(Image.effect_noise(size, 90).convert(mode))
    found = raw_pixels(images_source(images))
    common = "RGB" if len(shape) == 3 else "L"
    expected = np.stack([np.asarray(image.convert(common).resize(shape[:2])).ravel() for image in images])
    np.testing.assert_array_equal(found.embeddings.numpy(), expected.astype(np.float32) / 255)
    assert found.labels.tolist() == list(range(301))


def test_broken_images_have_no_vector():
    source = images_source([Image.new("L", (8, 8), number) for number in range(4)])
    rows = list(source.dataset)
    for number in (0, 2):
        rows[number]["image"] = {"bytes": b"nothing", "path": None}
    found = raw_pixels(ImageSource(rows, "made here", "image", "label"))
    assert (found.labels.tolist(), sorted(found.broken), found.rows()) == ([1, 3], [0, 2], [1, 3])
    with pytest.raises(DataError, match="none of its images can be read"):
        raw_pixels(ImageSource(rows[:1], "made here", "image", "label"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pixels", "embeddings"])
def test_large_images_are_not_in_memory_together(tmp_path, kind):
    Image.new("RGB", (2000, 1500)).save(tmp_path / "photo.jpg")
    run = Script(Path(__file__).parents[2] / "memory_run.py", [kind, tmp_path, 60], tmp_path / "output")
    run.process.join()
    lines = (tmp_path / "output").read_text(encoding="utf-8").splitlines()
    assert run.poll() == 0 and int(lines[-1]) < 350, (
        lines
    )  # decoded, they have 720 MB; preprocessing makes several copies
