import pytest
import torch

from lejepa_hf.evaluation.protocols.fine_tuning_recipe import (
    LONG,
    QUICK,
    FineTuningRecipe,
    drop_paths,
    groups_by_layer,
    mixed,
)


def test_learning_rates_fall_from_block_to_block(vit):
    head = torch.nn.Linear(12, 3)
    groups = groups_by_layer(vit, head, 1.0, 0.5, weight_decay=0.05)
    rate_of = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    decay_of = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert rate_of.keys() == {*vit.parameters(), *head.parameters()}
    assert {rate_of[parameter] for parameter in vit.embeddings.parameters()} == {0.5**6}
    blocks = vit.layers if hasattr(vit, "layers") else vit.encoder.layer
    for place, block in enumerate(blocks):
        assert {rate_of[parameter] for parameter in block.parameters()} == {0.5 ** (5 - place)}
    assert {rate_of[parameter] for parameter in [*vit.layernorm.parameters(), *head.parameters()]} == {1.0}
    assert decay_of[head.weight] == 0.05 and decay_of[head.bias] == decay_of[vit.layernorm.weight] == 0
    head.bias.requires_grad_(False)
    assert head.bias not in {one for group in groups_by_layer(vit, head, 1.0, 0.5, 0.05) for one in group["params"]}


def recipe(**settings) -> FineTuningRecipe:
    return FineTuningRecipe(num_epochs=1, least_steps=1, **settings)


def test_labels_are_mixed_as_the_pixels_are():
    torch.manual_seed(0)
    labels = torch.arange(4)
    pixels = labels.view(4, 1, 1, 1).float().expand(4, 3, 20, 20)
    for settings in ({"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}):
        for _ in range(20):
            images, probabilities = mixed(pixels, labels, 4, recipe(**settings))
            torch.testing.assert_close(probabilities.sum(1), torch.ones(4))
            # The mean pixel is the mean label, for each image.
            torch.testing.assert_close(images.mean((1, 2, 3)), probabilities @ torch.arange(4.0))
    assert (pixels == labels.view(4, 1, 1, 1)).all()


def test_smoothing_and_nothing_at_all():
    pixels, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
    same, smooth = mixed(pixels, labels, 4, recipe(label_smoothing=0.2))
    assert same is pixels
    torch.testing.assert_close(smooth, torch.tensor([[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.85, 0.05]]))
    assert mixed(pixels, labels, 4, QUICK) == (pixels, labels)


def test_drop_path_in_training_mode_alone(vit, caplog):
    torch.manual_seed(0)
    pixels, before = torch.randn(2, 3, 16, 16), torch.get_rng_state()
    expected = vit(pixels).last_hidden_state
    drop_paths(vit, 0.5, pixels)
    torch.testing.assert_close(vit(pixels).last_hidden_state, expected)
    assert torch.equal(torch.get_rng_state(), before)
    vit.train()
    assert not torch.allclose(vit(pixels).last_hidden_state, vit(pixels).last_hidden_state)


def test_the_long_recipe_is_maes():
    assert (LONG.num_epochs, LONG.layer_decay, LONG.mixup, LONG.cutmix) == (100, 0.65, 0.8, 1.0)
    assert (LONG.drop_path_rate, LONG.label_smoothing) == (0.1, pytest.approx(0.1))
