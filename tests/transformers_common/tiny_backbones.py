"""Tiny backbones for transformers' common tests, with the shapes that those tests expect of their outputs."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Architecture:
    """
    Args:
        config (`dict`): `backbone_config`.
        image_size (`int`): Side of the images and of the global views, in pixels.
        local_size (`int`): Side of the local views, in pixels.
        states (`dict`): Number and shape of the hidden states, under the names that transformers' tests ask for.
        attention_length (`int`, *optional*): Side of the attention maps; None where the backbone returns none.
    """

    config: dict = field(hash=False)
    image_size: int
    local_size: int
    states: dict = field(hash=False)
    attention_length: int | None = None


_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 4,
}
_TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def _maps(num_stages: int, side: int) -> dict:
    """Feature maps: the tests compare the last two axes of the first one with `seq_length` and `hidden_size`."""
    return {"num_hidden_layers": num_stages, "seq_length": side, "hidden_size": side}


ARCHITECTURES = {
    "vit": Architecture({"model_type": "vit", **_VIT}, 16, 8, {"seq_length": 17, **_TOKENS}, attention_length=17),
    "dinov3": Architecture(
        {"model_type": "dinov3_vit", "num_register_tokens": 2, **_VIT},
        16,
        8,
        {"seq_length": 19, **_TOKENS},
        attention_length=19,
    ),
    "swin": Architecture(
        {
            "model_type": "swin",
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
        },
        32,
        24,
        {"num_hidden_layers": 2, "num_attention_heads": 2, "seq_length": 256, "hidden_size": 16},
        attention_length=16,  # of a window
    ),
    "convnext": Architecture(
        {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        32,
        16,
        _maps(2, 8),
    ),
    "resnet": Architecture(
        {
            "model_type": "resnet",
            "layer_type": "basic",
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
        },
        32,
        16,
        _maps(2, 8),
    ),
    "timm": Architecture(
        {
            "model_type": "timm_wrapper",
            "architecture": "vit_tiny_patch16_224",
            "model_args": {"depth": 2, "embed_dim": 48, "img_size": 32, "patch_size": 8, "dynamic_img_size": True},
        },
        32,
        16,
        {"num_hidden_layers": 1, "seq_length": 4, "hidden_size": 4},
    ),
}
