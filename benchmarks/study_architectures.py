"""
Do five architectures learn with the same setting?

    python benchmarks/study_architectures.py

Each is compared with the same network untrained, and with a projector that has one batch norm for all views. Claim of
arXiv 2511.08544: about 50 architectures of 8 families learn with one setting (91.5 to 95 % linear on ImageNet-10).
"""

from study_runs import draw_groups, export, print_table, run_study, write_rows

from lejepa_hf.runs.pretraining import build
from lejepa_hf.runs.recipes import Recipe
from lejepa_hf.runs.resolving import resolve

BACKBONES = {
    "ResNet": None,  # the recipe's
    "ConvNeXt V2": {
        "model_type": "convnextv2", "patch_size": 2, "num_stages": 3, "hidden_sizes": [16, 32, 64],
        "depths": [1, 1, 1],
    },
    "RegNet": {
        "model_type": "regnet", "layer_type": "y", "embedding_size": 32, "hidden_sizes": [32, 64, 128],
        "depths": [1, 1, 1], "groups_width": 16,
    },
    "ViT": {
        "model_type": "vit", "image_size": 24, "patch_size": 4, "hidden_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 2, "intermediate_size": 256,
    },
    "Swin": {
        "model_type": "swin", "image_size": 24, "patch_size": 4, "embed_dim": 32, "depths": [2, 2],
        "num_heads": [2, 4], "window_size": 2,
    },
}  # fmt: skip
SETTINGS = {name: {} if backbone is None else {"backbone_config": backbone} for name, backbone in BACKBONES.items()}


def train_nothing(recipe: Recipe) -> None:
    """Export the encoder with its initial weights."""
    trainer, _ = build(resolve(recipe))
    export(trainer, recipe)


def main() -> None:
    one_norm = {name: f"{name}, one norm for all views" for name in SETTINGS}
    untrained = {name: f"{name}, untrained" for name in SETTINGS}
    rows = run_study(SETTINGS)
    rows += run_study({one_norm[name]: setting | {"projector_norm": "batch"} for name, setting in SETTINGS.items()})
    rows += run_study({untrained[name]: setting for name, setting in SETTINGS.items()}, train_nothing)
    write_rows("architectures", rows)
    print_table(rows)
    groups = {"200 steps of LeJEPA": {name: name for name in SETTINGS}}
    groups |= {"the same, one norm for all views": one_norm, "untrained": untrained}
    draw_groups("architectures", rows, groups)


if __name__ == "__main__":
    main()
