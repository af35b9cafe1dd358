import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lejepa_hf import MultiCropCollator, MultiCropTransform
from lejepa_hf.data.streaming import EndlessRows

TRANSFORM = MultiCropTransform(num_local_views=3, global_crop_size=24, local_crop_size=12, seed=4)
SHAPES = {
    "global_views": (2, 3, 24, 24),
    "global_photometric": (2, 11),
    "local_views": (3, 3, 12, 12),
    "local_photometric": (3, 11),
}


def png(seed: int, width: int = 20) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def rows(number: int = 4, column: str = "image") -> list[dict]:
    image = [{"bytes": png(i, 20 + i), "path": None} for i in range(number)]
    return [{column: image[i], "label": i, "epoch": 1, "index": 10 + i} for i in range(number)]


def assert_same(first: dict, second: dict):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_stacks_views_and_leaves_labels():
    batch = MultiCropCollator(TRANSFORM)(rows())
    assert {name: tuple(value.shape) for name, value in batch.items()} == {n: (4, *s) for n, s in SHAPES.items()}
    assert batch["global_views"].dtype == batch["local_views"].dtype == torch.uint8


def test_epoch_and_index_of_a_row_fix_its_views():
    batch = MultiCropCollator(TRANSFORM)(rows())
    for i, row in enumerate(rows()):
        views = TRANSFORM(row["image"], epoch=1, index=10 + i)
        assert_same({name: value[i] for name, value in batch.items()}, views)


def test_rows_without_epoch_and_index():
    batch = MultiCropCollator(TRANSFORM)([{"image": png(0)}])
    assert_same({name: value[0] for name, value in batch.items()}, TRANSFORM(png(0), epoch=0, index=0))


def test_default_transform_is_the_published_one():
    batch = MultiCropCollator()(rows(1))
    assert batch["global_views"].shape == (1, 2, 3, 224, 224) and batch["local_views"].shape == (1, 6, 3, 96, 96)


@pytest.mark.parametrize("extra", [False, True])
def test_transformed_rows_pass(extra):
    # `dataset.map(...)` keeps the other columns, `EndlessRows` adds epoch and index.
    cut = [TRANSFORM(row["image"], row["epoch"], row["index"]) | (row if extra else {}) for row in rows()]
    assert_same(MultiCropCollator(TRANSFORM)(cut), MultiCropCollator(TRANSFORM)(rows()))


def test_transformed_rows_come_through_endless_rows():
    cut = [{"label": 3, **TRANSFORM(row["image"])} for row in rows()]
    loader = DataLoader(EndlessRows(cut, batch_size=4, seed=0), batch_size=4, collate_fn=MultiCropCollator(TRANSFORM))
    assert next(iter(loader)).keys() == SHAPES.keys()


def test_missing_column():
    with pytest.raises(KeyError) as error:
        MultiCropCollator(TRANSFORM, image_column="photo")(rows())
    for name in ("image_column", "photo", "image", "label"):
        assert f"{name}" in str(error.value)
    assert MultiCropCollator(TRANSFORM, image_column="photo")(rows(column="photo"))["global_views"].shape[0] == 4


@pytest.mark.parametrize("broken", [b"no image", png(0)[:100]])
def test_broken_image(broken):
    batch = rows()
    batch[2]["image"] = {"bytes": broken, "path": None}
    with pytest.raises(OSError, match=r"row 12 \(epoch 1\)"):
        MultiCropCollator(TRANSFORM)(batch)


def test_spawned_worker_gives_the_same():
    # macOS spawns workers, so that dataset and collator travel as pickles.
    collator = MultiCropCollator(TRANSFORM)
    assert_same(pickle.loads(pickle.dumps(collator))(rows()), collator(rows()))
    loader = DataLoader(rows(), batch_size=4, collate_fn=collator, num_workers=1, multiprocessing_context="spawn")
    assert_same(next(iter(loader)), collator(rows()))
