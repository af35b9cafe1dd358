import io

import numpy as np
import pytest
from datasets import Array2D, Array3D, ClassLabel, Dataset, Features, IterableDataset, Value
from datasets import Image as ImageFeature
from pictures import encoded, message

from lejepa_hf import MultiCropCollator, MultiCropTransform
from lejepa_hf.data.decoding import decode_image
from lejepa_hf.data.sources import ImageSource, load_mixture, load_source
from lejepa_hf.data.streaming import EndlessRows

RNG = np.random.default_rng(0)
TILES = RNG.integers(0, 10000, (12, 9, 8, 5), dtype=np.uint16)
FEATURES = Features({"tile": Array3D((9, 8, 5), "uint16"), "kind": ClassLabel(names=["wood", "lake"])})
RANGE = [0.0, 10000.0]
EXPECTED = [decode_image(tile, 5, RANGE) for tile in TILES]


def table(tiles=TILES, features=FEATURES) -> Dataset:
    return Dataset.from_dict({"tile": list(tiles), "kind": [i % 2 for i in range(len(tiles))]}, features=features)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("tiles") / "tiles.parquet"
    table().to_parquet(file, batch_size=3)  # four row groups
    return str(file)


def decoded(source: ImageSource) -> list[np.ndarray]:
    return [decode_image(row[source.image_column], 5, RANGE) for row in source.dataset]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "given"])
def test_arrays_are_found_and_keep_their_type(parquet, streaming, kind):
    source = load_source(parquet if kind == "parquet" else table(), streaming=streaming)
    assert (source.image_column, source.label_column, source.num_images) == ("tile", "kind", 12)
    assert source.class_names == ["wood", "lake"] and hasattr(source.dataset, "__len__") != streaming
    np.testing.assert_array_equal(
        sorted(map(np.ndarray.tobytes, decoded(source))), sorted(map(np.ndarray.tobytes, EXPECTED))
    )
    rows = list(source.dataset)
    assert [row["kind"] for row in rows] == [i % 2 for i in range(12)] and all(
        type(row["kind"]) is int for row in rows
    )
    if streaming:
        assert isinstance(rows[0]["tile"]["bytes"], bytes)
    else:
        assert isinstance(rows[0]["tile"], np.ndarray) and rows[0]["tile"].dtype == np.uint16


def views_of(source, batches=6, **settings):
    transform = MultiCropTransform(
        num_local_views=1, global_crop_size=8, local_crop_size=4, blur_kernel_size=3,
        image_mean=[0.5] * 5, image_std=[0.2] * 5, pixel_range=RANGE,
    )  # fmt: skip
    rows = iter(EndlessRows(source.dataset, batch_size=4, seed=0, image_column=source.image_column, **settings))
    collator = MultiCropCollator(transform, source.image_column, source.label_column)
    return [collator([next(rows) for _ in range(4)]) for _ in range(batches)]


@pytest.mark.parametrize("streaming", [False, True])
def test_from_file_to_views(parquet, streaming):
    batches = views_of(load_source(parquet, streaming=streaming), shuffle_buffer_size=5)
    assert batches[0]["global_views"].shape == (4, 2, 5, 8, 8) and "broken" not in batches[0]
    assert sum(int(batch["probe_labels"].sum()) for batch in batches) == 12  # two epochs, six lakes each
    again = views_of(load_source(parquet, streaming=streaming), shuffle_buffer_size=5)
    assert all((one["global_views"] == other["global_views"]).all() for one, other in zip(batches, again, strict=True))
    if streaming:
        where = batches[2]["position"]
        later = views_of(load_source(parquet, streaming=True), 1, start=[[where]], shuffle_buffer_size=5)[0]
        assert (later["global_views"] == batches[3]["global_views"]).all()


def test_streams_split_by_row_groups(parquet):
    source = load_source(parquet, streaming=True)
    assert source.dataset.num_shards == 4
    found = [row["tile"]["bytes"] for shard in range(4) for row in source.dataset.shard(4, shard)]
    np.testing.assert_array_equal([np.load(io.BytesIO(data)) for data in found], TILES)


