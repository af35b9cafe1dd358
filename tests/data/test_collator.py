import gc
import io
import pickle
import struct
import zlib
from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset, List
from datasets import Image as ImageFeature
from parquet_shards import open_shards, write_shard
from PIL import Image, features
from torch.utils.data import DataLoader, IterableDataset

from lejepa_hf import MultiCropCollator, MultiCropTransform
from lejepa_hf.data.errors import DataError
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


def test_rows_without_epoch_and_index_are_cut_anew():
    torch.manual_seed(0)
    batches = [MultiCropCollator(TRANSFORM)([row]) for row in ({"image": png(0)}, {"image": png(0), "index": 3})]
    torch.manual_seed(0)
    for batch in batches:
        assert_same({name: value[0] for name, value in batch.items()}, TRANSFORM(png(0)))


def cut_rows(batch: dict) -> dict:
    """A transform of `datasets`."""
    views = [TRANSFORM(image) for image in batch["image"]]
    return {name: [of[name] for of in views] for name in views[0]}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["rows", "with_transform"])
def test_plain_loaders_give_new_views_in_each_epoch(kind, workers):
    """They gave the same views in every epoch."""
    images = [{"image": Image.open(io.BytesIO(png(0)))} for _ in range(4)]
    if kind == "with_transform":
        images = Dataset.from_list(images).cast_column("image", ImageFeature()).with_transform(cut_rows)

    def epochs() -> list[torch.Tensor]:
        torch.manual_seed(0)
        loader = DataLoader(images, batch_size=2, collate_fn=MultiCropCollator(TRANSFORM), num_workers=workers)
        return [batch["global_views"] for _ in range(3) for batch in loader]

    batches = epochs()
    views = {view.numpy().tobytes() for batch in batches for view in batch}
    assert len(views) == 3 * len(images)  # all of one image, in three epochs and in each worker
    assert all(torch.equal(*pair) for pair in zip(batches, epochs(), strict=True))


def forms(kind: str):
    """Four images and their labels, as datasets of several kinds yield them."""
    images = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows()]
    if kind == "PIL alone":
        return images
    if kind == "tuples":
        return [(image, label) for label, image in enumerate(images)]
    if kind == "arrays":
        return [(np.asarray(image), np.int64(label)) for label, image in enumerate(images)]
    if kind == "tensors":
        return [(to_image(image), torch.tensor(label)) for label, image in enumerate(images)]
    if kind == "floats":
        return [(to_image(image) / 255, torch.tensor(label)) for label, image in enumerate(images)]
    built = Dataset.from_dict({"image": images, "label": list(range(4))}).cast_column("image", ImageFeature())
    if kind == "a torch iterable":
        return Iterable(built)
    return built.to_iterable_dataset().with_format("torch") if kind == "a stream" else built.with_format(kind)


def to_image(image: Image.Image) -> torch.Tensor:
    """Channels first, as torchvision makes it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class Iterable(IterableDataset):
    """Rows one after the other."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        yield from self.rows


