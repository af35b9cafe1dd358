"""Tiny backbones of several families, with the pooling and width that are chosen for them."""

from transformers import AutoConfig

TOKENS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
FAMILIES = {
    "vit": (TOKENS | {"intermediate_size": 64}, "cls", 32),
    "deit": (TOKENS | {"intermediate_size": 64}, "cls", 32),
    "ijepa": (TOKENS | {"intermediate_size": 64}, "mean", 32),
    "dinov2": (TOKENS, "pooler", 32),
    "dinov3_vit": (TOKENS | {"intermediate_size": 64, "num_register_tokens": 1}, "pooler", 32),
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}, "pooler", 16),
    "convnextv2": ({"hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1]}, "pooler", 24),
    "swin": (
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32, "patch_size": 2, "window_size": 4},
        "pooler",
        16,
    ),
    "pvt_v2": (
        {"image_size": 32, "hidden_sizes": [8, 8, 8, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4},
        "mean",
        16,
    ),
    "hgnet_v2": (
        {
            "embedding_size": 8,
            "stem_channels": [3, 8, 8],
            "hidden_sizes": [16, 24],
            "depths": [1, 1],
            "stage_in_channels": [8, 16],
            "stage_mid_channels": [8, 8],
            "stage_out_channels": [16, 24],
            "stage_num_blocks": [1, 1],
            "stage_numb_of_layers": [1, 1],
            "stage_downsample": [False, True],
            "stage_light_block": [False, False],
            "stage_kernel_size": [3, 3],
        },
        "mean",
        24,
    ),
    "timm_wrapper": ({"architecture": "resnet18"}, "pooler", 512),
}


def config_of(family):
    return AutoConfig.for_model(family, **FAMILIES[family][0])
