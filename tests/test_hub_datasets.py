"""Every recipe and every preset opens its images, from a Hub on loopback that has the layout of the real one."""

import io
from dataclasses import replace
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
from hub_client import TOKEN, connect
from hub_layouts import LAYOUTS, Layout, put_dataset
from hub_server import HubServer
from PIL import Image
from transformers import AutoConfig, AutoModel

from lejepa_hf.data.dataset_kinds import Mixture
from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.dataset_presets import PRESETS, usual_settings
from lejepa_hf.evaluation.embeddings.extraction import extract_embeddings
from lejepa_hf.evaluation.evaluate_encoder import evaluate_encoder
from lejepa_hf.evaluation.labelled_sources import (
    check_labels,
    check_masks,
    check_pair,
    labelled_source,
    labelled_sources,
)
from lejepa_hf.evaluation.protocols.knn import Knn
from lejepa_hf.evaluation.protocols.logistic_regression import fit_logistic
from lejepa_hf.hub.export import build_processor
from lejepa_hf.runs.recipe_sources import open_sources
from lejepa_hf.runs.recipes import parse_recipe

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "accelerate")
ON_DISK = [path for path in RECIPES if path.parent.name == "folder"]  # name a folder of the user's


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with HubServer(folder, tokens={TOKEN: "me"}) as server, pytest.MonkeyPatch.context() as patch:
        connect(server, patch)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "files"))
        patch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)  # another server, which tells sizes only
        for name, layout in LAYOUTS.items():
            put_dataset(server, name, layout, let_in=("me",))
        yield server


def opened(name: str, streaming: bool) -> list:
    """The sources of a preset or recipe, as `lejepa evaluate` and training open them."""
    if name not in PRESETS:
        arguments = ["--use_cpu", "--bf16", "false", "--streaming", str(streaming).lower()]
        train, held_out, _ = open_sources(parse_recipe(ROOT / "recipes" / f"{name}.yaml", arguments).data)
        members = train.dataset.datasets if isinstance(train.dataset, Mixture) else [train.dataset]
        return [*(replace(train, dataset=member) for member in members), held_out]
    train, test = labelled_sources(name, streaming=streaming)
    check_pair(train, test)
    for source in (train, test):
        (check_masks if PRESETS[name].label_column in ("mask", "annotation") else check_labels)(source)
    return [train, test]


NAMES = [f"{path.parent.name}/{path.stem}" for path in RECIPES if path not in ON_DISK]


@pytest.mark.parametrize("name", [*NAMES, *PRESETS])
def test_it_opens_and_rows_are_read(hub, name):
    sizes = []
    for streaming in (False, True):
        sources = opened(name, streaming)
        sizes.append([source.num_images for source in sources])
        for source in sources:
            assert source.is_stream == streaming
            row = next(iter(source.dataset))
            assert Image.open(io.BytesIO(row[source.image_column]["bytes"])).size in ((8, 6), (8, 8))
    assert sizes[0] == sizes[1] and None not in sizes[0]


def test_a_preset_reads_the_images_that_its_name_stands_for(hub):
    aircraft, _ = labelled_sources("fgvc-aircraft")
    assert (aircraft.num_images, aircraft.split, aircraft.label_column) == (4, "train+validation", "variant")
    before = len(hub.requests)
    labelled_sources("stanford-cars", max_image_pixels=10**6)
    assert not [request for request in hub.requests[before:] if "motion_blur" in request]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "name, classes",
    [
        ("imagenet-v2", [0, 6, 11, 0]),
        ("imagenet-sketch", [0, 6, 11, 0]),
        ("imagenet-a", [6, 11, 6, 11]),
        ("imagenet-r", [6, 11, 6, 11]),
    ],
)
def test_robustness_sets_have_the_classes_of_imagenet(hub, name, classes, streaming):
    train, test = labelled_sources(name, streaming=streaming)
    assert [row[test.label_column] for row in test.dataset] == classes
    assert test.class_names == train.class_names and len(train.class_names) == 1000
    assert (train.name, train.split) == ("ILSVRC/imagenet-1k", "train")
    assert usual_settings(name)["held_out_classes_only"] == (True if name in ("imagenet-a", "imagenet-r") else None)


