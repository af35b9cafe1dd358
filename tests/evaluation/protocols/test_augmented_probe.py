from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.feature_extractor import FeatureExtractor
from lejepa_hf.evaluation.protocols import augmented_probe
from lejepa_hf.evaluation.protocols.attentive_probe import Attentive
from lejepa_hf.evaluation.protocols.linear_dinov2 import LEARNING_RATES, LinearDinov2
from lejepa_hf.hub.export import build_processor

COLOURS = [(220, 40, 40), (40, 220, 40), (40, 40, 220)]


def colours(number: int, seed: int, size: tuple[int, int] = (24, 16)):
    """Images of one of three colours on noise; any crop of them has it."""
    rng, features = (
        np.random.default_rng(seed),
        datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["red", "green", "blue"])}),
    )
    labels = rng.integers(0, 3, number).tolist()
    noise = rng.integers(-40, 40, (number, size[1], size[0], 3))
    images = [
        Image.fromarray((np.array(COLOURS[label]) + one).clip(0, 255).astype(np.uint8))
        for label, one in zip(labels, noise, strict=True)
    ]
    return load_source(datasets.Dataset.from_dict({"image": images, "label": labels}, features=features))


@pytest.fixture
def vit():
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "vit", image_size=16, patch_size=8, hidden_size=12, num_hidden_layers=5, num_attention_heads=2,
        intermediate_size=24,
    )  # fmt: skip
    return AutoModel.from_config(config, add_pooling_layer=False).eval()


@pytest.fixture
def resnet(tiny_resnet):
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(**tiny_resnet)).eval()


@pytest.fixture
def processor():
    return build_processor(16, crop_ratio=1.0)


@pytest.mark.parametrize("protocol", [LinearDinov2, Attentive])
def test_learns_colours_and_leaves_the_encoder_alone(vit, processor, protocol):
    before, state = {name: one.clone() for name, one in vit.state_dict().items()}, torch.get_rng_state()
    results = protocol(num_epochs=20).run(vit, processor, colours(90, 0), colours(40, 1))
    name = f"eval_{protocol.name.replace('-', '_')}"
    assert list(results) == [f"{name}_top1", f"{name}_top1_ci95"] and results[f"{name}_top1"] > 0.9
    assert all(torch.equal(one, before[name]) for name, one in vit.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and all(one.grad is None for one in vit.parameters())
    assert results == protocol(num_epochs=20).run(vit, processor, colours(90, 0), colours(40, 1))


def test_dinov2s_features_and_rates(vit, resnet, processor):
    extractor, pixels = FeatureExtractor(vit, processor), torch.randn(2, 3, 16, 16)
    outputs = vit(pixels, output_hidden_states=True)
    tokens = [vit.layernorm(state)[:, 0] for state in outputs.hidden_states[-4:]]
    expected = torch.cat([*tokens, outputs.last_hidden_state[:, 1:].mean(1)], dim=1)
    torch.testing.assert_close(LinearDinov2().features(extractor, pixels), expected)
    candidates = LinearDinov2().candidates(extractor, pixels, num_classes=3, batch_size=128)
    assert len(candidates) == 4 * 13 and candidates[0].learning_rate == LEARNING_RATES[0] / 2
    heads = [candidate.make() for candidate in candidates[::13]]
    assert [(head.first, head.last) for head in heads] == [(36, 48), (36, 60), (0, 48), (0, 60)]
    assert candidates[-1].name == "4 blocks, with patches, learning rate 0.1"
    alone = LinearDinov2().candidates(FeatureExtractor(resnet, processor), pixels, 3, 256)
    assert len(alone) == 13 and alone[0].name.startswith("mean of the patches")


def test_attention_pools_what_pytorchs_own_layer_does(vit, processor):
    torch.manual_seed(0)
    (candidate, *_) = Attentive().candidates(FeatureExtractor(vit, processor), torch.randn(1, 3, 16, 16), 3, 256)
    head, tokens = candidate.make(), torch.randn(4, 7, 12)
    reference = torch.nn.MultiheadAttention(12, head.num_heads, batch_first=True)
    keys, values = zip(*(part.chunk(2) for part in (head.of_tokens.weight, head.of_tokens.bias)), strict=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([head.of_query.weight, keys[0], values[0]]))
        reference.in_proj_bias.copy_(torch.cat([head.of_query.bias, keys[1], values[1]]))
        reference.out_proj.weight.copy_(head.out.weight)
        reference.out_proj.bias.copy_(head.out.bias)
        query, normed = head.query.expand(4, -1, -1), head.norm_of_tokens(tokens)
        pooled = query + reference(query, normed, normed)[0]
        pooled = pooled + head.mlp(head.norm_of_mlp(pooled))
        torch.testing.assert_close(head(tokens), head.classes(head.norm(pooled[:, 0])))


def test_each_epoch_has_all_images_in_other_crops(resnet, processor):
    source = colours(10, 0)
    dataset = source.dataset.map(lambda row, place: {"label": place % 3}, with_indices=True)
    batches = list(
        augmented_probe._random_crops(
            FeatureExtractor(resnet, processor), replace(source, dataset=dataset), 3, 10, "x"
        )
    )
    assert len(batches) == 3 and all(
        sorted(labels.tolist()) == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2] for _, labels in batches
    )
    means = torch.stack([pixels.mean((1, 2, 3)).sort().values for pixels, _ in batches])
    assert pixels_shape(batches) == {(10, 3, 16, 16)}
    assert not torch.allclose(means[0], means[1], atol=1e-3)


def pixels_shape(batches) -> set:
    return {tuple(pixels.shape) for pixels, _ in batches}


def test_broken_images_are_left_out_and_counted(resnet, processor, caplog):
    train, test = colours(30, 0), colours(20, 1)
    rows = list(test.dataset.cast_column("image", datasets.Image(decode=False)))
    rows[3]["image"] = {"bytes": b"nothing", "path": None}
    test = load_source(datasets.Dataset.from_list(rows, features=test.dataset.features))
    LinearDinov2(num_epochs=1).run(resnet, processor, train, test)
    assert test.num_read == 19


def test_refuses_before_any_work(resnet):
    with pytest.raises(ValueError, match="`num_epochs` must be more than 0, got 0"):
        LinearDinov2(num_epochs=0)
