import json
import resource
from contextlib import contextmanager
from dataclasses import replace

import datasets
import pytest
import torch
from datasets import concatenate_datasets
from transformers import AutoConfig, AutoModel

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.compare_encoders import compare_encoders, format_conditions
from lejepa_hf.evaluation.evaluate_encoder import evaluate_encoder
from lejepa_hf.evaluation.protocols.protocol import OnEmbeddings
from lejepa_hf.hub.export import build_processor


@pytest.fixture
def splits():
    sources = []
    for split, rows in (("train", 60), ("test", 40)):
        source = load_source("digits", split)
        sources.append(replace(source, dataset=source.dataset.select(range(rows))))
    return tuple(sources)


def save_encoder(folder, tiny_resnet, seed: int) -> str:
    torch.manual_seed(seed)
    AutoModel.from_config(AutoConfig.for_model(**tiny_resnet)).save_pretrained(folder)
    build_processor(16, crop_ratio=1.0).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_the_record_tells_encoders_images_and_settings(tmp_path, tiny_resnet, splits):
    first, second = (save_encoder(tmp_path / str(seed), tiny_resnet, seed) for seed in (0, 1))
    record = compare_encoders([first, second], splits, ["few-shot"], shots=(1,))
    assert {name: found["results"] for name, found in record["encoders"].items()} == {
        name: evaluate_encoder(name, splits, ["few-shot"], shots=(1,)) for name in (first, second)
    }
    assert record["encoders"][first]["fingerprint"] != record["encoders"][second]["fingerprint"]
    assert record["train"]["fingerprint"] != record["eval"]["fingerprint"]
    assert (record["eval"]["label_column"], record["eval"]["images"]) == ("label", 40)
    assert (record["protocols"], record["settings"]) == (["few-shot"], {"shots": (1,)})
    line = format_conditions(record)
    assert line.startswith("digits: fitted on 60 images (train), measured on 40 images (test); torch ")
    record["eval"] |= {"images": None, "split": None}
    assert "measured on a stream; torch" in format_conditions(record)


def test_broken_images_are_not_counted_as_measured(tmp_path, tiny_resnet, splits):
    train, test = splits
    rows = list(test.dataset)
    for number in range(10):
        rows[4 * number]["image"] = {"bytes": b"nothing", "path": None}
    test = replace(test, dataset=datasets.Dataset.from_list(rows, test.features))
    encoder, out = save_encoder(tmp_path / "encoder", tiny_resnet, 0), tmp_path / "record.json"
    record = compare_encoders([encoder], (train, test), ["knn"], out)
    assert (record["train"]["images"], record["train"]["broken"]) == (60, 0)
    assert (record["eval"]["images"], record["eval"]["broken"]) == (30, 10)
    assert json.loads(out.read_text(encoding="utf-8"))["eval"]["images"] == 30
    assert "fitted on 60 images (train), measured on 30 of 40 images (test);" in format_conditions(record)
    record["eval"]["dataset"] = "others"
    assert format_conditions(record).startswith("others: fitted on 60 images (train) of digits, measured on 30 of 40 ")


class Fails(OnEmbeddings):
    name = "fails"

    def run(self, train, test):
        raise MemoryError("no room for it")


def test_figures_are_written_as_soon_as_they_exist(tmp_path, tiny_resnet, splits):
    encoder, out = save_encoder(tmp_path / "encoder", tiny_resnet, 0), tmp_path / "out.json"
    with pytest.raises(MemoryError):
        compare_encoders([encoder], splits, ["knn", Fails()], out)
    results = json.loads(out.read_text(encoding="utf-8"))["encoders"][encoder]["results"]
    assert results == evaluate_encoder(encoder, splits, ["knn"])


def test_training_images_among_the_test_images_are_named(tmp_path, tiny_resnet, splits, caplog):
    train, test = splits
    test = replace(test, dataset=concatenate_datasets([test.dataset, train.dataset.select(range(2))]))
    record = compare_encoders([save_encoder(tmp_path / "encoder", tiny_resnet, 0)], (train, test), ["knn"])
    assert record["shared_images"] == {"number": 2, "compared": 42}
    sentence = "2 of 42 held-out images are also training images, byte for byte"
    assert format_conditions(record).endswith(f"; {sentence}") and caplog.text.count(sentence) == 1


