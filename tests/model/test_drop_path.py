import pytest
import torch
from transformers import AutoConfig

from lejepa_hf import LeJEPAConfig, LeJEPAModel
from lejepa_hf.hub.export import export_encoder
from lejepa_hf.model.architecture import find_blocks
from lejepa_hf.model.drop_path import DropPath

TOKENS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
TIMM = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 3, "num_heads": 2}
BACKBONES = {
    "vit": TOKENS | {"intermediate_size": 64},
    "dinov2": TOKENS,
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 3], "layer_type": "basic"},
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [2, 3], "num_stages": 2},
    "timm_wrapper": {"architecture": "vit_tiny_patch16_224", "model_args": TIMM},
}


def encoder_of(family: str, rate: float, **changes) -> LeJEPAModel:
    torch.manual_seed(0)
    backbone = AutoConfig.for_model(family, **BACKBONES[family] | changes)
    return LeJEPAModel(LeJEPAConfig(backbone_config=backbone, drop_path_rate=rate))


def recorded(encoder, pixels) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Input and output of every block in a pass."""
    seen = []
    handles = [
        block.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
        for block in find_blocks(encoder.backbone)
    ]
    encoder(pixels)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", BACKBONES)
def test_later_blocks_are_left_out_more_often_in_training_only(family):
    encoder, pixels = encoder_of(family, 0.8).eval(), torch.randn(150, 3, 16, 16)
    torch.testing.assert_close(encoder(pixels).pooler_output, encoder_of(family, 0.0).eval()(pixels).pooler_output)
    seen = recorded(encoder.train(), pixels)
    for place, (before, after) in enumerate(seen):
        if before.shape == after.shape:
            left_out = (before == after).flatten(1).all(1).double().mean().item()
            assert left_out == pytest.approx(0.8 * place / (len(seen) - 1), abs=0.12), place


@pytest.mark.parametrize("as_tuple", [False, True])
def test_the_mean_is_that_of_the_whole_block(as_tuple):
    before, after = torch.zeros(20_000, 2), torch.tensor([[1.0, -2.0]]).expand(20_000, 2)
    block = torch.nn.Identity().train()
    output = DropPath(0.3)(block, (), {"hidden_states": before}, (after, "maps") if as_tuple else after)
    states = output[0] if as_tuple else output
    assert not as_tuple or output[1] == "maps"
    torch.testing.assert_close(states.mean(0), torch.tensor([1.0, -2.0]), rtol=0.03, atol=0)
    kept = states[states[:, 0] != 0]
    torch.testing.assert_close(kept, (after / 0.7)[: len(kept)])


def test_it_leaves_no_trace_in_what_is_exported(tmp_path):
    encoder = encoder_of("vit", 0.5)
    export_encoder(encoder, tmp_path)
    assert "drop_path_rate" not in (tmp_path / "config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("dinov2", {"drop_path_rate": 0.2}, "`drop_path_rate` 0.2 in `backbone_config` would both leave out blocks"),
        ("vit", {"num_hidden_layers": 1}, "cannot be used with a vit backbone: none of its blocks"),
        ("resnet", {"depths": [1, 1]}, "cannot be used with a resnet backbone"),
        ("timm_wrapper", {"model_args": TIMM | {"drop_path_rate": 0.3}}, "`drop_path_rate` 0.3 in `backbone_config`"),
    ],
)
def test_what_is_refused(family, changes, said):
    with pytest.raises(ValueError, match="`drop_path_rate` 0.1") as error:
        encoder_of(family, 0.1, **changes)
    assert said in str(error.value) and "\n" not in str(error.value)
