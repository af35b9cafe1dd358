"""What users of transformers and timm do next with an exported encoder, without this package's help."""

import json

import pytest
import torch
from test_export import SIZE, build
from torch import nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    DetrConfig,
    DetrForObjectDetection,
    RTDetrConfig,
    RTDetrForObjectDetection,
    Trainer,
    TrainingArguments,
)

from lejepa_hf import export_encoder
from lejepa_hf.data.decoding import decode_image
from lejepa_hf.data.sources import load_source
from lejepa_hf.hub.export import build_processor

WITH_BACKBONE_CLASS = ["dinov2", "swin", "convnextv2", "resnet"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict:
    """Exported folders by family, each beside the model it came from."""
    found = {}
    for family in ["vit", "timm", "timm_vit", *WITH_BACKBONE_CLASS]:
        model = build(family).eval()
        found[family] = (
            model,
            export_encoder(model, tmp_path_factory.mktemp(family) / "encoder", build_processor(SIZE)),
        )
    return found


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(0))


def backbone_config(folder):
    return AutoConfig.from_pretrained(folder, out_indices=[1, 2])


def load_backbone(folder):
    # Not `AutoBackbone.from_pretrained`, which takes Hub ids only.
    config = backbone_config(folder)
    return type(AutoBackbone.from_config(config)).from_pretrained(folder, config=config).eval()


def maps_of_the_encoder(family: str, model: nn.Module, pixels: torch.Tensor) -> list[torch.Tensor]:
    """What the backbone class is to give, from the hidden states of the trained encoder."""
    trained, states = model.encoder.backbone, []
    if family == "dinov2":
        hidden = trained(pixels, output_hidden_states=True).hidden_states[1:]
        return [as_map(trained.layernorm(state)[:, 1:]) for state in hidden]
    if family == "resnet":
        return list(trained(pixels, output_hidden_states=True).hidden_states[1:])
    # Swin's hidden states are those behind the merging of patches, its maps those before.
    ends = [stage.blocks[-1] for stage in trained.encoder.layers] if family == "swin" else trained.encoder.stages
    hooks = [end.register_forward_hook(lambda _, __, output: states.append(output)) for end in ends]
    trained(pixels)
    [hook.remove() for hook in hooks]
    maps = [as_map(state[0]) if family == "swin" else state for state in states]
    # Detectors get normalised maps; the norms are not the encoder's, they start as the identity.
    eps = 1e-5 if family == "swin" else 1e-6
    return [nn.functional.layer_norm(state.movedim(1, -1), state.shape[1:2], eps=eps).movedim(-1, 1) for state in maps]


def as_map(tokens: torch.Tensor) -> torch.Tensor:
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


@pytest.mark.parametrize("family", WITH_BACKBONE_CLASS)
@torch.no_grad()
def test_backbone_class_gives_the_encoders_maps(encoders, pixels, family):
    model, folder = encoders[family]
    maps = load_backbone(folder)(pixels).feature_maps
    expected = maps_of_the_encoder(family, model, pixels)
    assert len(maps) == len(expected) == 2
    for found, wanted in zip(maps, expected, strict=True):
        assert found.ndim == 4 and wanted.std() > 1e-3
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def detr(folder):
    small = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16}
    small |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5, "num_labels": 3}
    return DetrForObjectDetection(DetrConfig(backbone_config=backbone_config(folder), **small))


def rt_detr(folder):
    small = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16}
    small |= {"encoder_hidden_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5}
    config = backbone_config(folder)
    levels = {"encoder_in_channels": AutoBackbone.from_config(config).channels, "num_feature_levels": 2}
    levels |= {"feat_strides": [4, 8], "encode_proj_layers": [1], "decoder_in_channels": [16, 16]}
    return RTDetrForObjectDetection(
        RTDetrConfig(backbone_config=config, num_labels=3, num_denoising=0, **small, **levels)
    )


@pytest.mark.parametrize("make", [detr, rt_detr])
@pytest.mark.parametrize("family", ["resnet", "swin", "convnextv2"])
def test_detector_trains_with_it_as_its_backbone(encoders, pixels, make, family):
    model, folder = encoders[family]
    torch.manual_seed(0)
    detector = make(folder)
    inner = detector.model.backbone.model
    result = inner.load_state_dict(load_backbone(folder).state_dict(), strict=False)
    assert not result.missing_keys
    # Detectors freeze BatchNorm: only its counters find no place.
    assert not [key for key in result.unexpected_keys if not key.endswith("num_batches_tracked")]
    loaded, trained = inner.state_dict(), model.encoder.backbone.state_dict()
    own = {key for key in loaded if not key.startswith("hidden_states_norms.")}
    assert len(own) > 5
    assert all(torch.equal(loaded[key], trained[key.removeprefix("swin.")]) for key in own)

    for parameter in inner.parameters():  # DETR looks for a ResNet's stages by timm's names and freezes all of it
        parameter.requires_grad_(True)
    targets = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}] * len(pixels)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    name, first = next((name, parameter) for name, parameter in inner.named_parameters() if "embed" in name)
    for _ in range(2):
        loss = detector(pixel_values=pixels, labels=targets).loss
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        assert first.grad.abs().max() > 0
        optimizer.step()
    assert not torch.equal(first, trained[name.removeprefix("swin.")])


