import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, LeJEPAModel


@pytest.fixture(params=["vit", "resnet"])
def config(request, tiny_vit, tiny_resnet):
    backbone = {"vit": tiny_vit, "resnet": tiny_resnet}[request.param]
    return LeJEPAConfig(backbone_config=backbone, projector_dims=[24, 24, 8], num_slices=16)


def views(batch_size=6):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch_size, 2, 3, 16, 16, generator=generator),
        torch.randn(batch_size, 3, 3, 8, 8, generator=generator),
    )


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_models_are_built_where_gradients_are_off(config, context):
    with context():
        model = LeJEPAForPreTraining(config)
    frozen = [
        [name for name, p in one.named_parameters() if not p.requires_grad]
        for one in (model, LeJEPAForPreTraining(config))
    ]
    assert frozen[0] == frozen[1]


def test_output(config):
    model = LeJEPAForPreTraining(config)
    output = model(*views(), step=0)
    width = model.encoder.embedding_dim
    assert output.embeddings.shape == (5, 6, width) and output.projections.shape == (5, 6, 8)
    assert output.loss.dtype is torch.float32
    expected = 0.95 * output.prediction_loss + 0.05 * output.sigreg_loss
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(("weight", "part"), [(0.0, "prediction_loss"), (1.0, "sigreg_loss")])
def test_extreme_weights_are_one_part_alone(tiny_vit, weight, part):
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_vit, projector_dims=[8], sigreg_weight=weight))
    output = model(*views(), step=0)
    assert output.loss.item() == getattr(output, part).item()


def test_embeddings_are_the_encoders(config):
    model = LeJEPAForPreTraining(config).eval()
    global_views, local_views = views()
    output = model(global_views, local_views, step=0)
    torch.testing.assert_close(output.embeddings[1], model.encoder(global_views[:, 1]).pooler_output)
    torch.testing.assert_close(output.embeddings[4], model.encoder(local_views[:, 2]).pooler_output)


def test_centre_is_of_all_views_without_local_ones(tiny_vit):
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_vit, projector_dims=[8])).eval()
    output = model(views()[0], step=0)
    expected = (output.projections - output.projections.mean(0)).square().mean()
    assert output.prediction_loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_every_parameter_gets_a_gradient(config):
    model = LeJEPAForPreTraining(config)
    model(*views(), step=0).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


CHECKPOINTED = {
    "vit": {"model_type": "vit", "hidden_size": 32, "intermediate_size": 64},
    "dinov3": {"model_type": "dinov3_vit", "hidden_size": 32, "intermediate_size": 64},
    "timm": {
        "model_type": "timm_wrapper",
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"depth": 2, "embed_dim": 48, "img_size": 16, "patch_size": 4},
    },
}


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_gradient_checkpointing_changes_memory_not_numbers(name):
    backbone = CHECKPOINTED[name]
    if name != "timm":
        backbone = backbone | {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=backbone, projector_dims=[8], projector_norm="none"))
    assert model.supports_gradient_checkpointing and model.encoder.supports_gradient_checkpointing
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    torch.manual_seed(0)  # dinov3 stretches its positions at random
    model(*views(), step=0).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in trained.items()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    torch.manual_seed(0)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = model(*views(), step=0).loss
    loss.backward()
    torch.testing.assert_close({name: parameter.grad for name, parameter in trained.items()}, expected)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    plain = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: plain.append(t.numel()) or t, lambda t: t):
        model(*views(), step=0)
    assert sum(kept) < 0.7 * sum(plain)


def test_no_gradient_checkpointing_where_the_backbone_has_none(tiny_resnet):
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_resnet))
    assert not model.supports_gradient_checkpointing
    with pytest.raises(ValueError, match="does not support"):
        model.gradient_checkpointing_enable()


def test_tuples_instead_of_named_outputs(config):
    model = LeJEPAForPreTraining(config).eval()
    named = model(*views(), step=0)
    assert_same = torch.testing.assert_close
    assert_same(model(*views(), step=0, return_dict=False), named.to_tuple())
    pixels = views()[0][:, 0]
    assert_same(model.encoder(pixels, return_dict=False)[1], model.encoder(pixels).pooler_output)
    model.config.return_dict = model.config.backbone_config.return_dict = False
    assert_same(model(*views(), step=0), named.to_tuple())


def test_a_backbone_that_returns_tuples_by_default(tiny_vit):
    model = LeJEPAModel(LeJEPAConfig(backbone_config={**tiny_vit, "return_dict": False}))
    assert model(torch.zeros(2, 3, 16, 16)).pooler_output.shape == (2, 32)


def test_states_of_all_layers_and_attention_maps(tiny_vit):
    config = LeJEPAConfig(backbone_config={**tiny_vit, "attn_implementation": "eager"}, projector_dims=[8])
    model = LeJEPAForPreTraining(config).eval()
    outputs = model(*views(), step=0, output_attentions=True, output_hidden_states=True)
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(2 * 6, 17, 32)] * 3
    assert [tuple(states.shape) for states in outputs.local_hidden_states] == [(3 * 6, 5, 32)] * 3
    assert [tuple(maps.shape) for maps in outputs.attentions] == [(2 * 6, 2, 17, 17)] * 2
    assert [tuple(maps.shape) for maps in outputs.local_attentions] == [(3 * 6, 2, 5, 5)] * 2
    of_one_view = model.encoder(views()[0][:, 1], output_hidden_states=True)
    torch.testing.assert_close(outputs.hidden_states[1][6:], of_one_view.hidden_states[1])  # rows as in `embeddings`
    assert model(*views(), step=0).hidden_states is None and of_one_view.attentions is None
    config.output_hidden_states = config.output_attentions = True
    by_config = model(views()[0], step=0)
    assert len(by_config.hidden_states) == 3 and len(by_config.attentions) == 2
    assert by_config.local_hidden_states is by_config.local_attentions is None
    assert model(views()[0], step=0, output_hidden_states=False).hidden_states is None