@contextmanager
def room(size: int):
    """Files cannot grow beyond `size` bytes, as on a full disk; Python ignores the signal that comes with it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.slow
def test_a_full_disk_keeps_the_record_of_the_encoders_before(tmp_path, tiny_resnet, splits):
    first, second = (save_encoder(tmp_path / str(seed), tiny_resnet, seed) for seed in (0, 1))
    # A record larger than other files that are written meanwhile, such as the output of this test.
    out, settings = tmp_path / "record.json", {"cache_dir": tmp_path / "cache", "metrics": ["top1"] * 50_000}
    compare_encoders([second, first], splits, ["knn"], out, **settings)  # all embeddings are in the cache then
    compare_encoders([first], splits, ["knn"], out, **settings)
    before = out.read_bytes()
    with room(len(before) + 100), pytest.raises(OSError, match="`--out` .*record.json' cannot be written .*make room"):
        compare_encoders([first, second], splits, ["knn"], out, **settings)
    assert out.read_bytes() == before and not list(tmp_path.glob("*.unfinished"))


def test_a_record_may_go_to_a_device(tiny_resnet, tmp_path, splits):
    encoder = save_encoder(tmp_path / "encoder", tiny_resnet, 0)
    compare_encoders([encoder], splits, ["knn"], "/dev/null")
    with pytest.raises(OSError, match="`--out` '/dev/full' cannot be written"):
        compare_encoders([encoder], splits, ["knn"], "/dev/full")


def test_differences_are_those_of_the_same_images(tmp_path, tiny_resnet, splits):
    first, second = (save_encoder(tmp_path / str(seed), tiny_resnet, seed) for seed in (0, 1))
    out = tmp_path / "record.json"
    record = compare_encoders([first, second], splits, ["knn", "few-shot"], out, shots=(1,))
    results = [found["results"] for found in record["encoders"].values()]
    found = record["differences"][second]
    assert set(found) == {
        "eval_knn_top1",
        "eval_knn10_top1",
        "eval_knn100_top1",
        "eval_knn200_top1",
        "eval_1shot_top1",
    }
    for name, difference in found.items():
        assert difference["difference"] == pytest.approx(results[1][name] - results[0][name])
        assert 0 < difference["ci95"] < results[0][f"{name}_ci95"] + results[1][f"{name}_ci95"]
    assert 0 < found["eval_knn_top1"]["mcnemar_p"] <= 1 and "mcnemar_p" not in found["eval_1shot_top1"]
    assert json.loads(out.read_text(encoding="utf-8"))["differences"] == record["differences"]


def test_unbalanced_labels_have_figures_by_class(tmp_path, tiny_resnet, splits):
    train, test = (replace(one, dataset=load_source("digits", one.split).dataset) for one in splits)
    rows = [row for row, label in enumerate(test.dataset["label"]) if label == 0 or row % 8 == 0]
    test = replace(test, dataset=test.dataset.select(rows))
    encoder = save_encoder(tmp_path / "encoder", tiny_resnet, 0)
    record = compare_encoders([encoder], (train, test), ["knn"])
    results = record["encoders"][encoder]["results"]
    assert {"eval_knn_mean_per_class", "eval_knn_macro_f1_ci95", "eval_knn200_auroc"} <= set(results)
    share = sum(label == 0 for label in test.dataset["label"]) / len(rows)
    assert record["eval"]["largest_class_share"] == pytest.approx(share)
    assert f"(test), {100 * share:.1f} % of them of the largest class; torch" in format_conditions(record)
    assert list(
        compare_encoders([encoder], (train, test), ["knn"], metrics=["macro-f1"])["encoders"][encoder]["results"]
    )[::2] == ["eval_knn10_macro_f1", "eval_knn_macro_f1", "eval_knn100_macro_f1", "eval_knn200_macro_f1"]
    with pytest.raises(ValueError, match="`metrics` accuracy unknown; known are top1"):
        compare_encoders([encoder], (train, test), ["knn"], metrics=["accuracy"])
