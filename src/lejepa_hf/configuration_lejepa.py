"""The configuration that rebuilds a LeJEPA network and its objective."""

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig, configuration_utils

POOLINGS = ("auto", "pooler", "cls", "mean")
PROJECTOR_NORMS = ("batch", "batch_per_size", "layer", "none")
SIGREG_VIEWS = ("per_view", "pooled")
TOKEN_DROP_VIEWS = ("all", "global", "local")
STATISTICS = ("epps_pulley", "anderson_darling", "cramer_von_mises", "extended_jarque_bera", "vcreg")
_FORMER_STATISTICS = ("entropy", "moments", "shapiro_wilk", "watson")  # in runs and files of version 0.1.0


def _one_of(known: tuple[str, ...]) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(known)}", lambda value: value in known


# What each setting must be, in words and as a test of values that have the right type.
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "pooling": _one_of(POOLINGS),
    "projector_dims": ("a list of positive widths", lambda widths: min(widths, default=0) > 0),
    "projector_norm": _one_of(PROJECTOR_NORMS),
    "token_drop_rate": ("in [0, 1)", lambda value: 0 <= value < 1),
    "token_drop_views": _one_of(TOKEN_DROP_VIEWS),
    "drop_path_rate": ("in [0, 1)", lambda value: 0 <= value < 1),
    "sigreg_weight": ("in [0, 1]", lambda value: 0 <= value <= 1),
    "sigreg_views": _one_of(SIGREG_VIEWS),
    "statistic": _one_of(STATISTICS),
    "num_slices": ("at least 1", lambda value: value >= 1),
    "num_knots": ("at least 2", lambda value: value >= 2),
    "t_max": ("positive and finite", lambda value: 0 < value < math.inf),
}


