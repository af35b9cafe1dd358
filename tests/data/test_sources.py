import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from lejepa_hf.data.sources import ImageSource, load_mixture, load_source

FEATURES = Features({"photo": ImageFeature(), "kind": ClassLabel(names=["cat", "dog"])})


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (number, 2 * number, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def save(path: Path, number: int):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(number))


def table(numbers, features: Features = FEATURES, **columns) -> Dataset:
    columns = columns or {
        "photo": [{"bytes": png(i), "path": None} for i in numbers],
        "kind": [i % 2 for i in numbers],
    }
    return Dataset.from_dict(columns, features=features)


def contents(source) -> list[int]:
    """The numbers of the pictures, which shows too that they are undecoded."""
    values = [row[source.image_column] for row in source.dataset]
    data = [value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes() for value in values]
    return sorted(Image.open(io.BytesIO(item)).getpixel((0, 0))[0] for item in data)


def message(*arguments, **settings) -> str:
    with pytest.raises(ValueError) as error:
        load_source(*arguments, **settings)
    return str(error.value)


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


# Image folders


@pytest.fixture
def labelled(tmp_path):
    for i in range(6):
        save(tmp_path / "pets" / "train" / ("cat", "dog")[i % 2] / f"{i}.png", i)
        save(tmp_path / "pets" / "test" / ("cat", "dog")[i % 2] / f"{i}.png", 10 + i)
    return str(tmp_path / "pets")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("split", "first"), [("train", 0), ("test", 10)])
def test_labelled_folder(labelled, split, first, streaming):
    source = load_source(labelled, split=split, streaming=streaming)
    assert (source.image_column, source.label_column, source.class_names) == ("image", "label", ["cat", "dog"])
    assert hasattr(source.dataset, "__len__") != streaming
    assert contents(source) == list(range(first, first + 6))
    for row in source.dataset:
        assert f"/{source.class_names[row['label']]}/" in row["image"]["path"]


def test_classes_without_splits_are_train(tmp_path):
    for i in range(4):
        save(tmp_path / ("cat", "dog")[i % 2] / f"{i}.png", i)
    source = load_source(str(tmp_path))
    assert contents(source) == [0, 1, 2, 3]
    assert source.class_names == ["cat", "dog"]
    assert contents(load_source(str(tmp_path), split="train[:2]")) == [0, 2]


@pytest.mark.parametrize("streaming", [False, True])
def test_flat_folder_has_no_labels(tmp_path, streaming):
    for i in range(5):
        save(tmp_path / f"{i}.png", i)
    (tmp_path / "notes.txt").write_text("harmless")
    source = load_source(str(tmp_path), streaming=streaming)
    assert (source.image_column, source.label_column, source.class_names) == ("image", None, None)
    assert contents(source) == list(range(5))


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "images" / "a.png", 7)
    assert contents(load_source("~/images")) == [7]
    assert "holds images" in message("~/imagse")


def test_missing_folder_names_its_neighbours(tmp_path):
    (tmp_path / "pictures").mkdir()
    text = message(str(tmp_path / "picturs"))
    assert "no such folder" in text and "pictures" in text
    assert "does not exist either" in message(str(tmp_path / "a" / "b"))


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([], "found nothing."),
        (["a.txt", "b.txt", "deep/c.csv", "README"], "found 1 .csv, 2 .txt, 1 no ending."),
    ],
)
def test_folder_without_images(tmp_path, files, found):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    assert message(str(tmp_path)).endswith(found)


@pytest.mark.parametrize("streaming", [False, True])
def test_unknown_split_of_a_folder_lists_the_splits(labelled, streaming):
    text = message(labelled, split="dev", streaming=streaming)
    assert "'dev'" in text and "train" in text and "test" in text


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


def test_no_such_parquet(tmp_path):
    table([1]).to_parquet(tmp_path / "shard-0.parquet")
    text = message(str(tmp_path / "shard-1.parquet"))
    assert "no such file" in text and "shard-0.parquet" in text


# Columns


