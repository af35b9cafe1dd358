import io
import logging
from dataclasses import replace

import pytest
from datasets import Features, Value
from datasets import Image as ImageFeature
from pictures import contents, encoded, message, save, table
from PIL import Image

from lejepa_hf.data.image_source import ImageSource, some_rows
from lejepa_hf.data.sources import load_mixture, load_source

pytestmark = pytest.mark.usefixtures("own_cache")


def test_columns_can_be_named(tmp_path):
    features = Features({"a": ImageFeature(), "b": ImageFeature(), "n": Value("int64")})
    image = [{"bytes": encoded(i), "path": None} for i in range(3)]
    table([], features, a=image, b=image[::-1], n=[5, 6, 7]).to_parquet(tmp_path / "two.parquet")
    name = str(tmp_path / "two.parquet")
    text = message(name)
    assert "2 image columns (a, b)" in text and "`image_column`" in text and "n: Value" in text
    source = load_source(name, image_column="b", label_column="n")
    assert (source.image_column, source.label_column, source.class_names) == ("b", "n", None)
    assert [Image.open(io.BytesIO(row["b"]["bytes"])).getpixel((0, 0))[0] for row in source.dataset] == [2, 1, 0]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("integers", "found"),
    [
        ({"n": "uint8"}, "n"),
        ({"n": "int64", "image_id": "int32", "width": "int32", "__index_level_0__": "int64"}, "n"),
        ({"n": "int64", "m": "int64"}, None),
        ({"id": "int64"}, None),
        ({"cls": "int64", "m": "int64"}, "cls"),
    ],
)
def test_the_only_column_of_integers_is_a_label(integers, found, streaming):
    features = Features({"photo": ImageFeature()} | {name: Value(kind) for name, kind in integers.items()})
    images = [{"bytes": encoded(i), "path": None} for i in range(2)]
    given = table([], features, photo=images, **dict.fromkeys(integers, [0, 1]))
    assert load_source(given, streaming=streaming).label_column == found
    assert load_source(given, label_column=list(integers)[-1], streaming=streaming).label_column == list(integers)[-1]


@pytest.mark.parametrize("field", ["image_column", "label_column"])
def test_missing_column_lists_the_columns(parquet, field):
    text = message(parquet, **{field: "img"})
    assert f"`{field}` 'img'" in text and "photo: Image" in text and "kind: ClassLabel" in text


def test_no_image_column(tmp_path):
    table([], Features({"n": Value("int64")}), n=[1]).to_parquet(tmp_path / "numbers.parquet")
    assert "no image column" in message(str(tmp_path / "numbers.parquet"))


def test_no_rows(tmp_path, parquet):
    assert "'train[:0]' is empty" in message(parquet, split="train[:0]")
    table([]).to_parquet(tmp_path / "none.parquet")
    for streaming in (False, True):
        assert "none.parquet' has no images" in message(str(tmp_path / "none.parquet"), streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_parquet_file_without_image_type_holds_can_be_named(tmp_path, streaming):
    for i in range(3):
        save(tmp_path / f"{i}.png", i)
    data = [encoded(i) for i in range(3)]
    features = Features({"jpeg": Value("binary"), "large": Value("large_binary"), "file": Value("string"),
                         "n": Value("int64")})  # fmt: skip
    columns = {"jpeg": data, "large": data, "file": [str(tmp_path / f"{i}.png") for i in range(3)], "n": [0, 1, 2]}
    table([], features, **columns).to_parquet(tmp_path / "plain.parquet")
    name = str(tmp_path / "plain.parquet")
    assert "no image column" in message(name, streaming=streaming)
    assert "jpeg: Value(binary)" in message(name, streaming=streaming)
    for column in ("jpeg", "large", "file"):
        source = load_source(name, image_column=column, streaming=streaming)
        assert (source.image_column, contents(source)) == (column, [0, 1, 2])
    assert "neither images, their bytes nor paths" in message(name, image_column="n", streaming=streaming)


def test_bytes_and_path_are_an_image_without_its_type(tmp_path):
    features = Features({"image": {"bytes": Value("binary"), "path": Value("string")}, "n": Value("int64")})
    rows = [{"bytes": encoded(i), "path": None} for i in range(3)]
    table([], features, image=rows, n=[0, 1, 2]).to_parquet(tmp_path / "plain.parquet")
    source = load_source(str(tmp_path / "plain.parquet"))
    assert (source.image_column, contents(source)) == ("image", [0, 1, 2])


def test_columns_are_named_in_the_log(tmp_path, caplog):
    table(range(2)).to_parquet(tmp_path / "a.parquet")
    with caplog.at_level(logging.INFO, "lejepa_hf"):
        load_source(str(tmp_path / "a.parquet"))
        load_source(str(tmp_path / "a.parquet"))
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path / 'a.parquet'}: images in column 'photo', labels in 'kind'"
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_sample_at_random_of_images_that_come_class_by_class(streaming):
    digits = load_source("digits").dataset.sort("label")
    source = load_source(digits, streaming=streaming)
    rows = list(some_rows(source, 300))
    assert len(rows) == 300
    images = [row["image"]["bytes"] for row in rows]
    assert len(set(images)) > 290  # each once; a few scans are alike
    assert images == [row["image"]["bytes"] for row in some_rows(source, 300)]
    assert images != [row["image"]["bytes"] for row in some_rows(source, 300, seed=1)]
    if not streaming:  # a stream shuffles within its buffer
        assert {row["label"] for row in rows} == set(range(10))


def test_no_more_than_there_are():
    assert len(list(some_rows(load_source("digits", "test"), 10_000))) == 450


@pytest.mark.parametrize("streaming", [False, True])
def test_a_source_says_whether_it_is_a_stream(parquet, streaming):
    source = load_source(parquet, streaming=streaming)
    assert source.is_stream == streaming
    assert (source.fingerprint is None) == streaming
    assert set(source.features) == {"photo", "kind"}
    whole = load_source(parquet)
    assert not replace(source, dataset=whole.dataset).is_stream  # decided anew for another dataset


def test_a_mixture_is_a_source_too():
    mixture = load_mixture([{"dataset": table(range(3)), "image_column": "photo"}] * 2)
    source = ImageSource(mixture, "both", "image")
    assert (source.is_stream, source.num_images, source.fingerprint, source.features) == (False, 6, None, {})
    stream = load_mixture([{"dataset": table(range(3)), "image_column": "photo"}], streaming=True)
    assert ImageSource(stream, "one", "image").is_stream


def test_the_fingerprint_tells_images_apart(parquet):
    source = load_source(parquet)
    assert source.fingerprint == load_source(parquet).fingerprint
    assert source.fingerprint != load_source(parquet, split="train[1:]").fingerprint