KINDS = ["PIL alone", "tuples", "arrays", "tensors", "floats", "torch", "numpy", None, "a stream", "a torch iterable"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_datasets_yield(kind):
    """Tensors were broken images, and tuples an AttributeError."""
    loader = DataLoader(
        forms(kind),
        batch_size=4,
        collate_fn=MultiCropCollator(TRANSFORM, label_column=None if kind == "PIL alone" else "label"),
    )
    torch.manual_seed(0)
    (batch,) = loader
    torch.manual_seed(0)
    torch.empty((), dtype=torch.int64).random_()  # the loader draws the seed of its workers
    expected = MultiCropCollator(TRANSFORM)([{"image": row["image"]} for row in rows()])
    assert batch.pop("probe_labels", torch.arange(4)).tolist() == [0, 1, 2, 3]
    assert_same(batch, expected)


def test_views_that_a_transform_of_torchvision_has_cut():
    cut = [(TRANSFORM(row["image"], row["epoch"], row["index"]), row["label"]) for row in rows()]
    batch = MultiCropCollator(TRANSFORM, label_column="label")(cut)
    assert batch.pop("probe_labels").tolist() == [0, 1, 2, 3]
    assert_same(batch, MultiCropCollator(TRANSFORM)(rows()))


def test_tuples_come_through_endless_rows():
    pairs = [(row["image"]["bytes"], row["label"]) for row in rows()]
    collator = MultiCropCollator(TRANSFORM, "photo", "label")
    batch = next(iter(DataLoader(EndlessRows(pairs, 4, seed=0, image_column="photo"), 4, collate_fn=collator)))
    order = batch.pop("probe_labels").tolist()
    assert sorted(order) == [0, 1, 2, 3] and batch.pop("position")
    numbered = [{"image": rows()[index]["image"], "epoch": 0, "index": index} for index in order]
    assert_same(batch, MultiCropCollator(TRANSFORM)(numbered))


def test_a_transform_of_another_kind():
    with pytest.raises(TypeError, match="`transform` must be a MultiCropTransform, got function: put your own"):
        MultiCropCollator(lambda image: image)


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
    assert next(iter(loader)).keys() == {*SHAPES, "position"}


def test_missing_column():
    with pytest.raises(KeyError) as error:
        MultiCropCollator(TRANSFORM, image_column="photo")(rows())
    for name in ("image_column", "photo", "image", "label"):
        assert f"{name}" in str(error.value)
    assert MultiCropCollator(TRANSFORM, image_column="photo")(rows(column="photo"))["global_views"].shape[0] == 4


def bomb() -> bytes:
    """A PNG whose header promises 400 million pixels."""
    data = bytearray(png(0))
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


BROKEN = {
    "text": b"no image",
    "nothing": b"",
    "truncated PNG": png(0)[:200],
    "truncated JPEG": jpeg()[:2000],
    "corrupt PNG": png(0)[:60] + bytes(400) + png(0)[460:],
    "bomb": bomb(),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_broken_image_is_replaced_by_the_next_good_one(broken, place):
    batch = rows()
    batch[place] |= {"image": {"bytes": broken, "path": None}, "where": f"row {place} of shard 7"}
    cut = MultiCropCollator(TRANSFORM)(batch)
    (message,) = cut.pop("broken")
    assert message.startswith(f"row {place} of shard 7: ") and len(message) > 30
    following = rows()[(place + 1) % 4]
    replacement = TRANSFORM(following["image"], epoch=1, index=10 + place)
    whole = MultiCropCollator(TRANSFORM)(rows())
    for name, values in cut.items():
        for i in range(4):
            assert torch.equal(values[i], replacement[name] if i == place else whole[name][i])
    assert not torch.equal(cut["global_views"][place], cut["global_views"][(place + 1) % 4])


def test_broken_files_are_named_by_their_path(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    batch = rows()
    batch[1]["image"] = {"bytes": None, "path": str(tmp_path / "a.png")}
    assert MultiCropCollator(TRANSFORM)(batch)["broken"][0].startswith(f"{tmp_path}/a.png (row 11): ")


def test_a_damaged_avif_is_replaced():
    # Its decoder raises what no other raises.
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(buffer, "AVIF")
    batch = rows()
    batch[1]["image"] = buffer.getvalue()[:-200]
    cut = MultiCropCollator(TRANSFORM)(batch)
    assert len(cut["broken"]) == 1 and cut["broken"][0].startswith("row 11: ")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_unusual_modes_are_not_broken(mode):
    image = Image.open(io.BytesIO(png(0)))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert("L").convert(mode) if mode in ("1", "F") else image.convert(mode)
    if mode == "F":
        image = Image.fromarray(np.asarray(image) / 255)
    if mode == "P":
        image.info["transparency"] = 3
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode in ("CMYK", "F") else "PNG")
    batch = rows()
    batch[2]["image"] = {"bytes": buffer.getvalue(), "path": None}
    cut = MultiCropCollator(TRANSFORM)(batch)
    assert "broken" not in cut
    assert 50 < cut["global_views"][2].float().mean() < 200


def test_a_missing_image_and_neighbours_that_are_broken_too():
    batch = rows()
    batch[1]["image"] = None
    batch[2]["image"] = {"bytes": None, "path": "/no/such/file.png"}
    cut = MultiCropCollator(TRANSFORM)(batch)
    assert [message.split(":")[0] for message in cut["broken"]] == ["row 11", "/no/such/file.png (row 12)"]
    for place in (1, 2):
        replacement = TRANSFORM(rows()[3]["image"], epoch=1, index=10 + place)
        assert torch.equal(cut["global_views"][place], replacement["global_views"])


def test_nothing_is_said_of_whole_images():
    assert "broken" not in MultiCropCollator(TRANSFORM)(rows())


def test_a_batch_without_one_good_image_is_an_error():
    batch = [row | {"image": {"bytes": b"no image", "path": None}} for row in rows()]
    with pytest.raises(DataError, match=r"None of the 4 images.*row 10: UnidentifiedImageError"):
        MultiCropCollator(TRANSFORM)(batch)


def test_position_and_broken_images_come_out_of_a_worker(tmp_path):
    images = [png(0), b"no image", png(2), png(3), b"", png(5), png(6), png(7)]
    write_shard(tmp_path / "0.parquet", images)
    stream = EndlessRows(open_shards(str(tmp_path / "*.parquet")), 4, seed=0)
    batches = list(islice(DataLoader(stream, 4, collate_fn=MultiCropCollator(TRANSFORM), num_workers=1), 4))
    assert [batch["position"].passes for batch in batches] == [[(0, 4)], [(0, 8)], [(1, 4)], [(1, 8)]]
    assert all(batch["global_views"].shape == (4, 2, 3, 24, 24) for batch in batches)
    for epoch in (batches[:2], batches[2:]):
        messages = sorted(message for batch in epoch for message in batch.get("broken", []))
        assert [message.split(": ")[:2] for message in messages] == [
            ["row 1 of shard 0 of 1", "UnidentifiedImageError"],
            ["row 4 of shard 0 of 1", "UnidentifiedImageError"],
        ]


def test_broken_batch_of_a_worker_stops_the_run_with_one_line(tmp_path):
    write_shard(tmp_path / "0.parquet", [b"no image"] * 8)
    stream = EndlessRows(open_shards(str(tmp_path / "*.parquet")), 4, seed=0)
    batches = iter(DataLoader(stream, 4, collate_fn=MultiCropCollator(TRANSFORM), num_workers=1))
    with pytest.raises(DataError, match=r"^None of the 4 images of a batch can be decoded. row \d of shard") as error:
        next(batches)
    assert "Traceback" not in str(error.value) and "\n" not in str(error.value)
    del error  # it holds the loader in a cycle, and collected as a part of one that waits 5 s for its worker
    gc.collect()


@pytest.mark.slow
def test_spawned_worker_gives_the_same():
    # macOS spawns workers, so that dataset and collator travel as pickles.
    collator = MultiCropCollator(TRANSFORM)
    assert_same(pickle.loads(pickle.dumps(collator))(rows()), collator(rows()))
    loader = DataLoader(rows(), batch_size=4, collate_fn=collator, num_workers=1, multiprocessing_context="spawn")
    assert_same(next(iter(loader)), collator(rows()))


def test_labels_stand_apart_and_are_those_of_the_images_shown():
    collator = MultiCropCollator(TRANSFORM, label_column="label")
    batch = collator(rows())
    assert batch.keys() == {*SHAPES, "probe_labels"} and batch["probe_labels"].tolist() == [0, 1, 2, 3]
    broken = rows()
    broken[1]["image"], broken[3]["image"] = b"torn", None
    batch = collator(broken)
    assert batch["probe_labels"].tolist() == [0, 2, 2, 0]  # of the next good image, and of the first behind the last
    assert collator([{**row, "label": np.int64(3)} for row in rows()])["probe_labels"].tolist() == [3] * 4
    for value in (None, "seven", 1.5, -1, 2**64):
        assert collator([{**row, "label": value} for row in rows()])["probe_labels"].tolist() == [-1] * 4
    with pytest.raises(KeyError, match="`label_column` 'class' is not in the row"):
        MultiCropCollator(TRANSFORM, label_column="class")(rows())


@pytest.mark.parametrize("kind", ["lists", "tuples", "array", "tensor"])
def test_a_list_of_images_per_row(kind):
    images = [np.asarray(Image.open(io.BytesIO(png(n)))) for n in range(3)]
    value = {"lists": [{"bytes": png(n), "path": None} for n in range(3)], "tuples": tuple(images)}
    value |= {"array": np.stack(images), "tensor": torch.from_numpy(np.stack(images))}
    collator = MultiCropCollator(TRANSFORM, label_column="label", view_column="photos")
    assert collator.image_column == "photos"
    batch = collator([{"photos": value[kind], "label": 3, "epoch": 1, "index": 5}])
    assert batch.pop("probe_labels").tolist() == [3]
    views = TRANSFORM(tuple(images), epoch=1, index=5)
    assert_same({name: tensor[0] for name, tensor in batch.items()}, views)


def test_a_view_column_that_holds_single_images():
    collator = MultiCropCollator(TRANSFORM, view_column="image")
    with pytest.raises(DataError, match=r"TypeError: `view_column` 'image' holds dict, not a list of images"):
        collator(rows())
    with pytest.raises(KeyError, match="`view_column` 'image' is not in the row"):
        collator([{"photo": 1}])


def test_lists_of_images_are_fixed_by_their_content():
    photos = [[{"bytes": png(2 * n + k), "path": None} for k in range(2)] for n in range(4)]
    built = Dataset.from_dict({"photos": photos}).cast_column("photos", List(ImageFeature(decode=False)))
    batches = []
    for shards in (1, 2):
        stream = EndlessRows(built.to_iterable_dataset(shards), 4, seed=0, image_column="photos")
        batches.append(sorted(row["index"] for row in islice(stream, 4)))
    assert batches[0] == batches[1] and len(set(batches[0])) == 4 and min(batches[0]) > 4
