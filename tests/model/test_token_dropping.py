import pytest
import torch
from transformers import AutoConfig

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, LeJEPAModel
from lejepa_hf.model.token_dropping import _try_another_order, _try_fewer_tokens, check_token_dropping

TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
WIDE = TOKENS | {"intermediate_size": 64}
TIMM = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 2, "dynamic_img_size": True}

# Backbone config, class and register tokens.
ALLOWED = {
    "vit": (WIDE, 1),
    "deit": (WIDE, 2),
    "ijepa": (WIDE, 0),
    "vit_msn": (WIDE, 1),
    "dinov2": (TOKENS, 1),
    "dinov2_with_registers": (TOKENS | {"num_register_tokens": 3}, 4),
    "siglip_vision_model": (WIDE, 0),
    "timm_wrapper": ({"architecture": "vit_tiny_patch16_224", "model_args": TIMM | {"reg_tokens": 2}}, 3),
}
REFUSED = {
    "dinov3_vit": (WIDE, "needs all tokens"),
    # Not as large as in the trial: BEiT caches its position index by size, and a pass over shapes an empty one.
    "beit": (WIDE | {"use_relative_position_bias": True, "image_size": 24}, "uses positions after"),
    "mlcd_vision_model": (WIDE, "needs all tokens"),
    "swin": (
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32, "patch_size": 2, "window_size": 4},
        "not a sequence of tokens",
    ),
    "vit_mae": (WIDE, "not a sequence of tokens"),
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}, "no embeddings"),
    "convnextv2": ({"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, "not a sequence of tokens"),
    "timm_wrapper": ({"architecture": "vit_small_patch16_dinov3"}, "no embeddings"),
}


def encoder_of(family, rate=0.5, **kwargs) -> LeJEPAModel:
    torch.manual_seed(0)
    backbone = AutoConfig.for_model(family, **ALLOWED[family][0])
    return LeJEPAModel(LeJEPAConfig(backbone_config=backbone, token_drop_rate=rate, **kwargs))


def tokens_between(encoder) -> list[torch.Tensor]:
    """The tokens that the blocks receive from now on."""
    seen = []
    blocks = next(m for m in encoder.modules() if isinstance(m, torch.nn.ModuleList | torch.nn.Sequential) and len(m))
    blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    return seen


def images(number=4, size=16):
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", ALLOWED)
@pytest.mark.parametrize("size", [16, 8])
def test_blocks_see_a_subset_of_the_patches_and_all_other_tokens(family, size):
    encoder, num_prefix = encoder_of(family).train(), ALLOWED[family][1]
    num_patches = (size // 4) ** 2
    seen = tokens_between(encoder)
    whole_output, output = encoder(images(size=size)), encoder(images(size=size), drop_tokens=True)
    whole, kept = seen
    assert whole.shape[1] == num_prefix + num_patches and kept.shape[1] == num_prefix + num_patches // 2
    assert output.last_hidden_state.shape[1] == kept.shape[1] < whole_output.last_hidden_state.shape[1]
    assert torch.equal(kept[:, :num_prefix], whole[:, :num_prefix])
    # Each kept token is one of the image's own, positions included, and none comes twice.
    same = (kept[:, num_prefix:, None] == whole[:, None, num_prefix:]).all(-1)
    assert (same.sum(2) == 1).all() and (same.sum(1) <= 1).all()
    assert len({tuple(row.any(0).tolist()) for row in same}) > 1  # images draw for themselves


@pytest.mark.parametrize("family", ALLOWED)
def test_what_comes_out_is_what_attention_to_these_tokens_alone_makes(family, monkeypatch):
    """Keeps all tokens in place and masks the dropped ones in attention instead."""
    encoder = encoder_of(family).train()
    seen = tokens_between(encoder)
    found = encoder(images(1), drop_tokens=True).last_hidden_state[0]
    encoder(images(1))
    kept = (seen[0][0, :, None] == seen[1][0, None]).all(-1)  # (kept, all)
    attention = torch.nn.functional.scaled_dot_product_attention

    def blinkered(query, key, value, attn_mask=None, **kwargs):
        return attention(query, key, value, attn_mask=kept.any(0).expand(query.shape[-2], -1), **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", blinkered)
    expected = encoder(images(1)).last_hidden_state[0][kept.int().argmax(1)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ALLOWED)
def test_without_dropping_nothing_changes(family):
    plain, dropping = encoder_of(family, rate=0.0), encoder_of(family, rate=0.5)
    state = torch.get_rng_state()
    for mode in (False, True):
        expected = plain.train(mode)(images()).pooler_output
        assert torch.equal(dropping.train(mode)(images()).pooler_output, expected)
    assert torch.equal(dropping.eval()(images(), drop_tokens=True).pooler_output, plain.eval()(images()).pooler_output)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", REFUSED)
def test_backbones_that_need_their_tokens_in_place_are_refused(family):
    settings, reason = REFUSED[family]
    config = AutoConfig.for_model(family, **settings)
    with pytest.raises(
        ValueError, match=rf"`token_drop_rate` 0.5 .* {family} backbone \(.*{reason}.*set it to 0"
    ) as error:
        LeJEPAModel(LeJEPAConfig(backbone_config=config, token_drop_rate=0.5))
    assert ("`model_args: {patch_drop_rate" in str(error.value)) == (family == "timm_wrapper")


def test_positions_that_fit_by_accident_do_not_pass():
    """Relative biases and rotary tables are cut to the number of tokens, so shapes show no error."""
    _try_fewer_tokens(AutoConfig.for_model("beit", **REFUSED["beit"][0]))
    for family in ("beit", "dinov3_vit", "mlcd_vision_model"):
        with pytest.raises(ValueError, match="uses positions after"):
            _try_another_order(AutoConfig.for_model(family, **REFUSED[family][0]), "mean")


def test_the_trial_leaves_config_and_random_numbers_alone():
    config = AutoConfig.for_model("vit", **WIDE)
    before, state = config.to_dict(), torch.get_rng_state()
    with torch.device("meta"):
        assert check_token_dropping(config, 0.5, "cls") == 1
    assert config.to_dict() == before and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_is_over_what_is_left(pooling):
    output = encoder_of("vit", pooling=pooling).train()(images(), drop_tokens=True)
    states = output.last_hidden_state
    assert torch.equal(output.pooler_output, states[:, 0] if pooling == "cls" else states.mean(1))


def test_one_patch_is_always_kept():
    encoder = encoder_of("ijepa", rate=0.99).train()
    assert encoder(images(size=8), drop_tokens=True).last_hidden_state.shape[1] == 1


@pytest.mark.parametrize(("views", "expected"), [("all", [9, 3]), ("global", [9, 5]), ("local", [17, 3])])
def test_views_by_choice(tiny_vit, views, expected):
    config = LeJEPAConfig(
        backbone_config=tiny_vit, projector_dims=[8], token_drop_rate=0.5, token_drop_views=views, num_slices=4
    )
    model = LeJEPAForPreTraining(config).train()
    seen = tokens_between(model.encoder)
    global_views, local_views = torch.randn(4, 2, 3, 16, 16), torch.randn(4, 3, 3, 8, 8)
    model(global_views, local_views, step=0).loss.backward()
    assert [(len(tokens), tokens.shape[1]) for tokens in seen] == [(8, expected[0]), (12, expected[1])]
    model.eval()(global_views, local_views, step=0)
    assert [tokens.shape[1] for tokens in seen[2:]] == [17, 5]


def test_gradient_checkpointing_sees_the_same_tokens(tiny_vit):
    config = LeJEPAConfig(backbone_config=tiny_vit, projector_dims=[8], projector_norm="none", token_drop_rate=0.5)
    model = LeJEPAForPreTraining(config).train()
    gradients = []
    for checkpointing in (False, True):
        model.gradient_checkpointing_enable() if checkpointing else None
        model.zero_grad()
        torch.manual_seed(3)
        generator = torch.Generator().manual_seed(0)
        views = [torch.randn(4, 2, 3, size, size, generator=generator) for size in (16, 8)]
        model(*views, step=0).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_a_saved_model_drops_again_and_an_export_never(tmp_path, tiny_vit):
    from transformers import AutoModel

    from lejepa_hf import export_encoder

    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_vit, projector_dims=[8], token_drop_rate=0.5))
    model.save_pretrained(tmp_path / "pretraining")
    loaded = LeJEPAForPreTraining.from_pretrained(tmp_path / "pretraining").train()
    assert loaded.encoder(images(), drop_tokens=True).last_hidden_state.shape[1] == 9
    exported = AutoModel.from_pretrained(export_encoder(tmp_path)).train()
    assert exported(images()).last_hidden_state.shape[1] == 17
