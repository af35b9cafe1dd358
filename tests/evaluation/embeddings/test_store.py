import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from processes import Script
from transformers import AutoConfig, AutoModel

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.embeddings import extraction, image_batches
from lejepa_hf.evaluation.embeddings.extraction import as_table, extract_embeddings
from lejepa_hf.evaluation.embeddings.image_batches import ImageBatch
from lejepa_hf.evaluation.embeddings.parts import EmbeddingParts
from lejepa_hf.evaluation.embeddings.store import StoredEmbeddings, join_columns
from lejepa_hf.hub.export import build_processor


def batch(start: int, number: int, broken: dict | None = None) -> ImageBatch:
    rows = [row for row in range(start, start + number) if row not in (broken or {})]
    return ImageBatch(start + number, rows, [row % 3 for row in rows], [None] * len(rows), None, broken or {})


def numbers(of: ImageBatch, width: int = 5) -> torch.Tensor:
    return torch.tensor(of.numbers, dtype=torch.float32)[:, None] + torch.arange(width) / 10


def stored(folder: Path, *of_processes: list[ImageBatch]) -> StoredEmbeddings:
    """What several processes gather, each of them some batches, and one stores."""
    folders = [folder / f"part-{number}" for number in range(len(of_processes))]
    for part, batches in zip(folders, of_processes, strict=True):
        parts = EmbeddingParts(part)
        for rows in batches:
            vectors = {"embeddings": numbers(rows, 3), "probe_features": numbers(rows, 5)}
            parts.add(rows, as_table(rows, vectors, load_source("digits")))
        parts.save()
    join_columns(folder, folders)
    return StoredEmbeddings(folder)


def test_what_was_added_comes_back_whole(tmp_path):
    batches = [batch(0, 4), batch(4, 3, {5: "torn"}), batch(7, 2, {7: "torn", 8: "torn"})]
    found = stored(tmp_path / "folder", batches)
    assert found.is_complete and found.broken == {5: "torn", 7: "torn", 8: "torn"}
    columns = found.read(2**20)
    expected = torch.tensor([0, 1, 2, 3, 4, 6], dtype=torch.float32)[:, None] + torch.arange(5) / 10
    torch.testing.assert_close(columns["embeddings"], expected[:, :3])
    torch.testing.assert_close(columns["probe_features"], expected)
    assert columns["labels"].tolist() == [0, 1, 2, 0, 1, 0] and columns["labels"].dtype is torch.int64


def test_large_ones_stay_on_disk_and_outlive_their_folder(tmp_path):
    found = stored(tmp_path, [batch(0, 400)])
    small, large = found.read(2**20), found.read(10)
    shutil.rmtree(tmp_path)
    assert large.keys() == small.keys() and all(torch.equal(large[name], small[name]) for name in small)


def test_without_any_image_there_are_no_columns(tmp_path):
    found = stored(tmp_path, [batch(0, 2, {0: "torn", 1: "away"})])
    assert (found.is_complete, found.broken, found.read(0)) == (True, {0: "torn", 1: "away"}, {})


def test_forgotten_ones_are_not_complete_and_stay_readable(tmp_path):
    found = stored(tmp_path, [batch(0, 4)])
    columns = found.read(0)
    found.forget()
    assert not StoredEmbeddings(tmp_path).is_complete
    torch.testing.assert_close(columns["embeddings"], numbers(batch(0, 4), 3))


def test_rows_of_parts_are_rows_of_the_source(tmp_path):
    found = stored(tmp_path, [batch(0, 2, {0: "torn", 1: "torn"})], [batch(0, 4, {1: "away", 3: "torn"})])
    assert found.broken == {0: "torn", 1: "torn", 3: "away", 5: "torn"}
    assert found.read(0)["embeddings"][:, 0].tolist() == [0, 2]


def test_only_what_is_complete_stays(tmp_path):
    """Neither the parts of another number of processes, nor files of the first form of the cache."""
    for name in ("about.json", "features.f32", "labels.i64"):
        (tmp_path / name).write_text('{"is_complete": false}')
    assert not StoredEmbeddings(tmp_path).is_complete
    begun = EmbeddingParts(tmp_path / "part-0-of-1")
    begun.add(batch(0, 3), as_table(batch(0, 3), {"embeddings": numbers(batch(0, 3))}, load_source("digits")))
    begun.save()
    stored(tmp_path, [batch(0, 3)], [batch(0, 3)])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"complete.json", "labels.npy", "embeddings.npy", "probe_features.npy"}


@pytest.fixture
def encoder(tiny_vit):
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(**tiny_vit), add_pooling_layer=False)


@pytest.fixture
def digits():
    source = load_source("digits")
    return replace(source, dataset=source.dataset.select(range(60)))