def test_columns_can_be_named(tmp_path):
    features = Features({"a": ImageFeature(), "b": ImageFeature(), "n": Value("int64")})
    image = [{"bytes": png(i), "path": None} for i in range(3)]
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
    assert "none.parquet' has no images" in message(str(tmp_path / "none.parquet"))


def test_unreachable_hub():
    assert "the Hub cannot be reached" in message("me/pets")  # conftest.py says offline


# Files


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_shards_has_the_splits_of_their_names(tmp_path, streaming):
    for name, numbers in {"train-0": (1, 2, 3), "train-1": (4, 5), "validation-0": (9,)}.items():
        table(numbers).to_parquet(tmp_path / f"{name}.parquet")
    train, held_out = (load_source(str(tmp_path), split, streaming=streaming) for split in ("train", "validation"))
    assert (contents(train), contents(held_out)) == ([1, 2, 3, 4, 5], [9])
    assert (train.num_images, held_out.num_images) == (5, 1)


def test_a_stream_of_local_parquet_is_read_by_row_groups_and_knows_its_length(tmp_path):
    for name in ("a", "b"):
        table(range(20)).to_parquet(tmp_path / f"{name}.parquet", batch_size=5)
    source = load_source(f"{tmp_path}/*.parquet", streaming=True)
    assert source.num_images == 40 and source.dataset.num_shards == 8


def tar(path: Path, numbers, ending: str = "png"):
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for name, data in ((f"{number:03d}.{ending}", png(number)), (f"{number:03d}.cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "expected"),
    [("*.tar", [1, 2, 3, 4]), ("a-{00..01}.tar", [1, 2, 3]), ("a-00.tar", [1, 2])],
)
def test_tars(tmp_path, streaming, name, expected):
    for file, numbers in {"a-00": (1, 2), "a-01": (3,), "b-00": (4,)}.items():
        tar(tmp_path / f"{file}.tar", numbers)
    source = load_source(f"{tmp_path}/{name}", streaming=streaming)
    assert contents(source) == expected
    assert (source.image_column, source.label_column) == ("png", "cls")
    assert [row["cls"] for row in source.dataset] == [number % 2 for number in expected]


def test_a_missing_file_of_a_range_is_named(tmp_path):
    tar(tmp_path / "a-0.tar", [1])
    check_message(f"{tmp_path}/a-{{0..1}}.tar", "a-1.tar'", "no such file", "holds a-0.tar")


def check_message(name: str, *parts: str, **settings):
    text = message(name, **settings)
    assert all(part in text for part in parts), text


def test_tars_of_several_image_types_are_refused(tmp_path):
    with tarfile.open(tmp_path / "mixed.tar", "w") as archive:
        for number, ending in enumerate(["png", "jpg"] * 3):
            member = tarfile.TarInfo(f"{number}.{ending}")
            member.size = len(png(number))
            archive.addfile(member, io.BytesIO(png(number)))
    check_message(str(tmp_path / "mixed.tar"), "cannot be read", "same types")


def test_kinds_with_files(tmp_path):
    tar(tmp_path / "a.tar", [1])
    table([2]).to_parquet(tmp_path / "b.parquet")
    table([3]).to_parquet(tmp_path / "c.parquet")
    assert contents(load_source("webdataset", data_files=f"{tmp_path}/a.tar")) == [1]
    both = [f"{tmp_path}/b.parquet", f"{tmp_path}/c.parquet"]
    assert contents(load_source("parquet", data_files=both, streaming=True)) == [2, 3]
    check_message("parquet", "`data_files` is missing")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["bytes", "paths"])