@strict
class LeJEPAConfig(PreTrainedConfig):
    """
    Configuration of [`LeJEPAModel`] and [`LeJEPAForPreTraining`].

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*, defaults to a ViT):
            Config of the network that turns pixels into embeddings: any vision config of transformers, or
            `{"model_type": "timm_wrapper", "architecture": ...}`. A dict needs its `model_type`.
        pooling (`str`, *optional*, defaults to `"auto"`):
            How one embedding per image is made: `"pooler"` (the backbone's `pooler_output`), `"cls"` (the first
            token), `"mean"` (over all tokens or the feature map) or `"auto"`: the first of these that the backbone
            offers. Where the backbone starts from an exported encoder, `"auto"` keeps that encoder's pooling.
        projector_dims (`list[int]`, *optional*, defaults to `[2048, 2048, 64]`):
            Widths of the projector, the training-only head; the last one is the dimension of the projections.
        projector_norm (`str`, *optional*, defaults to `"batch"`):
            Norm after every hidden layer of the projector: `"batch"` (batch norm over all views of all ranks),
            `"batch_per_size"` (batch norm over the global and over the local views separately), `"layer"` or `"none"`.
        token_drop_rate (`float`, *optional*, defaults to 0.0):
            Share of the patches, in [0, 1), that are dropped in training mode, drawn at random for every image and
            view; class and register tokens are kept. For backbones that add positions to their tokens.
        token_drop_views (`str`, *optional*, defaults to `"all"`):
            Views that lose patches: `"all"`, `"global"` or `"local"`.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Probability, in [0, 1), with which the backbone's last block is left out for an image and view in training
            mode. It rises linearly from 0 for the first block. Blocks that change the size of their input are kept.
        sigreg_weight (`float`, *optional*, defaults to 0.05):
            The trade-off w in [0, 1]: `loss = (1 - w) * prediction_loss + w * sigreg_loss`.
        sigreg_views (`str`, *optional*, defaults to `"per_view"`):
            How SIGReg takes the views: `"per_view"`, one statistic for each view and then their mean, as in the paper;
            or `"pooled"`, all views as one sample, which multiplies the statistic by the number of views.
        statistic (`str`, *optional*, defaults to `"epps_pulley"`):
            How a slice is compared with N(0, 1). The others are what the paper compares Epps-Pulley with; they are
            slower and not recommended: `"anderson_darling"` and `"cramer_von_mises"` (distribution functions),
            `"extended_jarque_bera"` and `"vcreg"` (moments), see [`~losses.univariate_statistics`].
        num_slices (`int`, *optional*, defaults to 1024): Number of random directions at each step, at least 1.
        num_knots (`int`, *optional*, defaults to 17): Number of quadrature points on `[0, t_max]`, at least 2.
        t_max (`float`, *optional*, defaults to 3.0): Largest frequency at which characteristic functions are compared.
        directions_seed (`int`, *optional*, defaults to 0): Seed of the directions, which also depend on the step.

    Raises:
        ValueError: If a value is outside its range, in the constructor or when it is set later.
    """

    model_type = "lejepa"
    if hasattr(configuration_utils, "SubConfigSpec"):
        sub_configs_defaults = {"backbone_config": configuration_utils.SubConfigSpec(AutoConfig, model_type="vit")}
    else:  # transformers < 5.20 reads the mapping itself
        sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    pooling: str = "auto"
    projector_dims: list[int] | tuple[int, ...] = field(default_factory=lambda: [2048, 2048, 64])
    projector_norm: str = "batch"
    token_drop_rate: float | int = 0.0
    token_drop_views: str = "all"
    drop_path_rate: float | int = 0.0
    sigreg_weight: float | int = 0.05
    sigreg_views: str = "per_view"
    statistic: str = "epps_pulley"
    num_slices: int = 1024
    num_knots: int = 17
    t_max: float | int = 3.0
    directions_seed: int = 0

    def __post_init__(self, **kwargs: object) -> None:
        backbone_config = resolve_backbone_config(self.backbone_config)
        # The base class passes the model's attention on to its parts; only the backbone has attention.
        kwargs.setdefault("attn_implementation", backbone_config._attn_implementation)
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        """Refuse values out of range, in the constructor and after it; a tuple of widths becomes a list."""
        if name == "projector_dims":
            value = list(value)
        if name == "statistic" and value in _FORMER_STATISTICS:
            raise ValueError(
                f"`statistic` must be one of {', '.join(STATISTICS)}; {value!r} is no longer a setting. No "
                "weight depends on it: write another one into the `config.json` or the recipe that holds it. For "
                f"studies the function `lejepa_hf.losses.univariate_statistics.{value}` remains."
            )
        requirement, holds = _RULES.get(name, ("", lambda _: True))
        if not holds(value):
            raise ValueError(f"`{name}` must be {requirement}, got {value!r}.")
        super().__setattr__(name, resolve_backbone_config(value) if name == "backbone_config" else value)

    def to_dict(self) -> dict[str, Any]:
        """Like the base class, but without the folders that weights came from: files and loggers get this dict."""
        values = super().to_dict()
        values.pop("_name_or_path", None)
        if values.get("backbone_config"):  # there the base class always writes the key
            values["backbone_config"]["_name_or_path"] = ""
        return values

    def drops_tokens_of(self, kind: str) -> bool:
        """Whether `"global"` or `"local"` views lose patches in training mode."""
        return self.token_drop_rate > 0 and self.token_drop_views in ("all", kind)


def resolve_backbone_config(backbone_config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    """
    Make the config object of a backbone from what users write; an object is returned as it is.

    The base class must not see the dict: it has rules of its own for the name `backbone_config`, which fail without a
    `model_type` and for timm models.
    """
    if isinstance(backbone_config, PreTrainedConfig):
        return backbone_config
    given = dict(backbone_config or {"model_type": "vit"})
    model_type = given.pop("model_type", None)
    if model_type is None:
        raise ValueError(
            f"`backbone_config` needs a `model_type` (e.g. vit, resnet, timm_wrapper), got only {sorted(given)}."
        )
    try:
        return AutoConfig.for_model(model_type, **given)
    except ValueError as error:
        if "Unrecognized model identifier" not in str(error):
            raise
        raise ValueError(
            f"`backbone_config.model_type` {model_type!r} is not known to transformers; "
            "known are e.g. vit, dinov2, dinov3_vit, resnet, convnextv2, swin, timm_wrapper."
        ) from None