def test_found_again_by_weights_preprocessing_and_data(tmp_path, encoder, digits, caplog):
    caplog.set_level("INFO", "lejepa_hf")
    processor = build_processor(16, crop_ratio=1.0)
    first = extract_embeddings(encoder, processor, digits, 16, tmp_path)
    again = extract_embeddings(encoder, processor, digits, 25, tmp_path)
    assert torch.equal(first.embeddings, again.embeddings) and torch.equal(first.labels, again.labels)
    assert torch.equal(first.probe_features, again.probe_features)
    assert caplog.text.count("embeddings of 60 images found") == 1
    extract_embeddings(encoder, build_processor(12, crop_ratio=1.0), digits, 16, tmp_path)
    extract_embeddings(encoder, processor, replace(digits, dataset=digits.dataset.select(range(50))), 16, tmp_path)
    with torch.no_grad():
        encoder.layernorm.bias[0] += 1
    other = extract_embeddings(encoder, processor, digits, 16, tmp_path)
    assert caplog.text.count("images found") == 1
    assert not torch.equal(other.embeddings, first.embeddings)
    assert len(list(tmp_path.iterdir())) == 4


def test_the_same_weights_pooled_otherwise_are_another_encoder(tmp_path, encoder, digits):
    processor = build_processor(16, crop_ratio=1.0)
    encoder.config.embedding_pooling = "cls"
    first = extract_embeddings(encoder, processor, digits, 16, tmp_path)
    encoder.config.embedding_pooling = "mean"
    assert not torch.equal(extract_embeddings(encoder, processor, digits, 16, tmp_path).embeddings, first.embeddings)


def test_a_replaced_image_is_embedded_anew(tmp_path, encoder, digits):
    for number, row in enumerate(digits.dataset.select(range(4))):
        file = tmp_path / "images" / str(number % 2) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(row["image"]["bytes"])

    def embed():
        source = load_source(tmp_path / "images")
        return extract_embeddings(encoder, build_processor(16, crop_ratio=1.0), source, 4, tmp_path / "cache")

    first = embed().embeddings
    assert torch.equal(embed().embeddings, first) and len(list((tmp_path / "cache").iterdir())) == 1
    file.write_bytes((tmp_path / "images" / "0" / "0.png").read_bytes())
    again = embed().embeddings
    assert torch.equal(again[:3], first[:3]) and torch.equal(again[3], first[0])


def test_rows_of_a_replaced_container_are_embedded_anew(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)

    def embed(array):
        np.savez(tmp_path / "images.npz", images=array, labels=np.arange(4))
        source = load_source(tmp_path / "images.npz")
        processor = build_processor(16, crop_ratio=1.0)
        return extract_embeddings(encoder, processor, source, 4, tmp_path / "cache").embeddings

    assert torch.allclose(embed(images[::-1]), embed(images).flip(0), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("embeddings.npy", lambda content: content + bytes(400)),
        ("labels.npy", lambda content: bytes(len(content))),
        ("embeddings.npy", lambda content: content.replace(b"descr", b"\x93\x93\x93\x93\x93")),
        ("complete.json", lambda content: b""),
        ("complete.json", lambda content: b"[]"),
        ("complete.json", lambda content: b"{}"),
        ("complete.json", lambda content: content[:-20]),
    ],
)
def test_files_changed_behind_their_record_are_written_again(tmp_path, encoder, digits, caplog, name, change):
    processor = build_processor(16, crop_ratio=1.0)
    first = extract_embeddings(encoder, processor, digits, 16, tmp_path)
    (file,) = tmp_path.glob(f"*/{name}")
    file.write_bytes(change(file.read_bytes()))
    assert torch.equal(extract_embeddings(encoder, processor, digits, 16, tmp_path).embeddings, first.embeddings)
    assert "files do not fit their record; the images are embedded again" in caplog.text


def test_class_tokens_of_two_layers_are_what_a_probe_gets(encoder, digits):
    processor = build_processor(16, crop_ratio=1.0)
    found = extract_embeddings(encoder, processor, digits, 16)
    assert found.embeddings.shape == (60, 32) and found.probe_features.shape == (60, 64)
    torch.testing.assert_close(found.probe_features[:, 32:], encoder_cls(encoder, processor, digits))


def encoder_cls(encoder, processor, source) -> torch.Tensor:
    import io

    from PIL import Image

    images = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in source.dataset]
    with torch.no_grad():
        return encoder(**processor(images, return_tensors="pt")).last_hidden_state[:, 0]


RUN = """
import sys, time
import torch
from dataclasses import replace
from lejepa_hf.data.sources import load_source
from lejepa_hf.system.distributed import join_processes, process_index
from lejepa_hf.evaluation.embeddings import extraction
from lejepa_hf.evaluation.embeddings.extraction import extract_embeddings
from lejepa_hf.evaluation.embeddings.parts import EmbeddingParts
from lejepa_hf.evaluation.evaluate_encoder import load_encoder
folder, cache, pause, out = sys.argv[1:]
torch.set_num_threads(1)
extraction._SECONDS_PER_PART = 0
add = EmbeddingParts.add
def slow_add(*arguments):
    add(*arguments)
    time.sleep(float(pause))
EmbeddingParts.add = slow_add
join_processes()
found = extract_embeddings(*load_encoder(folder), load_source("digits"), 64, cache if cache != "none" else None)
torch.save([found.embeddings, found.labels, found.probe_features], f"{out}-{process_index()}.pt")
"""


