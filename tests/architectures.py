"""Small configs of many architectures, for tests/test_backbone_matrix.py and the table it writes."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Architecture:
    """
    Args:
        name (`str`): Name in the table.
        family (`str`): One of the eight of the paper, or another.
        config (`dict`): `backbone_config`.
        sizes (`tuple[int, int]`): Requested global and local crop size in pixels.
        in_sample (`bool`): Whether the default test run has it.
        refused (`str`, *optional*): If it cannot be trained, a pattern of the error message.
    """

    name: str
    family: str
    config: dict = field(hash=False)
    sizes: tuple[int, int] = (64, 32)
    in_sample: bool = False
    refused: str | None = None


_TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
_VIT = _TOKENS | {"intermediate_size": 64}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
_WINDOWS = {
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 2],
    "window_size": 4,
    "patch_size": 4,
    "image_size": 64,
}


def _transformers(
    model_type: str, family: str, sizes: tuple[int, int] = (64, 32), name=None, in_sample=False, **config
):
    return Architecture(name or model_type, family, {"model_type": model_type, **config}, sizes, in_sample)


def _timm(architecture: str, family: str, sizes: tuple[int, int] = (64, 32), in_sample=False, **model_args):
    config = {"model_type": "timm_wrapper", "architecture": architecture}
    config |= {"model_args": model_args} if model_args else {}
    return Architecture(f"timm {architecture}", family, config, sizes, in_sample)


ARCHITECTURES = [
    # transformers, the families of the paper
    _transformers("resnet", "ResNet", embedding_size=8, **_STAGES, layer_type="basic", in_sample=True),
    _transformers("resnet", "ResNet", embedding_size=8, **_STAGES, layer_type="bottleneck", name="resnet, bottleneck"),
    _transformers("vit", "ViT", **_VIT, in_sample=True),
    _transformers("vit", "ViT", **_VIT | {"patch_size": 4, "image_size": 32}, sizes=(32, 16), name="vit, patch 4"),
    _transformers("vit", "ViT", **_VIT | {"patch_size": 14, "image_size": 56}, sizes=(56, 30), name="vit, patch 14"),
    _transformers("vit", "ViT", **_VIT | {"patch_size": 32, "image_size": 96}, sizes=(96, 64), name="vit, patch 32"),
    _transformers("deit", "ViT", **_VIT),
    _transformers("dinov2", "ViT", **_TOKENS),
    _transformers("dinov2_with_registers", "ViT", **_TOKENS, num_register_tokens=4),
    _transformers("dinov3_vit", "ViT", **_VIT, num_register_tokens=4),
    _transformers("ijepa", "ViT", **_VIT),
    _transformers("vit_msn", "ViT", **_VIT),
    _transformers("swin", "Swin", **_WINDOWS, in_sample=True),
    _transformers("swinv2", "Swin", **_WINDOWS),
    _transformers("donut-swin", "Swin", **_WINDOWS),
    _transformers("maskformer-swin", "Swin", **_WINDOWS),
    _transformers("convnext", "ConvNeXt", **_STAGES),
    _transformers("convnextv2", "ConvNeXt", **_STAGES, in_sample=True),
    _transformers("dinov3_convnext", "ConvNeXt", **_STAGES),
    # With its own range signals vanish in so few channels.
    _transformers("efficientnet", "EfficientNet", width_coefficient=0.25, depth_coefficient=0.25, hidden_dim=320,
                  image_size=64, initializer_range=0.3, in_sample=True),
    _transformers("levit", "LeViT", image_size=64, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4],
                  depths=[1, 1, 1], key_dim=[8, 8, 8], in_sample=True),
    # transformers, others
    _transformers("beit", "BEiT", **_VIT),
    _transformers("beit", "BEiT", **_VIT, use_relative_position_bias=True, name="beit, relative positions"),
    _transformers("data2vec-vision", "BEiT", **_VIT),
    _transformers("clip_vision_model", "CLIP", **_VIT),
    _transformers("chinese_clip_vision_model", "CLIP", **_VIT),
    _transformers("siglip_vision_model", "CLIP", **_VIT),
    _transformers("mlcd_vision_model", "CLIP", **_VIT),
    _transformers("aimv2_vision_model", "CLIP", **_VIT),
    _transformers("internvl_vision", "CLIP", **_VIT | {"image_size": [64, 64], "patch_size": [8, 8]}),
    _transformers("radio", "RADIO", **_VIT),
    _transformers("tipsv2_vision_model", "TIPS", **_VIT),
    _transformers("pixio", "Pixio", **_VIT),
    _transformers("sapiens2", "Sapiens", **_VIT),
    _transformers("vit_mae", "ViT", **_VIT),
    _transformers("yolos", "YOLOS", **_VIT | {"image_size": [64, 64]}),
    _transformers("vitdet", "ViTDet", **_TOKENS),
    # Its own range, 1e-10, leaves nothing of an image.
    _transformers("sam_vision_model", "SAM", **_TOKENS, output_channels=16, global_attn_indexes=[1], mlp_dim=64,
                  initializer_range=0.02),
    _transformers("dpt", "DPT", **_VIT),
    _transformers("regnet", "RegNet", embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
                  groups_width=8),
    _transformers("bit", "BiT", embedding_size=8, hidden_sizes=[32, 64], depths=[1, 1], num_groups=8),
    _transformers("mobilenet_v1", "MobileNet", depth_multiplier=0.25, image_size=64),
    _transformers("mobilenet_v2", "MobileNet", depth_multiplier=0.35, image_size=64),
    _transformers("mobilevit", "MobileViT", hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 40],
                  num_attention_heads=2, image_size=64),
    _transformers("mobilevitv2", "MobileViT", width_multiplier=0.5, image_size=64),
    _transformers("hgnet_v2", "HGNet"),
    _transformers("textnet", "TextNet"),
    _transformers("poolformer", "PoolFormer", **_STAGES),
    _transformers("swiftformer", "SwiftFormer", image_size=64, depths=[1, 1, 1, 1], embed_dims=[8, 16, 24, 32]),
    _transformers("focalnet", "FocalNet", image_size=64, embed_dim=16, hidden_sizes=[16, 32], depths=[1, 1],
                  focal_levels=[2, 2], focal_windows=[3, 3]),
    _transformers("hiera", "Hiera", image_size=[64, 64], embed_dim=16, num_heads=[1, 2, 2, 2], depths=[1, 1, 2, 1]),
    _transformers("pvt", "PVT", image_size=64, **_STAGES, num_attention_heads=[1, 2, 2, 2]),
    _transformers("pvt_v2", "PVT", image_size=64, **_STAGES, num_attention_heads=[1, 2, 2, 2]),
    _transformers("segformer", "SegFormer", **_STAGES, num_attention_heads=[1, 2, 2, 2]),
    _transformers("glpn", "SegFormer", **_STAGES, num_attention_heads=[1, 2, 2, 2]),
    _transformers("cvt", "CvT", embed_dim=[8, 16, 32], num_heads=[1, 1, 2], depth=[1, 2, 3]),
    Architecture("dinat", "DiNAT", {"model_type": "dinat"}, refused="requires the natten library"),
    # timm, the families of the paper
    _timm("resnet10t", "ResNet", in_sample=True),
    _timm("resnet18", "ResNet"),
    _timm("resnext26ts", "ResNet"),
    _timm("vit_tiny_patch16_224", "ViT", depth=2, embed_dim=48),
    _timm("vit_tiny_r_s16_p8_224", "ViT", depth=2),  # a hybrid, which transformers has no more
    _timm("deit3_small_patch16_224", "ViT", depth=2, embed_dim=48, num_heads=3),
    _timm("vit_base_patch16_rope_reg1_gap_256", "ViT", depth=2, embed_dim=96, num_heads=3),
    _timm("swin_tiny_patch4_window7_224", "Swin", embed_dim=24, depths=[1, 1, 2, 1]),
    _timm("swinv2_tiny_window8_256", "Swin", embed_dim=24, depths=[1, 1, 2, 1]),
    _timm("maxvit_pico_rw_256", "MaxViT", img_size=64),
    _timm("maxvit_rmlp_pico_rw_256", "MaxViT", img_size=64, depths=[1, 1, 1, 1], in_sample=True),
    _timm("maxxvit_rmlp_nano_rw_256", "MaxViT", img_size=64),
    _timm("convnext_atto", "ConvNeXt"),
    _timm("convnextv2_atto", "ConvNeXt"),
    _timm("efficientnet_b0", "EfficientNet"),
    _timm("tf_efficientnetv2_b0", "EfficientNet"),
    _timm("levit_128s", "LeViT"),
    _timm("levit_conv_128s", "LeViT"),
    _timm("inception_next_atto", "Inception-NeXt", in_sample=True),
    _timm("inception_next_tiny", "Inception-NeXt", depths=[1, 1, 1, 1]),
    # timm, others
    *(_timm(name, "timm, convolutions") for name in (
        "mobilenetv3_small_050", "mobilenetv4_conv_small_050", "mobileone_s0", "ghostnet_050", "regnety_002",
        "poolformerv2_s12", "densenet121", "repvit_m0_9", "dla34", "hrnet_w18_small", "res2net50_14w_8s", "rexnet_100",
        "starnet_s1", "mambaout_femto", "lcnet_050",
    )),
    _timm("inception_v3", "timm, convolutions", sizes=(96, 80)),
    _timm("convmixer_768_32", "timm, convolutions"),
    *(_timm(name, "timm, mixed") for name in (
        "edgenext_xx_small", "fastvit_t8", "efficientvit_b0", "tiny_vit_5m_224", "efficientformerv2_s0",
        "xcit_nano_12_p16_224",
    )),
    _timm("caformer_s18", "timm, mixed"),
    _timm("coatnet_nano_rw_224", "timm, mixed", img_size=64),
    _timm("visformer_tiny", "timm, mixed", img_size=64),
    _timm("pit_ti_224", "timm, tokens"),
    _timm("hiera_tiny_224", "timm, tokens", img_size=64, embed_dim=24, num_heads=1),
    _timm("eva02_tiny_patch14_224", "timm, tokens", sizes=(56, 28), depth=2),
    _timm("cait_xxs24_224", "timm, tokens", img_size=64, depth=2),
    _timm("davit_tiny", "timm, tokens", depths=[1, 1, 1, 1]),
    _timm("mvitv2_tiny", "timm, tokens", img_size=64),
    _timm("pvt_v2_b0", "timm, tokens"),
    _timm("twins_svt_small", "timm, tokens", depths=[1, 1, 1, 1]),
    _timm("focalnet_tiny_srf", "timm, tokens"),
    _timm("volo_d1_224", "timm, tokens", img_size=64),
    _timm("beit_base_patch16_224", "timm, tokens", img_size=64, depth=2, embed_dim=48, num_heads=3),
    _timm("tnt_s_legacy_patch16_224", "timm, tokens", img_size=64, depth=2),
    _timm("convit_tiny", "timm, tokens", img_size=64, depth=2),
    _timm("nest_tiny", "timm, tokens", img_size=64),
    _timm("naflexvit_base_patch16_gap", "timm, tokens", depth=2, embed_dim=48, num_heads=3),
    _timm("crossvit_tiny_240", "timm, tokens", sizes=(240, 96), depth=[[1, 1, 0]]),
    _timm("mixer_s32_224", "timm, MLPs", img_size=64),
    _timm("gmlp_s16_224", "timm, MLPs", img_size=64),
    _timm("resmlp_12_224", "timm, MLPs", img_size=64),
    Architecture(
        "timm coat_tiny",
        "timm, tokens",
        {"model_type": "timm_wrapper", "architecture": "coat_tiny"},
        refused="layers share weights",
    ),
]  # fmt: skip
