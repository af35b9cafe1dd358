import errno
import json
import os
import signal
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from processes import Script
from transformers import AutoImageProcessor, AutoModel

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.cli import main
from lejepa_hf.data.errors import DataError
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation import feature_extractor
from lejepa_hf.evaluation.embeddings import embed_images as module
from lejepa_hf.evaluation.embeddings import parts as parts_module
from lejepa_hf.evaluation.embeddings.embed_images import Features, embed_images
from lejepa_hf.evaluation.embeddings.image_batches import ImageBatch
from lejepa_hf.evaluation.embeddings.parts import EmbeddingParts, join_parts
from lejepa_hf.hub.export import build_processor

VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"intermediate_size": 64, "image_size": 16, "patch_size": 4}
SLOW_RUN = Path(__file__).parents[2] / "embed_run.py"


def export(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=VIT, projector_dims=[8]))
    return export_encoder(model, folder, build_processor(16, crop_ratio=1.0))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return export(tmp_path_factory.mktemp("models") / "vit")


def noise(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve images of two classes."""
    for number in range(12):
        path = tmp_path / "photos" / ("cat" if number < 5 else "dog") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(path)
    return tmp_path / "photos"


def metadata(out: Path) -> dict:
    return json.loads(pq.read_schema(out).metadata[b"lejepa"])


def by_hand(encoder: Path, images: list[Image.Image]) -> np.ndarray:
    processor, model = AutoImageProcessor.from_pretrained(encoder), AutoModel.from_pretrained(encoder)
    with torch.no_grad():
        return model(**processor(images, return_tensors="pt")).pooler_output.numpy()


def test_a_folder_equals_automodel_by_hand(encoder, folder, tmp_path):
    done = embed_images(encoder, str(folder), tmp_path / "e.parquet", batch_size=5)
    assert (done.out, done.num_images, done.dim, done.num_broken) == (tmp_path / "e.parquet", 12, 32, 0)
    read = datasets.load_dataset(
        "parquet", data_files=str(done.out), split="train", cache_dir=str(tmp_path / "cache")
    ).with_format("numpy")
    assert read["index"][:].tolist() == list(range(12))
    names = read.features["label"].names
    assert names == ["cat", "dog"]
    paths = [f"{names[label]}/{i:02}.png" for i, label in enumerate(read["label"][:])]
    assert list(read["path"][:]) == paths
    assert read.features["embedding"] == datasets.List(datasets.Value("float32"), length=32)
    np.testing.assert_allclose(read["embedding"][:], by_hand(encoder, [noise(i) for i in range(12)]), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "e.parquet", "photos"]


@pytest.fixture
def table(tmp_path) -> str:
    """A Parquet file of eight images with further columns."""
    rows = [{"photo": noise(n), "id": f"p{n}", "path": f"scans/{n}", "site": n % 2, "tags": [n, 1]} for n in range(8)]
    features = {"photo": datasets.Image(), "id": datasets.Value("string"), "path": datasets.Value("string")}
    features |= {"site": datasets.ClassLabel(names=["a", "b"]), "tags": datasets.List(datasets.Value("int32"))}
    built = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    built.add_column("index", [7] * 8).to_parquet(str(tmp_path / "photos.parquet"))
    return str(tmp_path / "photos.parquet")


@pytest.mark.parametrize("streaming", [False, True])
def test_further_columns_are_copied(encoder, table, tmp_path, streaming):
    with_broken = pq.read_table(table).to_pylist()
    with_broken[2]["photo"] = {"bytes": b"no image", "path": None}
    pq.write_table(pa.Table.from_pylist(with_broken, schema=pq.read_schema(table)), table)
    columns = ["id", "tags", "path", "site", "id"]
    out = embed_images(encoder, table, tmp_path / "e.parquet", None, 3, columns=columns, streaming=streaming).out
    read = datasets.load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert read.column_names == ["index", "label", "id", "tags", "path", "site", "embedding"]
    left = [n for n in range(8) if n != 2]
    assert read["index"][:] == left and read["id"][:] == [f"p{n}" for n in left]
    assert read["path"][:] == [f"scans/{n}" for n in left] and read["tags"][:] == [[n, 1] for n in left]
    assert read.features["site"].names == read.features["label"].names == ["a", "b"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("name", "`columns` 'name' is not in `dataset` .*; its columns are: photo, id, path, site, tags, index"),
        ("index", "`columns` 'index': the file has a column of its own with this name"),
        ("photo", "`columns` 'photo' of `dataset` .* has the type Image: only texts, numbers"),
    ],
)
def test_columns_that_cannot_be_copied(encoder, table, tmp_path, column, message):
    with pytest.raises(ValueError, match=message):
        embed_images(encoder, table, tmp_path / "e.parquet", columns=[column])


def test_metadata_says_what_it_is_and_nothing_of_this_machine(encoder, folder, tmp_path):
    features = Features("cls", layers=2, dtype="float16")
    out = embed_images(str(encoder), str(folder), tmp_path / "e.parquet", features).out
    expected = {"model": "vit", "dataset": "photos", "split": "train", "pooling": "cls", "layers": 2, "dim": 64}
    expected |= {"dtype": "float16", "bf16": False, "num_images": 12, "num_broken": 0}
    found = metadata(out)
    assert len(found.pop("weights")) == 8 and found == expected
    content = out.read_bytes()
    assert not any(os.fsencode(place) in content for place in (tmp_path, Path.home(), encoder.parent))
    table = pq.read_table(out)
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: halffloat>[64]"
    exact = pq.read_table(embed_images(encoder, str(folder), tmp_path / "f.parquet", Features("cls", 2)).out)
    a, b = (np.array(one["embedding"].to_pylist(), dtype=np.float32) for one in (table, exact))
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    assert not np.array_equal(a, b)


@pytest.fixture
def shards(tmp_path) -> str:
    """Three Parquet files of digits in row groups of 10, with another column beside."""
    digits = load_source("digits", "test").dataset.select(range(90))
    digits = digits.add_column("note", ["x" * 100] * 90)
    (tmp_path / "shards").mkdir()
    for number in range(3):
        shard = digits.select(range(30 * number, 30 * number + 30)).cast_column("image", datasets.Image())
        shard.to_parquet(tmp_path / "shards" / f"{number}.parquet", batch_size=10)
    return str(tmp_path / "shards" / "*.parquet")


def test_streamed_parquet_gives_the_rows_in_order(encoder, shards, tmp_path):
    streamed = embed_images(encoder, shards, tmp_path / "a.parquet", streaming=True, batch_size=16).out
    loaded = embed_images(encoder, shards, tmp_path / "b.parquet", streaming=False, batch_size=16).out
    table = pq.read_table(streamed)
    assert table.column_names == ["index", "label", "embedding"]  # there are no paths
    assert table["index"].to_pylist() == list(range(90))
    digits = load_source("digits", "test").dataset[:90]
    assert table["label"].to_pylist() == digits["label"]
    images = [datasets.Image().decode_example(image).convert("RGB") for image in digits["image"]]
    found = np.array(table["embedding"].to_pylist())
    np.testing.assert_allclose(found, by_hand(encoder, images), atol=1e-5)
    assert streamed.read_bytes() == loaded.read_bytes()
    assert metadata(streamed)["dataset"] == "*.parquet"


@pytest.mark.slow
def test_a_kill_in_the_middle_and_the_same_command_again(encoder, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    parts = tmp_path / "killed.parquet.parts"
    run = Script(SLOW_RUN, [encoder, out], tmp_path / "output.txt")
    deadline = time.monotonic() + 120
    while len(list(parts.glob("part-*.parquet"))) < 5:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(ValueError, match=f"`out` .* is being written by process {run.pid} on"):
        embed_images(encoder, "digits", out, batch_size=8, split="test", streaming=True)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    assert not out.exists()
    written = sum(pq.read_metadata(part).num_rows for part in parts.glob("part-*.parquet"))
    assert 40 <= written < 400
    (parts / "part-00002.parquet.unfinished").write_bytes(b"torn")  # as a kill at another moment leaves it
    decoded = []
    decode = feature_extractor.decode_image

    def counted(value, *arguments):
        decoded.append(isinstance(value, dict))  # the trial image is none
        return decode(value, *arguments)

    monkeypatch.setattr(feature_extractor, "decode_image", counted)
    done = embed_images(encoder, "digits", out, batch_size=8, split="test", streaming=True)
    assert sum(decoded) == 450 - written  # what is there is skipped, not decoded again
    assert done.num_images == 450 and not parts.exists()
    embed_images(encoder, "digits", whole, batch_size=8, split="test")
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("streaming", [False, True])
def test_what_the_interrupted_keep_is_written(encoder, folder, tmp_path, monkeypatch, streaming):
    class Interrupted(module.FeatureExtractor):
        calls = 0

        def __call__(self, pixels):
            self.calls += 1
            if self.calls == 5:  # the first is the trial
                raise KeyboardInterrupt
            return super().__call__(pixels)

    out = tmp_path / "e.parquet"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "FeatureExtractor", Interrupted)
        embed_images(encoder, str(folder), out, batch_size=3, streaming=streaming)
    (part,) = Path(f"{out}.parts").glob("part-*.parquet")
    assert pq.read_table(part)["index"].to_pylist() == list(range(6))
    embed_images(encoder, str(folder), out, batch_size=3, streaming=streaming)
    embed_images(encoder, str(folder), tmp_path / "whole.parquet", batch_size=3)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize("seconds_per_part", [0, 60])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_file_does_not_depend_on_its_parts(encoder, folder, tmp_path, monkeypatch, seconds_per_part, batch_size):
    monkeypatch.setattr(parts_module, "_GROUP_BYTES", 5 * 32 * 4)
    out = embed_images(
        encoder, str(folder), tmp_path / "e.parquet", batch_size=batch_size, seconds_per_part=seconds_per_part
    ).out
    file = pq.ParquetFile(out)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [5, 5, 2]
    assert file.read()["index"].to_pylist() == list(range(12))


def damage(folder: Path, *numbers: int) -> None:
    for path in folder.rglob("*.png"):
        if int(path.stem) in numbers:
            path.write_bytes(path.read_bytes()[:60])


def test_broken_images_are_left_out_named_and_counted(encoder, folder, tmp_path, caplog):
    whole = pq.read_table(embed_images(encoder, str(folder), tmp_path / "whole.parquet", batch_size=4).out)
    damage(folder, 0, 4, 5, 6, 7)  # 4 to 7 are a batch
    done = embed_images(encoder, str(folder), tmp_path / "e.parquet", batch_size=4, seconds_per_part=0)
    kept = [1, 2, 3, 8, 9, 10, 11]
    assert (done.num_images, done.num_broken) == (7, 5)
    table = pq.read_table(done.out)
    assert table["index"].to_pylist() == kept
    assert table["path"].to_pylist() == whole["path"].take(kept).to_pylist()
    found, expected = (np.array(one["embedding"].to_pylist()) for one in (table, whole.take(kept)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert metadata(done.out)["num_broken"] == 5
    assert caplog.text.count("is left out, its image is broken") == 5 and "row 7 is left out" in caplog.text
    (loud,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert "5 broken images are left out, 41.67% of all. CHECK THE SOURCE" in loud


def test_nothing_but_broken_images(encoder, folder, tmp_path):
    damage(folder, *range(12))
    with pytest.raises(DataError, match="None of 12 images can be decoded; row 0: .*00.png: OSError"):
        embed_images(encoder, str(folder), tmp_path / "e.parquet")
    assert not (tmp_path / "e.parquet").exists()


def begin(encoder: Path, source: str, out: Path, monkeypatch) -> None:
    """Leaves parts behind, all of them."""

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingParts, "tables", fail)
        with pytest.raises(DataError, match="e.parquet cannot be written: .*No space left.*repeat the command"):
            embed_images(encoder, source, out)
    assert not list(out.parent.glob("*.unfinished"))


def test_parts_of_something_else_are_refused_by_name(encoder, folder, tmp_path, monkeypatch):
    out, other = tmp_path / "e.parquet", export(tmp_path / "other", seed=1)
    begin(encoder, str(folder), out, monkeypatch)
    cases = [
        ((other, str(folder)), {}, f"of model '{encoder}': `weights` was"),
        ((encoder, "digits"), {}, "`dataset` was '.*photos', is 'digits'"),
        ((encoder, str(folder)), {"features": Features("cls")}, "`pooling` was 'auto', is 'cls'"),
        ((encoder, str(folder)), {"features": Features(dtype="float16")}, "`dtype` was 'float32', is 'float16'"),
    ]
    for arguments, settings, message in cases:
        with pytest.raises(ValueError, match=f"{message}.*`overwrite`"):
            embed_images(*arguments, out, **settings)
    (folder / "dog" / "98.png").write_bytes((folder / "dog" / "05.png").read_bytes())
    with pytest.raises(ValueError, match="`num_images` was 12, is 13"):
        embed_images(encoder, str(folder), out)
    assert embed_images(other, str(folder), out, overwrite=True).num_images == 13
    expected = pq.read_table(embed_images(other, str(folder), tmp_path / "f.parquet").out)
    assert pq.read_table(out).equals(expected)


def test_a_moved_encoder_is_the_same(encoder, folder, tmp_path, monkeypatch):
    out = tmp_path / "e.parquet"
    begin(encoder, str(folder), out, monkeypatch)
    monkeypatch.setattr(module.FeatureExtractor, "preprocess", None)  # what would embed an image
    monkeypatch.setattr(module.FeatureExtractor, "try_one", lambda self: ("pooler", 32))
    moved = tmp_path / "moved"
    moved.symlink_to(encoder)
    assert embed_images(moved, str(folder), out).num_images == 12
    assert metadata(out)["model"] == "vit"


def test_a_finished_file_is_refused_and_replaced_on_request(encoder, folder, tmp_path):
    out = tmp_path / "e.parquet"
    embed_images(encoder, str(folder), out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match="`out` '.*e.parquet' exists already: set `overwrite`"):
        embed_images(encoder, str(folder), out, Features("cls"))
    assert out.read_bytes() == before
    embed_images(encoder, str(folder), out, Features("patches"), overwrite=True)
    assert metadata(out)["pooling"] == "patches"


def test_embeddings_that_are_not_finite_stop_at_once(folder, tmp_path):
    encoder = export(tmp_path / "large")
    model = AutoModel.from_pretrained(encoder)
    with torch.no_grad():
        model.layernorm.weight.mul_(1e6)
    model.save_pretrained(encoder)
    with pytest.raises(
        DataError, match=r"12 of 12 images .* NaN or infinite .*\(rows 0, 1, 2, .*: store `dtype` float32"
    ):
        embed_images(encoder, str(folder), tmp_path / "e.parquet", Features(dtype="float16"))
    assert embed_images(encoder, str(folder), tmp_path / "f.parquet").num_images == 12


def rows_of(*numbers: int, broken: dict | None = None) -> ImageBatch:
    stop = max([*numbers, *(broken or {})]) + 1
    return ImageBatch(stop, list(numbers), [None] * len(numbers), [f"{n}.png" for n in numbers], None, broken or {})


HALF = datasets.Features(
    {
        "index": datasets.Value("int64"),
        "path": datasets.Value("string"),
        "embedding": datasets.List(datasets.Value("float16"), length=2),
    }
).arrow_schema


def as_half(batch: ImageBatch) -> pa.Table:
    embeddings = torch.tensor([[number, 0.5] for number in batch.numbers], dtype=torch.float32)
    return module._as_rows(batch, embeddings, HALF)


def test_what_half_precision_cannot_hold_is_named_by_its_row():
    with pytest.raises(DataError, match=r"1 of 2 images .* \(rows 7\): store `dtype` float32"):
        module._as_rows(rows_of(6, 7), torch.tensor([[0.0, 1.0], [0.0, 1e6]]), HALF)


def test_parts_are_joined_with_the_types_and_columns_of_the_file(tmp_path):
    for batch in (rows_of(0, 2, broken={1: "torn"}), rows_of(3), rows_of(4, 5, broken={6: "torn"}), rows_of(7)):
        EmbeddingParts(tmp_path, seconds_per_part=0).add(batch, as_half(batch))
    parts = EmbeddingParts(tmp_path)
    assert (parts.next_row, parts.num_images, parts.num_broken) == (8, 6, 2)
    join_parts(parts, tmp_path / "e.parquet", HALF)
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.column_names == HALF.names and table.schema.metadata == HALF.metadata
    assert table["index"].to_pylist() == [0, 2, 3, 4, 5, 7]
    assert table["path"].to_pylist() == [f"{number}.png" for number in (0, 2, 3, 4, 5, 7)]
    assert table["embedding"].to_pylist() == [[number, 0.5] for number in (0, 2, 3, 4, 5, 7)]


def test_parts_that_name_only_some_broken_images_are_continued(tmp_path):
    """As they were written at first: at most 20 reasons in a part, beside the number of broken images."""
    record = {"stop": 32, "num_broken": 30, "broken": {str(row): "torn" for row in range(20)}}
    rows = as_half(rows_of(30, 31)).replace_schema_metadata({"lejepa_part": json.dumps(record)})
    pq.write_table(rows, tmp_path / "part-00000.parquet")
    parts = EmbeddingParts(tmp_path, seconds_per_part=0)
    assert (parts.next_row, parts.num_images, parts.num_broken) == (32, 2, 30)
    parts.add(batch := rows_of(33, broken={32: "torn"}), as_half(batch))
    join_parts(parts, tmp_path / "e.parquet", HALF)
    assert pq.read_table(tmp_path / "e.parquet")["index"].to_pylist() == [30, 31, 33] and parts.num_broken == 31


@pytest.mark.parametrize(("before", "now"), [({"revision": "old"}, {}), ({}, {"revision": "new"})])
def test_a_setting_that_was_left_out_is_another_one(tmp_path, before, now):
    module._claim(tmp_path, {"model": "m", **before}, overwrite=False)
    module._claim(tmp_path, {"model": "moved", **before}, overwrite=False)
    with pytest.raises(ValueError, match="`revision` was"):
        module._claim(tmp_path, {"model": "m", **now}, overwrite=False)


def test_a_run_is_its_encoder(encoder, folder, tmp_path):
    run = tmp_path / "runs" / "l14"
    run.mkdir(parents=True)
    (run / "encoder").symlink_to(encoder)
    found = embed_images(run, str(folder), tmp_path / "e.parquet").out
    expected = embed_images(encoder, str(folder), tmp_path / "f.parquet").out
    assert pq.read_table(found).equals(pq.read_table(expected))


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("food101", "food101"),
        ("user/photos", "user/photos"),
        ("/data/of/mine/photos", "photos"),
        ("./photos", "photos"),
        ("/data/*.parquet", "*.parquet"),
        ("shards/{000..003}.parquet", "{000..003}.parquet"),
        ("file:///home/me/x.parquet", "x.parquet"),
        ("hf://datasets/user/name/*.parquet", "hf://datasets/user/name/*.parquet"),
        ("https://me:secret@host/x.parquet?token=1", "https://...@host/x.parquet?..."),
    ],
)
def test_names_that_may_be_told(name, public):
    assert module._public(name) == public


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "e.csv"], "`out` 'e.csv' must end in .parquet"),
        (["--out", "no/such/e.parquet"], "`out` 'no/such/e.parquet': the folder 'no/such' does not exist"),
        (["--dataset", "/no/such/folder"], "`dataset` '/no/such/folder'"),
        (["--split", "validation"], "`dataset` 'digits' has the splits train and test, got 'validation'"),
        (["--label_column", "kind"], "`label_column` 'kind' is not in `dataset` 'digits'"),
        (["--model", "/no/such/model"], "`encoder` '/no/such/model' is neither a folder here nor"),
        (["--pooling", "max"], "`pooling` 'max' is unknown: choose one of auto, pooler, cls, patches"),
        (["--pooling", "cls", "--layers", "3"], "`layers` must be 1 to 2 for this vit encoder, got 3"),
        (["--layers", "0"], "`layers` must be at least 1, got 0"),
        (["--dtype", "int8"], "`dtype` 'int8' is unknown: choose one of float32, float16"),
        (["--batch_size", "0"], "`batch_size` must be at least 1, got 0"),
        (["--device", "abacus"], "`device` 'abacus' cannot be used here"),
    ],
)
def test_command_refuses_before_any_work(encoder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    given = {"--dataset": "digits", "--model": str(encoder), "--out": "e.parquet"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    command = ["embed", given.pop("--dataset"), *(word for pair in given.items() for word in pair)]
    assert main(command) == 2
    assert f"error: {message}" in capsys.readouterr().err.replace("\r", "\n")
    assert list(tmp_path.iterdir()) == []


def test_command(encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["embed", "digits", "--model", str(encoder), "--out", "e.parquet", "--split", "test"]
    assert main([*command, "--pooling", "cls", "--layers", "2", "--batch_size", "150"]) == 0
    assert capsys.readouterr().out.startswith("e.parquet: 450 embeddings of 64 numbers, ")
    assert pq.read_metadata("e.parquet").num_rows == 450
    assert main(command) == 2 and "exists already" in capsys.readouterr().err


def test_images_above_the_limit_cost_no_others(encoder, folder, tmp_path, monkeypatch):
    Image.new("L", (1, 10_000)).save(folder / "cat" / "thin.png")
    Image.new("L", (800, 800)).save(folder / "dog" / "large.png")
    usual = embed_images(encoder, str(folder), tmp_path / "usual.parquet")
    assert (usual.num_images, usual.num_broken) == (14, 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # from twice as many on PIL refuses itself
    fewer = embed_images(encoder, str(folder), tmp_path / "fewer.parquet")
    assert (fewer.num_images, fewer.num_broken) == (12, 2)
    thin, more = tmp_path / "thin.parquet", tmp_path / "more.parquet"
    done = embed_images(encoder, str(folder), thin, max_image_pixels=640_000)
    assert (done.num_images, done.num_broken) == (13, 1)  # 1 x 10,000 would become 16 x 160,000
    command = ["embed", str(folder), "--model", str(encoder), "--out", str(more)]
    assert main([*command, "--max_image_pixels", "2560000"]) == 0
    assert pq.read_table(more)["index"].to_pylist() == list(range(14))


def test_the_command_fails_where_many_images_are_missing(encoder, folder, tmp_path, capsys):
    damage(folder, 3, 4)
    out = tmp_path / "e.parquet"
    assert main(["embed", str(folder), "--model", str(encoder), "--out", str(out)]) != 0
    assert "e.parquet is written without 2 broken images" in capsys.readouterr().err
    assert pq.read_metadata(out).num_rows == 10


def test_windows_of_large_images(encoder, tmp_path):
    Image.effect_noise((40, 30), 50).convert("RGB").save(tmp_path / "slide.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "slide.png").rename(tmp_path / "images" / "slide.png")
    command = ["embed", str(tmp_path / "images"), "--model", str(encoder), "--out", str(tmp_path / "a.parquet")]
    assert main([*command, "--window_size", "15"]) == 0
    paths = pq.read_table(tmp_path / "a.parquet")["path"].to_pylist()
    assert paths == [f"slide.png#window={left},{top},15,15" for top in (0, 15) for left in (0, 15)]