def test_columns_of_bytes_and_of_paths_can_be_named(tmp_path, kind, streaming):
    save(tmp_path / "7.png", 7)
    value = png(7) if kind == "bytes" else str(tmp_path / "7.png")
    Dataset.from_dict({"content": [value], "n": [1]}).to_parquet(tmp_path / "x.parquet")
    check_message(str(tmp_path / "x.parquet"), "no image column", "content", "`image_column`")
    assert contents(load_source(str(tmp_path / "x.parquet"), image_column="content", streaming=streaming)) == [7]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_becomes_a_stream_of_many_shards(tmp_path, streaming):
    for number in range(5):
        save(tmp_path / "deep" / str(number % 2) / f"{number}.png", number)
    source = load_source(str(tmp_path), streaming=streaming)
    assert contents(source) == list(range(5))
    assert getattr(source.dataset, "num_shards", 5) == 5


def test_datasets_that_are_built_already():
    images = table([1, 2])
    assert contents(load_source(images)) == [1, 2]
    stream = load_source(images, streaming=True)
    assert contents(stream) == [1, 2] and not hasattr(stream.dataset, "__len__")
    parts = datasets.DatasetDict({"train": images, "test": table([3])})
    assert contents(load_source(parts, "test")) == [3]
    check_message(parts, "no split 'dev'", "train, test", split="dev")
    check_message([1, 2], "must be a name or a dataset", "list")


def test_columns_are_named_in_the_log(tmp_path, caplog):
    table([1]).to_parquet(tmp_path / "b.parquet")
    with caplog.at_level("INFO", "lejepa_hf"):
        for _ in range(2):
            load_source(str(tmp_path / "b.parquet"))
    (said,) = [record.message for record in caplog.records]
    assert said.endswith("b.parquet: images in column 'photo', labels in 'kind'")


# Mixtures


@pytest.mark.parametrize("streaming", [False, True])
def test_mixture(tmp_path, streaming):
    table([1, 2]).to_parquet(tmp_path / "a.parquet")
    save(tmp_path / "folder" / "3.png", 3)
    entries = [{"dataset": f"{tmp_path}/a.parquet", "weight": 3}, {"dataset": f"{tmp_path}/folder"}]
    mixture = load_mixture(entries, streaming)
    assert mixture.weights == [0.75, 0.25]
    assert [list(member.features) for member in mixture.datasets] == [["image"], ["image"]]
    assert all(hasattr(member, "__len__") != streaming for member in mixture.datasets)
    sources = [ImageSource(member, "", "image") for member in mixture.datasets]
    assert [contents(source) for source in sources] == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("entry", "parts"),
    [
        ({"dataset": "digits", "wieght": 1}, ["`wieght` in entry 1", "did you mean `weight`?"]),
        ({"weight": 1}, ["Entry 1", "no `dataset`"]),
        ({"dataset": "digits", "weight": 0}, ["`weights` must be positive"]),
        ({"dataset": "digits", "split": "dev"}, ["train and test"]),
    ],
)
def test_bad_mixtures(entry, parts):
    with pytest.raises(ValueError) as error:
        load_mixture([{"dataset": "digits"}, entry])
    assert all(part in str(error.value) for part in parts)


# The Hub: a real server on loopback, a real client in its own process

COMMIT = "0123456789" * 4
REPO = "me/pets"