def test_torch_save_of_the_model(config, tmp_path):
    model = LeJEPAForPreTraining(config).eval()
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert loaded(*views(), step=0).loss.item() == model(*views(), step=0).loss.item()


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_every_attention_can_be_built(tiny_vit, attention):
    # Neither the traces on the meta device nor those on the CPU may run it.
    config = LeJEPAConfig(backbone_config=tiny_vit, attn_implementation=attention, token_drop_rate=0.5)
    model = LeJEPAModel(config)
    assert model.backbone.config._attn_implementation == attention
    model.set_attn_implementation("eager")
    assert model.backbone.config._attn_implementation == "eager"


def test_save_and_load(config, tmp_path):
    model = LeJEPAForPreTraining(config)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = LeJEPAForPreTraining.from_pretrained(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    # SIGReg's tables and directions are computed, not stored: the whole loss must survive the meta device
    expected = model.eval()(*views(), step=3).loss
    assert loaded(*views(), step=3).loss.item() == expected.item()
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is LeJEPAForPreTraining


def test_auto_model_gives_the_encoder(config, tmp_path):
    model = LeJEPAForPreTraining(config).eval()
    model.save_pretrained(tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is LeJEPAModel
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(encoder(pixels).pooler_output, model.encoder(pixels).pooler_output)


def test_file_keeps_module_names(config, tmp_path):
    # Trainer resumes by load_state_dict; transformers would write older published names and lose them silently.
    from safetensors.torch import load_file

    model = LeJEPAForPreTraining(config)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


def test_warm_start(tmp_path, tiny_vit):
    first = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_vit, projector_dims=[8]))
    for folder, saved in (("backbone", first.encoder.backbone), ("pretraining", first)):
        saved.save_pretrained(tmp_path / folder)
        warm = LeJEPAForPreTraining.from_pretrained_backbone(tmp_path / folder, projector_dims=[12, 4])
        expected = first.encoder.backbone.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in warm.encoder.backbone.state_dict().items())
        assert warm.projector.out.out_features == 4


def test_projections_start_at_unit_scale(tiny_vit):
    torch.manual_seed(0)
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_vit))
    scale = model(*views(64), step=0).projections.std().item()
    assert 0.3 < scale < 2  # near zero SIGReg's gradient would vanish


def test_no_split_modules_come_from_the_backbone(tiny_vit):
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_vit, projector_dims=[8]))
    assert "ViTLayer" in model._no_split_modules
    assert model.get_input_embeddings() is None


def test_directions_follow_the_step(config):
    model = LeJEPAForPreTraining(config).eval()
    losses = [model(*views(), step=step).sigreg_loss.item() for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_steps_are_counted_when_not_given(tiny_vit):
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_vit, projector_dims=[8], num_slices=4)).train()
    counted = [model(*views()).sigreg_loss.item() for _ in range(3)]
    assert counted == [model(*views(), step=step).sigreg_loss.item() for step in range(3)]


def test_loss_is_fp32_under_bf16_autocast(config):
    model = LeJEPAForPreTraining(config).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(*views(32), step=0)
    assert output.loss.dtype is output.sigreg_loss.dtype is output.prediction_loss.dtype is torch.float32
    again = model.sigreg(output.projections.float(), 0)
    assert output.sigreg_loss.item() == pytest.approx(again.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("global_views", "local_views", "message"),
    [
        (torch.zeros(4, 3, 16, 16), None, r"\(4, 3, 16, 16\)"),
        (torch.zeros(4, 0, 3, 16, 16), None, "at least one global view"),
        (torch.zeros(4, 2, 3, 16, 16), torch.zeros(3, 2, 3, 8, 8), "same"),
        (torch.zeros(4, 2, 3, 16, 16, dtype=torch.uint8), None, "apply_photometric"),
        (torch.zeros(1, 2, 3, 16, 16), None, "at least 2 images"),
    ],
)
def test_bad_views(tiny_vit, global_views, local_views, message):
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_vit, projector_dims=[8], projector_norm="none"))
    with pytest.raises(ValueError, match=message):
        model(global_views, local_views, step=0)


def test_the_backbones_attention_is_the_one_asked_for(tiny_vit, tmp_path):
    def attention(model):
        return model.encoder.backbone.config._attn_implementation

    assert attention(LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_vit))) == "sdpa"
    asked = LeJEPAForPreTraining(LeJEPAConfig(backbone_config={**tiny_vit, "attn_implementation": "eager"}))
    assert attention(asked) == "eager"
    asked.save_pretrained(tmp_path)
    assert attention(LeJEPAForPreTraining.from_pretrained(tmp_path)) == "sdpa"
    assert attention(LeJEPAForPreTraining.from_pretrained(tmp_path, attn_implementation="eager")) == "eager"
