from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from lejepa_hf.data.sources import load_source
from lejepa_hf.evaluation.feature_extractor import FeatureExtractor
from lejepa_hf.evaluation.protocols import augmented_probe
from lejepa_hf.evaluation.protocols.attentive_probe import Attentive
from lejepa_hf.evaluation.protocols.linear_dinov2 import LinearDinov2

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


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [LinearDinov2, Attentive])
def test_learns_colours_and_leaves_the_encoder_alone(vit, processor, protocol):
    before, state = {name: one.clone() for name, one in vit.state_dict().items()}, torch.get_rng_state()
    results = protocol(num_epochs=20).run(vit, processor, colours(90, 0), colours(40, 1))
    name = f"eval_{protocol.name.replace('-', '_')}"
    assert list(results) == [f"{name}_top1", f"{name}_top1_ci95"] and results[f"{name}_top1"] > 0.9
    assert all(torch.equal(one, before[name]) for name, one in vit.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and all(one.grad is None for one in vit.parameters())
    assert results == protocol(num_epochs=20).run(vit, processor, colours(90, 0), colours(40, 1))


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


def test_learning_rates_have_fallen_to_0_at_the_end(resnet, processor):
    optimizers = []

    class Watched(LinearDinov2):
        def optimizer(self, groups):
            optimizers.append(super().optimizer(groups))
            return optimizers[-1]

    Watched(num_epochs=10).run(resnet, processor, colours(40, 0), colours(10, 1))  # 36 in batches of 40, then all
    assert len(optimizers) == 2
    assert all(group["lr"] == 0 for optimizer in optimizers for group in optimizer.param_groups)


def pixels_shape(batches) -> set:
    return {tuple(pixels.shape) for pixels, _ in batches}


def test_broken_images_are_left_out_and_counted(resnet, processor, caplog):
    train, test = colours(30, 0), colours(20, 1)
    rows = list(test.dataset.cast_column("image", datasets.Image(decode=False)))
    rows[3]["image"] = {"bytes": b"nothing", "path": None}
    test = load_source(datasets.Dataset.from_list(rows, features=test.dataset.features))
    LinearDinov2(num_epochs=1).run(resnet, processor, train, test)
    assert test.num_read == 19


@pytest.mark.parametrize("protocol", [LinearDinov2, Attentive])
def test_features_that_are_not_finite_end_it_at_once(vit, processor, protocol):
    with torch.no_grad():
        vit.layernorm.weight.fill_(3e38)
    with pytest.raises(ValueError, match=f"`protocols` {protocol.name}: 30 of 30 images of a batch of .* have NaN or"):
        protocol().run(vit, processor, colours(30, 0), colours(20, 1))


def test_refuses_before_any_work(resnet):
    with pytest.raises(ValueError, match="`num_epochs` must be more than 0, got 0"):
        LinearDinov2(num_epochs=0)