class Hub(BaseHTTPRequestHandler):
    """Read-only, one dataset without folders."""

    files: dict[str, bytes] = {}
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.split("?")[0]
        api = f"/api/datasets/{REPO}"
        if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in self.files]
            return self.json({"id": REPO, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        if path.startswith(f"{api}/tree/"):
            return self.json([self.entry(name) for name in self.files])
        if path.startswith(f"/datasets/{REPO}/resolve/"):
            name = path.split("/resolve/")[1].partition("/")[2]
            return self.file(self.files[name]) if name in self.files else self.missing("EntryNotFound")
        if path.startswith("/api/datasets/me/gated"):
            return self.missing("GatedRepo", status=403)
        return self.missing("EntryNotFound" if REPO in path else "RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        if self.path.startswith(f"/api/datasets/{REPO}/paths-info/"):
            return self.json([self.entry(name) for name in body["paths"] if name in self.files])
        return self.missing("RepoNotFound")

    def entry(self, name: str) -> dict:
        data = self.files[name]
        return {"type": "file", "path": name, "size": len(data), "oid": f"{zlib.crc32(data):040x}"}

    def file(self, data: bytes):
        size, given = len(data), self.headers.get("Range")
        headers = {"ETag": f'"{zlib.crc32(data):040x}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if given:
            first, last = given.removeprefix("bytes=").split("-")
            first, last = int(first), min(int(last or size), size - 1)
            data = data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self.reply(206 if given else 200, data, headers)

    def json(self, value):
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json", "X-Repo-Commit": COMMIT})

    def missing(self, code: str, status: int = 404):
        headers = {"X-Repo-Commit": COMMIT} if code == "EntryNotFound" else {}
        self.reply(status, b"{}", {"X-Error-Code": code, **headers})

    def reply(self, status: int, data: bytes, headers: dict):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


TOKEN = "hf_SecretThatMustNotBeSeen"
CLIENT = """
import json
import zlib
from lejepa_hf.data.sources import ImageSource, load_mixture, load_source

def described(name, **settings):
    try:
        source = load_source(name, **settings)
    except ValueError as error:
        return str(error)
    hashes = sorted(zlib.crc32(row["photo"]["bytes"]) for row in source.dataset)
    return [source.num_images, source.image_column, source.label_column, source.class_names, hashes]

print("RESULT" + json.dumps({
    "map": described("me/pets"),
    "stream": described("me/pets", streaming=True),
    "test": described("me/pets", split="test"),
    "split": described("me/pets", split="dev"),
    "config": described("me/pets", config="dogs"),
    "unknown": described("me/pests"),
    "bare": described("pests"),
    "gated": described("me/gated"),
    "files": described("me/pets", data_files="train-00001*", streaming=True),
    "no files": described("me/pets", data_files="nothing-*"),
    "url": described("hf://datasets/me/pets/train-*.parquet", streaming=True),
}))
"""


@pytest.fixture(scope="module")
def hub_answers(tmp_path_factory):
    home = tmp_path_factory.mktemp("hub")
    numbers = {"train-00000-of-00002": range(3), "train-00001-of-00002": range(3, 5), "test-00000-of-00001": [9]}
    for name, pictures in numbers.items():
        table(pictures).to_parquet(home / f"{name}.parquet")
    files = {f"{name}.parquet": (home / f"{name}.parquet").read_bytes() for name in numbers}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneDataset", (Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT], env=environment, cwd=home, capture_output=True, text=True, timeout=120
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr[-4000:]
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout.split("RESULT")[1])


def expected(numbers, num_images):
    return [num_images, "photo", "kind", ["cat", "dog"], sorted(zlib.crc32(png(i)) for i in numbers)]


def test_dataset_of_the_hub(hub_answers):
    assert hub_answers["map"] == expected(range(5), 5)
    assert hub_answers["test"] == expected([9], 1)
    assert hub_answers["stream"] in (expected(range(5), 5), expected(range(5), None))


@pytest.mark.parametrize(("answer", "name"), [("unknown", "me/pests"), ("bare", "pests")])
def test_unknown_dataset_of_the_hub(hub_answers, answer, name):
    assert f"`dataset` '{name}' was not found" in hub_answers[answer]


def test_gated_dataset_of_the_hub(hub_answers):
    assert "'me/gated' is gated" in hub_answers["gated"] and "hf auth login" in hub_answers["gated"]
    assert re.search(r"accept its terms on http://127.0.0.1:\d+/datasets/me/gated", hub_answers["gated"])


def test_files_of_the_hub(hub_answers):
    assert hub_answers["files"][4] == expected([3, 4], None)[4]
    assert hub_answers["url"][4] == expected(range(5), None)[4]
    assert "no files that match 'nothing-*'" in hub_answers["no files"] and "'me/pets'" in hub_answers["no files"]


def test_unknown_split_and_config_of_the_hub(hub_answers):
    assert "no split 'dev'" in hub_answers["split"] and "train" in hub_answers["split"]
    assert "dogs" in hub_answers["config"] and "default" in hub_answers["config"]