@pytest.mark.parametrize("family", ["vit", pytest.param("resnet", marks=pytest.mark.slow)])
def test_classifier_is_fine_tuned_by_the_stock_trainer(encoders, tmp_path, family):
    model, folder = encoders[family]
    torch.manual_seed(0)
    classifier, info = AutoModelForImageClassification.from_pretrained(folder, num_labels=10, output_loading_info=True)
    assert {key.split(".")[0] for key in info["missing_keys"]} == {"classifier"}
    # A ViT's classifier takes the first token itself, and so does the pooler of the export, which is the identity.
    assert {key.split(".")[0] for key in info["unexpected_keys"]} <= {"pooler"}
    base = getattr(classifier, classifier.base_model_prefix)
    trained = model.encoder.backbone.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in base.state_dict().items())

    source = load_source("digits")
    rows = [source.dataset[number] for number in range(64)]
    processor = build_processor(SIZE, 1.0)
    examples = [
        {
            "pixel_values": processor(decode_image(row[source.image_column]), return_tensors="pt")["pixel_values"][0],
            "labels": row[source.label_column],
        }
        for row in rows
    ]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=60, per_device_train_batch_size=32, learning_rate=3e-3, logging_steps=4, seed=0,
        use_cpu=True, save_strategy="no", disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    trainer = Trainer(classifier, arguments, train_dataset=examples)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.8 * losses[0], losses


@pytest.mark.parametrize("family", ["timm", "timm_vit"])
@torch.no_grad()
def test_timm_reads_the_weights_itself(encoders, family):
    import timm

    model, folder = encoders[family]
    config = json.loads((folder / "config.json").read_text())
    weights, arguments = str(folder / "model.safetensors"), config["model_args"] or {}
    encoder = timm.create_model(config["architecture"], num_classes=0, checkpoint_path=weights, **arguments).eval()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder(pixels), model.encoder(pixels).pooler_output)
    trained = model.encoder.backbone.timm_model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in encoder.state_dict().items())
    if family == "timm":
        maps = timm.create_model(config["architecture"], features_only=True, checkpoint_path=weights).eval()(pixels)
        assert [tensor.shape[-1] for tensor in maps] == [32, 16, 8, 4, 2]
        torch.testing.assert_close(maps[-1], AutoModel.from_pretrained(folder).eval()(pixels).last_hidden_state)


def saved_classifier(encoder, folder, **names):
    """What `AutoModelForImageClassification` reads again of a classifier that starts from an encoder."""
    AutoModelForImageClassification.from_pretrained(encoder, **names).save_pretrained(folder)
    return AutoModelForImageClassification.from_pretrained(folder)


@pytest.mark.parametrize("family", ["timm", "timm_vit", "vit", "resnet"])
def test_a_classifier_keeps_its_own_class_names(encoders, tmp_path, family):
    """timm's wrapper wrote LABEL_0 and LABEL_1 into the encoder, which won over the names of a classifier."""
    _, folder = encoders[family]
    names = {0: "cat", 1: "dog", 2: "fox"}
    numbers = {name: number for number, name in names.items()}
    again = saved_classifier(folder, tmp_path, num_labels=3, id2label=names, label2id=numbers)
    assert (again.config.id2label, again.config.label2id, again.num_labels) == (names, numbers, 3)
    if not family.startswith("timm"):  # whose wrapper drops names without `num_labels`
        assert saved_classifier(folder, tmp_path, id2label=names, label2id=numbers).config.id2label == names
    assert saved_classifier(folder, tmp_path, num_labels=5).num_labels == 5


@pytest.mark.parametrize("family", ["vit", "timm"])
def test_names_of_a_pretrained_head_stay_behind(tmp_path, family):
    """As of ImageNet, where the backbone's weights came from a classifier."""
    model = build(family)
    model.encoder.backbone.config.id2label = {number: f"imagenet {number}" for number in range(5)}
    model.encoder.backbone.config.label_names = [f"imagenet {number}" for number in range(5)]
    folder = export_encoder(model, tmp_path / "encoder", build_processor(SIZE))
    assert "imagenet" not in (folder / "config.json").read_text()
    assert saved_classifier(folder, tmp_path / "own", num_labels=5).config.id2label[0] == "LABEL_0"


def test_timm_s_wrapper_asks_for_the_number_of_classes(encoders):
    """It made a head of two classes, whatever names were given."""
    with pytest.raises(ValueError, match="no classifier head. Please specify the number of classes"):
        AutoModelForImageClassification.from_pretrained(encoders["timm"][1], id2label={0: "a", 1: "b", 2: "c"})
