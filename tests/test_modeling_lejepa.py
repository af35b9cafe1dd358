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


def test_gradient_checkpointing_changes_memory_not_numbers(tiny_vit):
    model = LeJEPAForPreTraining(LeJEPAConfig(backbone_config=tiny_vit, projector_dims=[8], projector_norm="none"))
    model(*views(), step=0).loss.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        loss = model(*views(), step=0).loss
    loss.backward()
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], expected)
    model.gradient_checkpointing_disable()
    plain = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: plain.append(t.numel()) or t, lambda t: t):
        model(*views(), step=0)
    assert sum(kept) < 0.7 * sum(plain)


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
