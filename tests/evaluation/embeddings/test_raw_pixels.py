import io

import datasets
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

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
