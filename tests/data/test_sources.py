import io
import itertools
import logging
import pickle
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import DatasetDict, Features, IterableDataset, Value
from datasets import Image as ImageFeature
from pictures import contents, encoded, message, number_of, save, table
from PIL import Image
from torch.utils.data import DataLoader

from lejepa_hf.data.sources import load_source
from lejepa_hf.data.streaming import EndlessRows


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


# Digits


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    train, test = load_source("digits"), load_source("digits", split="test")
    assert (train.num_images, test.num_images) == (1347, 450)
    assert (train.image_column, train.label_column) == ("image", "label")
    assert train.class_names == [str(digit) for digit in range(10)]
    scans, labels = load_digits(return_X_y=True)
    remaining = sorted(
        (np.round(scan * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for scan, label in zip(scans, labels, strict=True)
    )
    loaded = []
    for source in (train, test):
        for row in source.dataset:
            pixels = Image.open(io.BytesIO(row["image"]["bytes"]))
            assert (pixels.mode, pixels.size) == ("L", (8, 8))
            loaded.append((pixels.tobytes(), row["label"]))
    # Every scan once, in one of the splits: nothing doubled and nothing lost means that they are disjoint.
    assert sorted(loaded) == remaining
    assert len(set(remaining)) == 1797


def test_digits_are_stratified_and_always_the_same():
    train, test = load_source("digits"), load_source("digits", split="test")
    shares = [np.bincount(source.dataset["label"]) / source.num_images for source in (train, test)]
    np.testing.assert_allclose(*shares, atol=2 / 450)
    assert load_source("digits").dataset.to_dict() == train.dataset.to_dict()


def test_streamed_digits():
    stream, dataset = load_source("digits", streaming=True), load_source("digits")
    assert not hasattr(stream.dataset, "__len__")
    assert (stream.image_column, stream.label_column, stream.class_names) == ("image", "label", dataset.class_names)
    assert list(stream.dataset) == list(dataset.dataset)


@pytest.mark.parametrize("split", ["validation", "train[:10]"])
def test_unknown_digits_split(split):
    assert message("digits", split=split).endswith(f"has the splits train and test, got {split!r}.")


# Parquet files


@pytest.fixture
def parquet(tmp_path):
    table(range(4)).to_parquet(tmp_path / "train-0.parquet")
    table(range(4, 7)).to_parquet(tmp_path / "validation-0.parquet")
    return str(tmp_path / "*.parquet")


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_finds_the_image_column(parquet, streaming):
    source = load_source(parquet, streaming=streaming)
    assert (source.image_column, source.label_column, source.class_names) == ("photo", "kind", ["cat", "dog"])
    assert contents(source) == list(range(7))
    assert hasattr(source.dataset, "__len__") != streaming
    if not streaming:
        assert source.num_images == 7


def test_glob_chooses_the_files(parquet):
    assert contents(load_source(parquet.replace("*", "validation*"))) == [4, 5, 6]
    assert contents(load_source(parquet.replace("*", "train-0"), split="train[1:3]")) == [1, 2]


@pytest.mark.parametrize("streaming", [False, True])
def test_other_splits_of_parquet_do_not_pass_as_train(parquet, streaming):
    text = message(parquet, split="test", streaming=streaming)
    assert "no split 'test'" in text and "train" in text


def test_a_stream_of_parquet_files_says_its_length(parquet):
    source = load_source(parquet, streaming=True)
    assert source.num_images == 7
    assert source.dataset.num_shards == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_data_files(parquet, streaming):
    folder = Path(parquet).parent
    both = [str(folder / "validation*"), f"{folder}/train-{{0..0}}.parquet", str(folder / "train-0.parquet")]
    source = load_source("parquet", data_files=both, streaming=streaming)
    assert [number_of(row["photo"]) for row in source.dataset] == [4, 5, 6, 0, 1, 2, 3]  # a file met twice: once
    assert contents(load_source("parquet", data_files=both[0], streaming=streaming)) == [4, 5, 6]
    assert "`data_files` is missing" in message("parquet", streaming=streaming)
    assert "`data_files`" in message(parquet, data_files=both, streaming=streaming)


def test_globs_are_sorted(tmp_path):
    for number in (10, 2, 33, 1):
        table([number]).to_parquet(tmp_path / f"{number:02}.parquet")
    for streaming in (False, True):
        rows = load_source(f"{tmp_path}/*.parquet", streaming=streaming).dataset
        assert [number_of(row["photo"]) for row in rows] == [1, 2, 10, 33]


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_with_a_bracket_in_its_name(tmp_path, streaming):
    table([3]).to_parquet(tmp_path / "train[1].parquet")
    assert contents(load_source(str(tmp_path / "train[1].parquet"), streaming=streaming)) == [3]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("broken", [0, 1])
def test_broken_parquet(tmp_path, broken, streaming):
    for number in range(2):
        table([number]).to_parquet(tmp_path / f"{number}.parquet")
    file = tmp_path / f"{broken}.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    text = message(f"{tmp_path}/*.parquet", streaming=streaming)
    assert text.startswith(f"`dataset` '{tmp_path}/*.parquet' cannot be read:")


def test_no_such_parquet(tmp_path):
    table([1]).to_parquet(tmp_path / "shard-0.parquet")
    text = message(str(tmp_path / "shard-1.parquet"))
    assert "no such file" in text and "shard-0.parquet" in text


# Columns


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


def test_unreachable_hub():
    assert "the Hub cannot be reached" in message("me/pets")  # conftest.py says offline


@pytest.mark.parametrize("name", ["http://127.0.0.1:9/a.parquet", "http://no-host.invalid/a.tar"])
@pytest.mark.parametrize("streaming", [False, True])
def test_unreachable_server(name, streaming):
    assert f"'{name}' was not found, or its server does not answer" in message(name, streaming=streaming)


def test_secrets_of_an_address_are_not_shown():
    text = message("http://me:pa55@127.0.0.1:9/a.parquet?signature=abc")
    assert "pa55" not in text and "abc" not in text and "127.0.0.1:9/a.parquet" in text


def test_addresses_that_say_too_little():
    assert "does not say what it holds" in message("http://127.0.0.1:9/images")
    assert "does not list its files" in message("http://127.0.0.1:9/*.parquet")


# WebDataset


def tar(path: Path, samples: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def samples(numbers, kind: str = "jpg") -> dict[str, bytes]:
    pictures = {f"{i:03}.{kind}": encoded(i, {"jpg": "JPEG"}.get(kind, kind)) for i in numbers}
    return dict(sorted({**pictures, **{f"{i:03}.cls": str(i % 2).encode() for i in numbers}}.items()))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_tars(tmp_path, kind, streaming):
    tar(tmp_path / "0.tar", samples(range(4), kind))
    tar(tmp_path / "1.tar", samples(range(4, 7), kind))
    tar(tmp_path / "2.tar.gz", samples([8], kind))
    for name, count in ((f"{tmp_path}/*.tar", 7), (f"{tmp_path}/{{0..1}}.tar", 7), (f"{tmp_path}/2.tar.gz", 1)):
        source = load_source(name, streaming=streaming)
        assert (source.image_column, source.label_column, source.class_names) == (kind, "cls", None)
        rows = list(source.dataset)
        assert len(rows) == count
        assert all(row["cls"] == int(row["__key__"]) % 2 for row in rows)
        assert all(Image.open(io.BytesIO(row[kind]["bytes"])).size == (8, 6) for row in rows)
    listed = load_source("webdataset", data_files=[f"{tmp_path}/1.tar", f"{tmp_path}/2.*"], streaming=streaming)
    assert sorted(int(row["__key__"]) for row in listed.dataset) == [4, 5, 6, 8]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("png", [[1], [7], [10, 11]], ids=["noticed at once", "noticed late", "another tar"])
def test_tars_of_mixed_formats(tmp_path, png, streaming):
    jpg = [i for i in range(10) if i not in png]
    first = {**samples(jpg), **samples([i for i in png if i < 10], "png")}
    tar(tmp_path / "0.tar", dict(sorted(first.items())))
    tar(tmp_path / "1.tar", samples([i for i in png if i >= 10] or [12], "png"))
    source = load_source(f"{tmp_path}/*.tar", streaming=streaming)
    assert source.image_column == "jpg"
    images = {int(row["__key__"]): Image.open(io.BytesIO(row["jpg"]["bytes"])) for row in source.dataset}
    assert {number for number, image in images.items() if image.format == "PNG"} == {*png, 12} - {12} | (
        {12} if png[0] < 10 else set()
    )
    assert sorted(images) == sorted([*jpg, *png] + ([12] if png[0] < 10 else []))


def test_tars_reach_the_loaders_workers(tmp_path):
    tar(tmp_path / "0.tar", samples(range(4)))
    tar(tmp_path / "1.tar", samples(range(4, 8), "png"))
    stream = load_source(f"{tmp_path}/*.tar", streaming=True).dataset
    arrived = pickle.loads(pickle.dumps(stream))  # as a spawned worker gets it
    assert [row["jpg"]["bytes"] is not None for row in arrived] == [True] * 8
    rows = EndlessRows(stream, 4, seed=0, image_column="jpg", num_readers=2, shuffle_buffer_size=1)
    loaded = itertools.islice(DataLoader(rows, 4, num_workers=2, collate_fn=list), 2)
    assert sorted(row["__key__"] for batch in loaded for row in batch) == [f"{i:03}" for i in range(8)]


def test_tars_with_two_images_a_sample(tmp_path):
    picture, mask = encoded(1), encoded(2)
    name = tar(tmp_path / "a.tar", {"1.jpg": picture, "1.mask.png": mask, "1.txt": b"a cat"})
    assert "2 image columns (jpg, mask.png)" in message(name)
    assert contents(load_source(name, image_column="mask.png")) == [2]


@pytest.mark.parametrize("streaming", [False, True])
def test_tars_that_cannot_be_read(tmp_path, streaming):
    (tmp_path / "a.tar").write_bytes(b"no archive" * 200)
    assert "a.tar' cannot be read" in message(str(tmp_path / "a.tar"), streaming=streaming)
    assert "no such file" in message(f"{tmp_path}/b*.tar", streaming=streaming)


# Datasets built already


def test_a_given_dataset(tmp_path):
    given = table(range(6))
    source = load_source(given)
    assert (source.image_column, source.label_column, source.class_names) == ("photo", "kind", ["cat", "dog"])
    assert (source.num_images, contents(source)) == (6, list(range(6)))
    assert isinstance(source.name, str) and len(source.name) < 40
    stream = load_source(given, streaming=True)
    assert isinstance(stream.dataset, IterableDataset)
    assert (stream.num_images, contents(stream)) == (6, list(range(6)))
    assert given.features["photo"].decode  # the caller's own is as it was


@pytest.mark.parametrize("streaming", [False, True])
def test_a_given_dataset_with_a_format(streaming):
    given = table(range(6)).with_transform(lambda rows: {"photo": [0] * 6})
    assert contents(load_source(given, streaming=streaming)) == list(range(6))
    assert contents(load_source(table(range(6)).with_format("numpy"), streaming=streaming)) == list(range(6))


def test_given_splits():
    given = DatasetDict(train=table(range(3)), test=table([9]))
    assert contents(load_source(given)) == [0, 1, 2]
    assert contents(load_source(given, split="test", streaming=True)) == [9]
    assert message(given, split="dev") == "`dataset` has no split 'dev': it has train, test."


def test_a_given_stream(parquet):
    whole = load_source(parquet, streaming=True).dataset
    source = load_source(whole)
    assert (source.image_column, contents(source)) == ("photo", list(range(7)))
    # `datasets` goes on saying 7 of what is left.
    assert load_source(whole.take(3)).num_images is None
    assert load_source(parquet, streaming=True).num_images == 7


def test_a_given_stream_without_a_schema():
    rows = list(table(range(3)).cast_column("photo", ImageFeature(decode=False)))
    source = load_source(IterableDataset.from_generator(lambda: iter(rows)))
    assert (source.image_column, contents(source)) == ("photo", [0, 1, 2])


def test_what_is_no_dataset():
    assert "got list; several files go into `data_files`" in message(["a.parquet"])
    assert "`revision`" in message(table([1]), revision="main")
    assert "is empty" in message(table([]).select([]))