@pytest.mark.parametrize("name", ["imagenet-v2", "imagenet-a"])
def test_a_classifier_of_imagenet_is_measured_on_a_robustness_set(hub, name, tiny_resnet, tmp_path):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(**tiny_resnet)), build_processor(16, crop_ratio=1.0)
    found = evaluate_encoder(encoder, name, ["knn", "logistic"])
    train, test = (extract_embeddings(*encoder, source) for source in labelled_sources(name))
    assert train.labels.unique().tolist() == [0, 6, 11]
    only = name == "imagenet-a"
    classifier = fit_logistic(train.embeddings.numpy(), train.labels.numpy())
    scores = classifier.predict_proba(test.embeddings.numpy())[:, only:]  # without class 0
    guesses = classifier.classes_[only:][scores.argmax(1)]
    assert found["eval_logistic_top1"] == (guesses == test.labels.numpy()).mean()
    assert found["eval_knn_top1"] == Knn(held_out_classes_only=only).run(train, test)["eval_knn_top1"]


def test_a_robustness_set_only_measures(hub):
    with pytest.raises(ValueError, match="'10%' is a share .* 'barkermrl/imagenet-a' measures .* imagenet-1k"):
        labelled_sources("imagenet-a", eval_split="10%")
    with pytest.raises(ValueError, match="'axiong/imagenet-r' only measures protocols .* leave `folds` out"):
        labelled_source("imagenet-r")
    with pytest.raises(ValueError, match="'class_name' of .*'axiong/imagenet-r' holds 0, which is not"):
        labelled_sources("imagenet-r", label_column="class_name")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_program_is_replaced_by_the_parquet_files_of_its_configuration(hub, streaming):
    found = {}
    for config in ("160px", "320px"):
        for revision in (None, "refs/convert/parquet"):
            source = load_source(
                "frgfm/imagenette", "validation", config=config, revision=revision, streaming=streaming
            )
            rows = [row["image"]["bytes"] for row in source.dataset]
            assert len(rows) == source.num_images == 2
            assert found.setdefault(config, rows) == rows
    assert found["160px"] != found["320px"]


def message(*arguments, **settings) -> str:
    with pytest.raises(ValueError) as error:
        load_source(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("revision", [None, "refs/convert/parquet"])
def test_what_a_program_leaves_open(hub, revision, streaming):
    """Also after one configuration was read: `datasets` would take it from its cache."""
    load_source("frgfm/imagenette", config="160px", revision=revision)
    settings = {"revision": revision, "streaming": streaming}
    several = message("frgfm/imagenette", **settings)
    assert "several configurations" in several and "one of 160px, 320px, full_size" in several
    assert "no `config` '99px': it has 160px, 320px, full_size" in message(
        "frgfm/imagenette", config="99px", **settings
    )
    missing = message("frgfm/imagenette", "dev", config="160px", **settings)
    assert "no split 'dev'" in missing and "validation" in missing


@pytest.mark.parametrize("streaming", [False, True])
def test_a_program_without_parquet_files(hub, streaming):
    if not hub.read("datasets/me/program"):
        hub.create("datasets/me/program")
        hub.put("datasets/me/program", {"program.py": b"raise SystemExit(1)\n"})
        hub.create("datasets/me/large")
        hub.put("datasets/me/large", {"large.py": b"raise SystemExit(1)\n"})
        hub.put("datasets/me/large", {"all/partial-train/0000.parquet": b""}, "refs/convert/parquet", on_top=False)
    for name, reason in (("program", "has no Parquet files of it"), ("large", "only a part of it (partial-train)")):
        text = message(f"me/{name}", streaming=streaming)
        assert "programs are never run" in text and reason in text and "use another copy" in text.lower()
    assert "with `revision: refs/convert/parquet`" in message(
        "me/program", data_files="*.parquet", streaming=streaming
    )


def test_a_program_of_one_configuration_needs_no_name(hub):
    put_dataset(hub, "me/single", Layout(configs=("all",), is_script=True))
    assert load_source("me/single").num_images == 2


def test_a_converted_dataset_is_read_without_the_hub(hub, monkeypatch):
    load_source("frgfm/imagenette", config="160px")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for revision in (None, "refs/convert/parquet"):
        assert load_source("frgfm/imagenette", config="160px", revision=revision).num_images == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_are_joined(hub, streaming):
    parts = [load_source("mteb/FGVCAircraft", split, streaming=streaming) for split in ("train", "test")]
    both = load_source("mteb/FGVCAircraft", "train+test", streaming=streaming)
    assert [row["image"]["bytes"] for row in both.dataset] == [
        row["image"]["bytes"] for part in parts for row in part.dataset
    ]
    assert both.num_images == 4
    text = message("mteb/FGVCAircraft", "train + dev", streaming=streaming)
    assert '"dev"' in text or "dev." in text
    assert "train" in text and "validation" in text and "test" in text