@pytest.mark.parametrize("streaming", [False, True])
def test_mixtures(parquet, tmp_path, streaming):
    folder = tmp_path / "tiles"
    folder.mkdir()
    for number, tile in enumerate(TILES):
        np.save(folder / f"{number}.npy", tile)
    mixture = load_mixture([{"dataset": parquet}, {"dataset": str(folder)}], streaming)
    for member in mixture.datasets:
        assert list(member.features) == ["image"]
        found = [decode_image(row["image"], 5, RANGE).tobytes() for row in member]
        assert sorted(found) == sorted(tile.tobytes() for tile in EXPECTED)
    batches = views_of(ImageSource(mixture, "both", "image"))
    assert all("broken" not in batch for batch in batches)


def test_greyscale_arrays():
    scans = RNG.random((3, 6, 7), dtype=np.float32)
    features = Features({"scan": Array2D((6, 7), "float32")})
    source = load_source(Dataset.from_dict({"scan": list(scans)}, features=features))
    for row, scan in zip(source.dataset, scans, strict=True):
        assert row["scan"].dtype == np.float32
        np.testing.assert_array_equal(decode_image(row["scan"], 1), (scan * 255).round())


def test_a_generator_that_says_what_it_gives():
    def tiles():
        for tile in TILES:
            yield {"tile": tile, "kind": 1}

    source = load_source(IterableDataset.from_generator(tiles, features=FEATURES))
    np.testing.assert_array_equal(decoded(source), EXPECTED)


def test_sizes_that_differ():
    features = Features({"tile": Array3D((None, 8, 5), "uint16"), "kind": FEATURES["kind"]})
    tiles = [TILES[0], TILES[1][:4]]
    for streaming in (False, True):
        source = load_source(table(tiles, features), streaming=streaming)
        assert [image.shape for image in decoded(source)] == [(9, 8, 5), (4, 8, 5)]


def test_bytes_of_arrays_are_taken_if_named():
    buffers = [io.BytesIO() for _ in TILES]
    for buffer, tile in zip(buffers, TILES, strict=True):
        np.save(buffer, tile)
    columns = {"data": [buffer.getvalue() for buffer in buffers]}
    dataset = Dataset.from_dict(columns, features=Features({"data": Value("binary")}))
    np.testing.assert_array_equal(decoded(load_source(dataset, image_column="data")), EXPECTED)


def test_beside_images_arrays_are_something_else():
    features = Features({"photo": ImageFeature(), "depth": Array2D((2, 2), "float32")})
    dataset = Dataset.from_dict(
        {"photo": [{"bytes": encoded(3), "path": None}], "depth": [[[0.0, 1.0], [0.5, 0.5]]]}, features=features
    )
    assert load_source(dataset).image_column == "photo"
    source = load_source(dataset, image_column="depth")
    np.testing.assert_array_equal(decode_image(source.dataset[0]["depth"], 1), [[0, 255], [128, 128]])


def test_two_columns_of_arrays():
    features = Features({"a": Array2D((2, 2), "uint8"), "b": Array2D((2, 2), "uint8")})
    assert "2 image columns (a, b)" in message(Dataset.from_dict({"a": [[[0, 1]] * 2], "b": [[[0, 1]] * 2]}, features))


def test_numbers_are_no_images():
    dataset = Dataset.from_dict({"a": [1]})
    assert "nor arrays of 2 or 3 axes" in message(dataset, image_column="a")


def test_rows_without_an_array():
    tiles = [TILES[0], None, TILES[2]]
    text = message(table(tiles))
    assert "'tile'" in text and "1 rows without an array" in text and "streaming: true" in text
    source = load_source(table(tiles), streaming=True)
    (batch,) = views_of(source, 1, shuffle_buffer_size=1)
    assert len(batch["broken"]) >= 1 and "NoneType" in batch["broken"][0]


def test_other_channels_than_the_views_are_broken_images(parquet):
    transform = MultiCropTransform(global_crop_size=8, local_crop_size=4, blur_kernel_size=3)
    rows = [{"image": np.zeros((9, 8, 3), np.uint8)}, {"image": TILES[0], "where": "row 7"}]
    batch = MultiCropCollator(transform)(rows)
    (told,) = batch["broken"]
    assert told.startswith("row 7: ValueError: The image has 5 channels, but 3 are expected")
