import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel

from lejepa_hf.evaluation.feature_extractor import FeatureExtractor
from lejepa_hf.hub.export import build_processor

TOKENS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
CONFIGS = {
    "vit": TOKENS | {"intermediate_size": 64},
    "dinov2_with_registers": TOKENS | {"num_register_tokens": 5},  # with the class token and 10 patches a square
    "dinov2": TOKENS,
    "ijepa": TOKENS | {"intermediate_size": 64},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
    "clip": {
        "vision_config": TOKENS | {"intermediate_size": 64},
        "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20},
    },
}
PREFIX = {"vit": 1, "dinov2": 1, "dinov2_with_registers": 6, "ijepa": 0}


def extractor(family: str, *arguments, **kwargs) -> FeatureExtractor:
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model(family, **CONFIGS[family])).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 1:  # a norm that left everything as it is would be no norm
                parameter.add_(0.2 * torch.randn_like(parameter))
    return FeatureExtractor(encoder, build_processor(16, crop_ratio=1.0), *arguments, **kwargs)


@pytest.fixture
def images() -> list[Image.Image]:
    pixels = torch.randint(256, (3, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return [Image.fromarray(image.numpy()) for image in pixels]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("pooling", ["cls", "patches"])
@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov2_with_registers"])
def test_tokens_and_layers_by_hand(images, family, pooling, layers):
    features = extractor(family, pooling, layers)
    pixels = features.preprocess(images)
    with torch.no_grad():
        hidden = features.encoder(pixels, output_hidden_states=True)
        states = [features.encoder.layernorm(state) for state in hidden.hidden_states[-layers:-1]]
    states.append(hidden.last_hidden_state)
    if pooling == "cls":
        expected = torch.cat([state[:, 0] for state in states], dim=1)
    else:
        expected = torch.cat([state[:, PREFIX[family] :].mean(1) for state in states], dim=1)
    assert expected.shape == (3, 32 * layers)
    torch.testing.assert_close(features(pixels), expected)
    assert features.try_one() == (pooling, 32 * layers)


def test_layers_of_a_feature_map_by_hand(images):
    features = extractor("resnet", "patches", 2)
    pixels = features.preprocess(images)
    blocks = features.encoder.encoder.stages[-1].layers
    kept = []
    handle = blocks[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        last = features.encoder(pixels).last_hidden_state
    handle.remove()
    torch.testing.assert_close(features(pixels), torch.cat([kept[0].mean((2, 3)), last.mean((2, 3))], dim=1))


@pytest.mark.parametrize(
    ("family", "said", "resolved"),
    [("vit", None, "pooler"), ("vit", "mean", "mean"), ("ijepa", None, "mean"), ("resnet", None, "pooler")],
)
def test_auto_is_the_trained_embedding(images, family, said, resolved):
    features = extractor(family)
    if said is not None:
        features.encoder.config.embedding_pooling = said
    if family == "ijepa":
        features.encoder.pooler = None
    pixels = features.preprocess(images)
    with torch.no_grad():
        outputs = features.encoder(pixels)
    expected = outputs.pooler_output.flatten(1) if resolved == "pooler" else outputs.last_hidden_state.mean(1)
    torch.testing.assert_close(features(pixels), expected)
    assert features.try_one() == (resolved, expected.shape[1])


@pytest.mark.parametrize(
    ("family", "pooling", "layers", "message"),
    [
        (
            "resnet",
            "cls",
            1,
            "`pooling` 'cls' cannot be made from this resnet encoder: it offers auto, pooler, patches.",
        ),
        ("resnet", "patches", 4, "`layers` must be 1 to 3 for this resnet encoder, got 4"),
        ("vit", "auto", 2, "`layers` 2 has no meaning for `pooling` 'auto'.*choose cls or patches"),
        ("resnet", "pooler", 2, "`layers` 2 has no meaning for `pooling` 'pooler'.*choose patches"),
        ("clip", "auto", 1, "`model`: a clip model does not turn the pixels.*the vision part"),
    ],
)
def test_what_an_encoder_does_not_offer_is_refused(family, pooling, layers, message):
    with pytest.raises(ValueError, match=message):
        extractor(family, pooling, layers).try_one()


@pytest.mark.parametrize("channels", [1, 5])
def test_encoders_of_other_than_three_channels(channels):
    config = AutoConfig.for_model("vit", **CONFIGS["vit"], num_channels=channels)
    mean_and_std = [0.5] * channels, [0.25] * channels
    features = FeatureExtractor(AutoModel.from_config(config), build_processor(16, 1.0, *mean_and_std), "patches", 2)
    assert features.try_one() == ("patches", 64)
    array = np.random.default_rng(0).integers(0, 256, (16, 16, channels), dtype=np.uint8)
    pixels = features.preprocess([features.decode(array[:, :, 0] if channels == 1 else array)])
    expected = (torch.from_numpy(array).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=1e-5)
    assert features(pixels).shape == (1, 64)


def test_autocast_is_used_on_request(images):
    exact = extractor("vit", "cls", 2)
    pixels = exact.preprocess(images)
    found = extractor("vit", "cls", 2, bf16=True)(pixels)
    assert found.dtype == torch.float32 and not found.requires_grad
    assert not torch.equal(found, exact(pixels))
    torch.testing.assert_close(found, exact(pixels), atol=0.1, rtol=0.1)


def test_fingerprint_follows_weights_and_preprocessing(tmp_path):
    features = extractor("vit")
    first = features.fingerprint()
    features.encoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert FeatureExtractor(loaded, features.processor).fingerprint() == first
    assert FeatureExtractor(loaded, build_processor(8, crop_ratio=1.0)).fingerprint() != first
    with torch.no_grad():
        loaded.layernorm.bias[3] += 1e-6
    assert FeatureExtractor(loaded, features.processor).fingerprint() != first


def test_small_and_large_images_keep_their_order(tiny_resnet):
    features = FeatureExtractor(AutoModel.from_config(AutoConfig.for_model(**tiny_resnet)), build_processor(16))
    sizes = [(20, 20), (200, 100), (4, 100), (30, 20), (128, 40), (129, 129)]
    images = [Image.effect_noise(size, 80).convert("RGB") for size in sizes]
    reduced = [features.reduced(image) for image in images]
    assert [isinstance(one, torch.Tensor) for one in reduced] == [False, True, True, False, False, True]
    assert torch.equal(features.batch(reduced), features.preprocess(images))