@pytest.fixture
def folder(tmp_path, encoder) -> Path:
    encoder.config.embedding_pooling = "cls"
    encoder.save_pretrained(tmp_path / "encoder")
    build_processor(16, crop_ratio=1.0).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.slow
def test_a_killed_one_goes_on_where_it_was(tmp_path, folder):
    cache, out = tmp_path / "cache", tmp_path / "found"
    script, output = tmp_path / "script.py", tmp_path / "output.txt"
    script.write_text(RUN, encoding="utf-8")
    process = Script(script, [folder, cache, "0.2", out], output)
    while not list(cache.glob("*/part-0-of-1/part-00001.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    (store,) = cache.iterdir()
    assert 0 < EmbeddingParts(store / "part-0-of-1").next_row < 1347 and not StoredEmbeddings(store).is_complete
    assert Script(script, [folder, cache, "0", out], output).wait() == 0, output.read_text(encoding="utf-8")
    expected = extract_embeddings(*_loaded(folder), load_source("digits"), 64)
    found = torch.load(f"{out}-0.pt", weights_only=True)
    assert torch.equal(found[1], expected.labels)
    torch.testing.assert_close(found[0], expected.embeddings)
    torch.testing.assert_close(found[2], expected.probe_features)


@pytest.mark.slow
def test_two_commands_at_once_embed_once(tmp_path, folder):
    cache = tmp_path / "cache"
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder), str(cache), "0.05", str(tmp_path / name)],
            stderr=subprocess.PIPE, text=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    assert [process.wait() for process in commands] == [0, 0], [process.stderr.read() for process in commands]
    expected = extract_embeddings(*_loaded(folder), load_source("digits"), 64)
    for name in ("a", "b"):
        found = torch.load(tmp_path / f"{name}-0.pt", weights_only=True)
        assert torch.equal(found[1], expected.labels)
        torch.testing.assert_close(found[0], expected.embeddings)


def _loaded(folder):
    from lejepa_hf.evaluation.evaluate_encoder import load_encoder

    return load_encoder(folder)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [True, False])
def test_processes_share_the_work(tmp_path, folder, two_processes, cached):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    cache = str(tmp_path / "cache") if cached else "none"
    two_processes(script, str(folder), cache, "0", str(tmp_path / "found"))
    expected = extract_embeddings(*_loaded(folder), load_source("digits"), 64)
    for rank in range(2):
        embeddings, labels, features = torch.load(tmp_path / f"found-{rank}.pt", weights_only=True)
        assert torch.equal(labels, expected.labels)
        torch.testing.assert_close(embeddings, expected.embeddings)
        torch.testing.assert_close(features, expected.probe_features)
    if cached:
        (store,) = Path(cache).iterdir()
        names = {path.name for path in store.iterdir()}
        assert names == {".lock", "complete.json", "labels.npy", "embeddings.npy", "probe_features.npy"}


@pytest.mark.parametrize("number", [0, 3])
def test_an_image_that_was_away_does_not_stay_broken(tmp_path, encoder, digits, number, caplog, monkeypatch):
    """As where a network drive is away after the cache was looked up, which sizes and times of files are a key of."""
    monkeypatch.setattr(extraction, "_state_of_files", lambda source: 0)
    monkeypatch.setattr(image_batches, "_WAITS", ())
    for row, image in enumerate(digits.dataset.select(range(4))):
        (tmp_path / "images" / f"{row % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / f"{row % 2}" / f"{row}.png").write_bytes(image["image"]["bytes"])
    source, processor = load_source(tmp_path / "images"), build_processor(16, crop_ratio=1.0)
    file, aside = tmp_path / "images" / f"{number % 2}" / f"{number}.png", tmp_path / "aside"
    file.rename(aside)
    for _ in range(2):  # and as long as it is away, nothing is embedded again
        found = extract_embeddings(encoder, processor, source, 4, tmp_path / "cache")
        assert (len(found.labels), len(found.broken), source.num_read) == (3, 1, 3)
    assert caplog.text.count("can be read now") == 0
    aside.rename(file)
    again = extract_embeddings(encoder, processor, source, 4, tmp_path / "cache")
    assert (len(again.labels), again.broken, source.num_read) == (4, frozenset(), 4)
    assert caplog.text.count("was broken and can be read now; all images are embedded again") == 1
    assert torch.equal(
        again.embeddings[again.labels == 1 - number % 2], found.embeddings[found.labels == 1 - number % 2]
    )


def test_a_cache_that_cannot_be_written_is_told_with_the_way_out(tmp_path, encoder, digits):
    (tmp_path / "file").touch()  # which no rights make a folder, not even those of root
    told = "`cache_dir` '.*file/.*' cannot be written to .*choose another `cache_dir`"
    with pytest.raises(ValueError, match=told):
        extract_embeddings(encoder, build_processor(16, crop_ratio=1.0), digits, 16, tmp_path / "file")
