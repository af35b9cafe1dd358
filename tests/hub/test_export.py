import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from safetensors.torch import load_file
from stranger import NOT_INSTALLED
from transformers import AutoImageProcessor, AutoModel, TrainerState

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.hub.export import build_processor
from lejepa_hf.training.encoder_average import EncoderAverage

SIZE = 32
TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE, "patch_size": 8}
VIT = {"model_type": "vit", "intermediate_size": 64, **TOKENS}
RESNET = {
    "model_type": "resnet",
    "layer_type": "basic",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
}

# Backbone config, pooling of the training, what the export's config says, whether the class has a pooled output.
FAMILIES = {
    "vit": (VIT, "auto", "pooler", True),
    "vit_mean": (VIT, "mean", "mean", True),
    "dinov2": ({"model_type": "dinov2", "mlp_ratio": 2, **TOKENS}, "auto", "pooler", True),
    "dinov2_cls": ({"model_type": "dinov2", "mlp_ratio": 2, **TOKENS}, "cls", "cls", True),
    "resnet": (RESNET, "auto", "pooler", True),
    "resnet_mean": (RESNET, "mean", "mean", True),
    "convnextv2": (
        {"model_type": "convnextv2", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        "auto",
        "pooler",
        True,
    ),
    "swin": (
        {
            "model_type": "swin",
            "image_size": SIZE,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "window_size": 4,
        },
        "auto",
        "pooler",
        True,
    ),
    "ijepa": ({"model_type": "ijepa", "intermediate_size": 64, **TOKENS}, "auto", "mean", False),
    "timm": ({"model_type": "timm_wrapper", "architecture": "resnet18"}, "auto", "pooler", True),
    "timm_vit": (
        {
            "model_type": "timm_wrapper",
            "architecture": "vit_tiny_patch16_224",
            "model_args": {"dynamic_img_size": True, "embed_dim": 32, "depth": 2, "num_heads": 2},
        },
        "auto",
        "pooler",
        True,
    ),
}

# Runs where lejepa_hf cannot be imported, as on the machine of somebody who found the encoder on the Hub.
STRANGER = (
    NOT_INSTALLED
    + """
try:
    import lejepa_hf
    sys.exit("lejepa_hf was imported")
except ModuleNotFoundError:
    pass

import json, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline

torch.set_num_threads(1)
image, found = Image.open(sys.argv[1]), {}
for folder in sys.argv[2:]:
    encoder, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = encoder(**processor(image, return_tensors="pt"))
    states, pooling = outputs.last_hidden_state, encoder.config.embedding_pooling
    if pooling == "pooler":
        embedding = outputs.pooler_output.flatten(1)
    elif pooling == "cls":
        embedding = states[:, 0]
    else:
        embedding = states.mean(1) if states.ndim == 3 else states.mean((2, 3))
    row = {"class": type(encoder).__module__, "embedding": embedding[0].tolist()}
    extract = pipeline("image-feature-extraction", model=folder, device="cpu")
    row["piped_states"] = torch.tensor(extract(image)).flatten().tolist() == states.flatten().tolist()
    if outputs.pooler_output is not None:
        pooled = pipeline("image-feature-extraction", model=folder, pool=True, device="cpu")(image)
        row["piped"] = torch.tensor(pooled).flatten().tolist()
    found[folder] = row
print(json.dumps(found))
"""
)


def build(family: str) -> LeJEPAForPreTraining:
    """A model after some steps: its BatchNorms have seen data, its weights are no initialisation."""
    backbone, pooling, _, _ = FAMILIES[family]
    torch.manual_seed(0)
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=backbone, pooling=pooling, projector_dims=[8]))
    model.train()
    with torch.no_grad():
        model(1 + torch.randn(8, 2, 3, SIZE, SIZE))
        for parameter in model.encoder.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def run_folder(family: str, folder: Path) -> LeJEPAForPreTraining:
    model = build(family)
    model.save_pretrained(folder / "pretraining")
    build_processor(SIZE, 0.9, image_mean=[0.4, 0.5, 0.6]).save_pretrained(folder / "pretraining")
    return model


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict:
    """Every family, exported from a run folder, beside the model it came from."""
    found = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        model = run_folder(family, folder)
        found[family] = (model.eval(), export_encoder(folder))
    return found


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    pixels = torch.randint(256, (50, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("image") / "image.png"
    Image.fromarray(pixels.numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def stranger(exports, image) -> dict:
    folders = {family: str(folder) for family, (_, folder) in exports.items()}
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(image), *folders.values()],
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    return {family: rows[folder] for family, folder in folders.items()}


def pooled(outputs, pooling: str) -> torch.Tensor:
    states = outputs.last_hidden_state
    if pooling == "pooler":
        return outputs.pooler_output.flatten(1)
    return states[:, 0] if pooling == "cls" else states.flatten(2).mean(2) if states.ndim == 4 else states.mean(1)


def training_side(model: LeJEPAForPreTraining, folder: Path, image: Path) -> torch.Tensor:
    pixels = AutoImageProcessor.from_pretrained(folder)(Image.open(image), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return model.encoder(pixels).pooler_output[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_model_gives_the_trained_embedding(exports, family):
    model, folder = exports[family]
    encoder = AutoModel.from_pretrained(folder).eval()
    assert encoder.config.embedding_pooling == FAMILIES[family][2]
    pixels = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = pooled(encoder(pixels), FAMILIES[family][2]), model.encoder(pixels).pooler_output
    assert expected.std() > 1e-3  # images are told apart
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_works_where_this_package_is_not_installed(exports, stranger, image, family):
    model, folder = exports[family]
    expected = training_side(model, folder, image)
    row = stranger[family]
    assert row["class"].startswith("transformers.models.")
    torch.testing.assert_close(torch.tensor(row["embedding"]), expected, atol=1e-5, rtol=1e-5)
    assert row["piped_states"]
    assert ("piped" in row) == FAMILIES[family][3]
    if FAMILIES[family][2] == "pooler":
        torch.testing.assert_close(torch.tensor(row["piped"]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_folder_holds_weights_and_no_code(exports, family):
    _, folder = exports[family]
    names = {path.name for path in folder.rglob("*")}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    config = json.loads((folder / "config.json").read_text())
    assert "auto_map" not in config
    assert hasattr(transformers, config["architectures"][0])
    keys = load_file(folder / "model.safetensors").keys()
    assert not [key for key in keys if "projector" in key]


def test_who_may_read_the_config_may_read_the_weights(exports):
    folder = exports["vit"][1]
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


@pytest.mark.parametrize("family", ["vit", "vit_mean"])
def test_pooler_of_a_vit_is_exactly_its_first_token(exports, family):
    encoder = AutoModel.from_pretrained(exports[family][1]).eval()
    with torch.no_grad():
        outputs = encoder(torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(outputs.pooler_output, outputs.last_hidden_state[:, 0])


@pytest.mark.parametrize("family", ["resnet", "timm"])
def test_batch_norm_statistics_travel(exports, family):
    model, folder = exports[family]
    saved = {key: value for key, value in AutoModel.from_pretrained(folder).state_dict().items() if "running_" in key}
    trained = model.encoder.backbone.state_dict()
    assert saved
    for key, value in saved.items():
        assert torch.equal(value, trained[key])
        assert not torch.equal(value, torch.full_like(value, float("var" in key))), f"{key} is as at the start"


@pytest.mark.parametrize("family", ["vit", "dinov2_cls", "resnet"])
def test_training_model_stays_as_it_is(tmp_path, family):
    model = build(family)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    config, backbone = model.config.to_dict(), model.encoder.backbone.config.to_dict()
    export_encoder(model, tmp_path / "encoder", build_processor(SIZE))
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert (model.config.to_dict(), model.encoder.backbone.config.to_dict()) == (config, backbone)
    assert all(module.training for module in model.modules())
    assert model(torch.randn(4, 2, 3, SIZE, SIZE)).loss.requires_grad


@pytest.mark.parametrize("source", ["run", "pretraining", "checkpoint", "model", "encoder model"])
def test_every_source_gives_the_same_encoder(tmp_path, source):
    model = run_folder("resnet", tmp_path)
    (tmp_path / "pretraining").rename(tmp_path / "checkpoint-7") if source == "checkpoint" else None
    given = {
        "run": tmp_path,
        "pretraining": str(tmp_path / "pretraining"),
        "checkpoint": tmp_path / "checkpoint-7",
        "model": model,
        "encoder model": model.encoder,
    }[source]
    from_files = source in ("run", "pretraining", "checkpoint")
    folder = (
        export_encoder(given) if from_files else export_encoder(given, tmp_path / "encoder", build_processor(SIZE))
    )
    assert folder == tmp_path / ("encoder-7" if source == "checkpoint" else "encoder")
    saved = AutoModel.from_pretrained(folder).state_dict()
    trained = model.encoder.backbone.state_dict()
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[key], trained[key]) for key in saved)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert list(processor.image_mean) == ([0.4, 0.5, 0.6] if from_files else [0.485, 0.456, 0.406])


def test_folder_and_processor_by_choice(tmp_path):
    run_folder("resnet", tmp_path / "run")
    folder = export_encoder(tmp_path / "run", tmp_path / "elsewhere", build_processor(24, image_std=[1.0, 1.0, 1.0]))
    assert folder == tmp_path / "elsewhere"
    assert not (tmp_path / "run" / "encoder").exists()
    processor = AutoImageProcessor.from_pretrained(folder)
    assert (processor.crop_size["height"], list(processor.image_std)) == (24, [1.0, 1.0, 1.0])


def test_processor_of_last_resort_fits_the_backbone(tmp_path):
    folder = export_encoder(build("vit"), tmp_path)
    pixels = AutoImageProcessor.from_pretrained(folder)(Image.new("L", (70, 90)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, SIZE, SIZE)


def test_results_of_the_finished_run_are_not_claimed_for_its_checkpoints(tmp_path):
    build("resnet").save_pretrained(tmp_path / "checkpoint-7")
    (tmp_path / "metrics.jsonl").write_text('{"step": 9, "prediction_loss": 0.125, "sigreg_loss": 1.5}\n{"step": 1')
    assert "0.1250" not in (export_encoder(tmp_path / "checkpoint-7") / "README.md").read_text()
    (tmp_path / "checkpoint-7").rename(tmp_path / "pretraining")
    assert "0.1250" in (export_encoder(tmp_path) / "README.md").read_text()


def test_averaged_weights_are_exported_beside_the_raw_ones(tmp_path):
    model = run_folder("vit", tmp_path)
    average = EncoderAverage(0.99)
    average.on_train_begin(None, TrainerState(), None, model=build("vit"))
    with pytest.raises(ValueError, match="no averaged encoder.*`ema_decay` is above 0"):
        export_encoder(tmp_path, averaged=True)
    with torch.no_grad():
        [value.mul_(0.5) for value in average._average.values()]
    average.save_state(tmp_path / "pretraining")
    raw, folder = export_encoder(tmp_path), export_encoder(tmp_path, averaged=True)
    assert (raw, folder) == (tmp_path / "encoder", tmp_path / "encoder_averaged")
    found, trained = AutoModel.from_pretrained(folder).state_dict(), model.encoder.backbone.state_dict()
    torch.testing.assert_close({name: found[name] for name in trained}, {k: 0.5 * v for k, v in trained.items()})
    unchanged = AutoModel.from_pretrained(raw).state_dict()
    assert all(torch.equal(value, unchanged[name]) for name, value in trained.items())
    assert list(AutoImageProcessor.from_pretrained(folder).image_mean) == [0.4, 0.5, 0.6]
    assert "exponential moving average, decay 0.99." in (folder / "README.md").read_text()
    assert "moving average" not in (raw / "README.md").read_text()
    with pytest.raises(ValueError, match="`averaged` needs a run folder"):
        export_encoder(model, tmp_path / "elsewhere", averaged=True)


def test_what_is_neither_a_run_nor_its_checkpoint_needs_a_folder(tmp_path):
    with pytest.raises(ValueError, match="`folder` is needed"):
        export_encoder(build("resnet"))
    run_folder("resnet", tmp_path)
    (tmp_path / "pretraining").rename(tmp_path / "best")
    with pytest.raises(ValueError, match="`folder` is needed"):
        export_encoder(tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("name", ["pretraining", "checkpoint-7"])
def test_training_state_is_not_overwritten(tmp_path, name):
    run_folder("resnet", tmp_path)
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-7" / "trainer_state.json").touch()
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"{name}' holds a model in training"):
        export_encoder(tmp_path, tmp_path / name)
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_no_half_folder(tmp_path, existing):
    run_folder("resnet", tmp_path)
    if existing:
        export_encoder(tmp_path)
        (tmp_path / "encoder" / "notes.txt").write_text("mine")
        run_folder("vit", tmp_path)  # what is to replace it
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))  # bytes a file: enough for all but the weights
    try:
        with pytest.raises(OSError, match="could not be written into .*encoder'.*: make room there"):
            export_encoder(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == ({"pretraining", "encoder"} if existing else {"pretraining"})
    assert AutoModel.from_pretrained(export_encoder(tmp_path)).config.model_type == ("vit" if existing else "resnet")


def test_a_new_export_replaces_all_of_the_old_one_and_nothing_else(tmp_path):
    run_folder("resnet", tmp_path)
    training = contents(tmp_path / "pretraining")
    encoder = export_encoder(tmp_path)
    (encoder / "results.json").write_text("{}")
    for stale in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "model.onnx", "model.onnx.data"):
        (encoder / stale).write_text("of other weights")
    assert export_encoder(tmp_path) == encoder
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "results.json"}
    assert {path.name for path in encoder.iterdir()} == names
    assert (encoder / "results.json").read_text() == "{}"
    assert contents(tmp_path / "pretraining") == training
    assert {path.name for path in tmp_path.iterdir()} == {"pretraining", "encoder"}


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_processors_of_other_channels(tmp_path, channels, backend):
    build_processor(SIZE, 1.0, [0.2] * channels, pixel_range=[0.0, 900.0]).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
    assert processor.pixel_range == [0.0, 900.0] and processor.do_convert_rgb == (channels == 3)
    assert list(processor.image_std) == ([0.229, 0.224, 0.225] if channels == 3 else [0.5] * channels)
    image = Image.new(
        {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels], (SIZE, SIZE), 51 if channels == 1 else (51,) * channels
    )
    ways = [] if channels in (1, 3) else [(np.array(image), {"input_data_format": "channels_last"})]
    if channels in (1, 3) or Version(transformers.__version__) >= Version("5.21"):
        ways.append((image, {}))
    for given, settings in ways:
        pixels = processor(given, return_tensors="pt", **settings)["pixel_values"]
        assert pixels.shape == (1, channels, SIZE, SIZE)
        torch.testing.assert_close(pixels, torch.zeros_like(pixels), atol=1e-6, rtol=0)  # 51 is a fifth of 255


def test_a_model_of_five_channels_without_a_processor(tmp_path):
    backbone = {**RESNET, "num_channels": 5}
    export_encoder(LeJEPAForPreTraining(LeJEPAConfig(backbone_config=backbone, projector_dims=[8])), tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert list(processor.image_mean) == list(processor.image_std) == [0.5] * 5 and not processor.do_convert_rgb
    assert not hasattr(processor, "pixel_range")
