import pytest
import torch
from families import TOKENS, config_of
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, LeJEPAModel, export_encoder
from lejepa_hf.hub.export import build_processor
from lejepa_hf.model.backbone import as_native_class, build_backbone, load_pretrained_backbone

VISION = TOKENS | {"intermediate_size": 64}
TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT |= {"vocab_size": 20, "max_position_embeddings": 8}


def test_timm_keeps_its_own_initialisation():
    torch.manual_seed(0)
    weights = build_backbone(config_of("timm_wrapper")).state_dict()
    # timm: kaiming for filters, zero for the last norm of a block; the wrapper alone: normal(0, 0.02) and one
    assert weights["timm_model.layer1.0.conv1.weight"].std() > 0.05
    assert weights["timm_model.layer1.0.bn2.weight"].abs().max() == 0


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224"])
def test_transformers_of_timm_take_other_sizes_and_say_so_in_their_config(architecture):
    backbone = {"model_type": "timm_wrapper", "architecture": architecture, "model_args": {"depth": 1}}
    model = LeJEPAModel(LeJEPAConfig(backbone_config=backbone))
    assert model.config.backbone_config.model_args == {"depth": 1, "dynamic_img_size": True}
    assert model(torch.randn(1, 3, 112, 112)).pooler_output.shape == (1, 192)


def test_a_choice_of_size_is_left_alone():
    args = {"depth": 1, "img_size": 32, "dynamic_img_size": False}
    backbone = {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224", "model_args": args}
    assert LeJEPAModel(LeJEPAConfig(backbone_config=backbone)).config.backbone_config.model_args == args


def test_warm_start_reads_a_folder(tmp_path):
    AutoModel.from_config(config_of("vit")).save_pretrained(tmp_path)
    backbone = load_pretrained_backbone(tmp_path)
    original = AutoModel.from_pretrained(tmp_path).state_dict()
    assert not any(name.startswith("pooler") for name in backbone.state_dict())
    assert all(torch.equal(value, original[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(("trained", "goes_on"), [("mean", "mean"), ("cls", "cls")])
def test_warm_start_from_an_exported_encoder_pools_as_it_did(tmp_path, trained, goes_on):
    config = LeJEPAConfig(backbone_config=config_of("vit"), pooling=trained, projector_dims=[8])
    export_encoder(LeJEPAForPreTraining(config), tmp_path, build_processor(16))
    assert LeJEPAForPreTraining.from_pretrained_backbone(tmp_path, projector_dims=[8]).encoder.pooling == goes_on


def test_warm_start_from_a_classifier(tmp_path):
    classifier = ViTForImageClassification(config_of("vit"))
    classifier.save_pretrained(tmp_path)
    backbone = load_pretrained_backbone(tmp_path).state_dict()
    original = classifier.vit.state_dict()
    assert backbone.keys() == original.keys() and all(torch.equal(backbone[name], original[name]) for name in original)


@pytest.mark.parametrize(("dual", "of"), [(CLIPModel, CLIPConfig), (SiglipModel, SiglipConfig)])
def test_warm_start_takes_the_vision_part_of_a_dual_model(tmp_path, dual, of):
    model = dual(of(text_config=TEXT, vision_config=VISION, projection_dim=16))
    model.save_pretrained(tmp_path)
    warm = LeJEPAForPreTraining.from_pretrained_backbone(tmp_path, projector_dims=[8]).eval()
    pixels = torch.randn(2, 3, 16, 16)
    expected = model.eval().vision_model(pixel_values=pixels).pooler_output
    torch.testing.assert_close(warm.encoder(pixels).pooler_output, expected)
    assert not [name for name in warm.state_dict() if "text" in name]


def test_warm_start_from_a_masking_encoder_sees_the_whole_image(tmp_path):
    masking = ViTMAEForPreTraining(ViTMAEConfig(**VISION, decoder_num_hidden_layers=1, mask_ratio=0.75))
    masking.save_pretrained(tmp_path)
    warm = LeJEPAForPreTraining.from_pretrained_backbone(tmp_path, projector_dims=[8]).eval()
    pixels = torch.randn(2, 3, 16, 16)
    outputs = warm.encoder(pixels)
    assert outputs.last_hidden_state.shape[1] == 17
    torch.testing.assert_close(outputs.pooler_output, warm.encoder(pixels).pooler_output)
    name = "encoder.layer.0.attention.attention.query.weight"
    names = [name for name in masking.vit.state_dict() if "query" in name or "q_proj" in name]
    assert names, name
    assert torch.equal(warm.encoder.backbone.state_dict()[names[0]], masking.vit.state_dict()[names[0]])


def test_a_checkpoint_of_something_else_is_no_warm_start(tmp_path):
    AutoModel.from_config(config_of("resnet")).save_pretrained(tmp_path)
    config_of("vit").save_pretrained(tmp_path)  # the weights of one network under the config of another
    with pytest.raises(ValueError, match=r"`pretrained_backbone` .* leaves \d+ weights of a vit unfilled"):
        load_pretrained_backbone(tmp_path)


def test_greyscale_and_many_channels():
    for channels, family in ((1, "resnet"), (5, "vit"), (2, "convnextv2"), (4, "swin")):
        config = config_of(family)
        config.num_channels = channels
        model = LeJEPAModel(LeJEPAConfig(backbone_config=config))
        assert model(torch.randn(2, channels, 32, 32)).pooler_output.shape[0] == 2
    config = AutoConfig.for_model("timm_wrapper", architecture="resnet10t", model_args={"in_chans": 7})
    assert LeJEPAModel(LeJEPAConfig(backbone_config=config))(torch.randn(2, 7, 32, 32)).pooler_output.shape == (2, 512)


def test_a_vit_gets_an_identity_pooler_and_the_original_does_not_change():
    backbone = build_backbone(config_of("vit")).eval()
    before = backbone.config.to_dict()
    native = as_native_class(backbone, "cls")
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(native(pixels).pooler_output, backbone(pixels).last_hidden_state[:, 0])
    assert backbone.config.to_dict() == before and not hasattr(backbone.config, "embedding_pooling")


@pytest.mark.parametrize(("family", "pooling"), [("resnet", "pooler"), ("vit", "mean")])
def test_the_config_records_how_the_embedding_is_made(family, pooling):
    backbone = build_backbone(config_of(family)).eval()
    native = as_native_class(backbone, pooling)
    assert native.config.embedding_pooling == pooling and type(native) is type(backbone) and not native.training
    assert all(torch.equal(native.state_dict()[name], value) for name, value in backbone.state_dict().items())
