"""The configuration that rebuilds a LeJEPA network and its objective."""

import math
from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

try:  # transformers < 5.20 derives nothing and wants the mapping itself
    from transformers.configuration_utils import SubConfigSpec
except ImportError:
    SubConfigSpec = None

POOLINGS = ("auto", "pooler", "cls", "mean")
PROJECTOR_NORMS = ("batch", "batch_per_size", "layer", "none")
SIGREG_VIEWS = ("per_view", "pooled")
TOKEN_DROP_VIEWS = ("all", "global", "local")
STATISTICS = (
    "epps_pulley", "anderson_darling", "cramer_von_mises", "watson", "shapiro_wilk", "entropy", "moments",
    "extended_jarque_bera", "vcreg",
)  # fmt: skip


def _require(condition: bool, field_name: str, requirement: str, value: object) -> None:
    if not condition:
        raise ValueError(f"`{field_name}` must be {requirement}, got {value!r}.")


@strict
class LeJEPAConfig(PreTrainedConfig):
    """
    Configuration of [`LeJEPAModel`] and [`LeJEPAForPreTraining`].

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*, defaults to a ViT):
            Config of the network that turns pixels into embeddings: any vision config of transformers, or
            `{"model_type": "timm_wrapper", "architecture": ...}`. A dict needs its `model_type`.
        pooling (`str`, *optional*, defaults to `"auto"`):
            How one embedding per image is made: `"pooler"` (the backbone's `pooler_output`), `"cls"` (first token),
            `"mean"` (all tokens, or the feature map) or `"auto"`, the first of these that the backbone has, or how an
            exported encoder was trained where the backbone starts from one.
        projector_dims (`list[int]`, *optional*, defaults to `[2048, 2048, 64]`):
            Widths of the projector, the training-only head; the last one is the dimension SIGReg sees.
        projector_norm (`str`, *optional*, defaults to `"batch"`):
            After every hidden projector layer: `"batch"` (over all views of all ranks), `"batch_per_size"` (over the
            global views, and over the local views, of all ranks), `"layer"` or `"none"`.
        token_drop_rate (`float`, *optional*, defaults to 0.0):
            Share in [0, 1) of the patches that the backbone does not get to see in training mode, drawn anew for every
            image and view; class and register tokens stay. For backbones whose positions are added to their tokens.
        token_drop_views (`str`, *optional*, defaults to `"all"`): Which views lose patches: `"all"`, `"global"` or
            `"local"`.
        sigreg_weight (`float`, *optional*, defaults to 0.05):
            The trade-off w in [0, 1]: `loss = (1 - w) * prediction_loss + w * sigreg_loss`.
        sigreg_views (`str`, *optional*, defaults to `"per_view"`):
            `"per_view"`: one statistic per view, then their mean (the paper). `"pooled"`: all views are one sample,
            which multiplies the statistic by the number of views.
        statistic (`str`, *optional*, defaults to `"epps_pulley"`):
            How a slice is compared with N(0, 1). The others are for comparison only, not recommended and costlier:
            `"anderson_darling"`, `"cramer_von_mises"`, `"watson"`, `"shapiro_wilk"`, `"entropy"`, `"moments"`,
            `"extended_jarque_bera"`, `"vcreg"`, see [`~losses.univariate_statistics`].
        num_slices (`int`, *optional*, defaults to 1024): Directions drawn at each step, at least 1.
        num_knots (`int`, *optional*, defaults to 17): Quadrature points on `[0, t_max]`, at least 2.
        t_max (`float`, *optional*, defaults to 3.0): Largest frequency at which characteristic functions are compared.
        directions_seed (`int`, *optional*, defaults to 0): With the step it fixes the directions of that step.

    Raises:
        ValueError: If a value lies outside its range; the message names the field and the value.
    """

    model_type = "lejepa"
    if SubConfigSpec is not None:
        sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="vit")}
    else:
        sub_configs = {"backbone_config": AutoConfig}

    backbone_config: dict | PreTrainedConfig | None = None
    pooling: str = "auto"
    projector_dims: list[int] = field(default_factory=lambda: [2048, 2048, 64])
    projector_norm: str = "batch"
    token_drop_rate: float | int = 0.0
    token_drop_views: str = "all"
    sigreg_weight: float | int = 0.05
    sigreg_views: str = "per_view"
    statistic: str = "epps_pulley"
    num_slices: int = 1024
    num_knots: int = 17
    t_max: float | int = 3.0
    directions_seed: int = 0

    def __post_init__(self, **kwargs):
        self.backbone_config = resolve_backbone_config(self.backbone_config)
        # A model's choice of attention becomes that of its parts; here the part is the only one that has attention.
        kwargs.setdefault("attn_implementation", self.backbone_config._attn_implementation)
        super().__post_init__(**kwargs)
        _require(self.pooling in POOLINGS, "pooling", f"one of {', '.join(POOLINGS)}", self.pooling)
        _require(
            self.projector_norm in PROJECTOR_NORMS,
            "projector_norm",
            f"one of {', '.join(PROJECTOR_NORMS)}",
            self.projector_norm,
        )
        _require(0 <= self.token_drop_rate < 1, "token_drop_rate", "in [0, 1)", self.token_drop_rate)
        _require(
            self.token_drop_views in TOKEN_DROP_VIEWS,
            "token_drop_views",
            f"one of {', '.join(TOKEN_DROP_VIEWS)}",
            self.token_drop_views,
        )
        _require(
            self.sigreg_views in SIGREG_VIEWS, "sigreg_views", f"one of {', '.join(SIGREG_VIEWS)}", self.sigreg_views
        )
        _require(self.statistic in STATISTICS, "statistic", f"one of {', '.join(STATISTICS)}", self.statistic)
        _require(
            len(self.projector_dims) > 0 and min(self.projector_dims) > 0,
            "projector_dims",
            "a list of positive widths",
            self.projector_dims,
        )
        _require(0 <= self.sigreg_weight <= 1, "sigreg_weight", "in [0, 1]", self.sigreg_weight)
        _require(self.num_slices >= 1, "num_slices", "at least 1", self.num_slices)
        _require(self.num_knots >= 2, "num_knots", "at least 2", self.num_knots)
        _require(0 < self.t_max < math.inf, "t_max", "positive and finite", self.t_max)

    def to_dict(self) -> dict[str, Any]:
        """As the base class, without the folders that weights came from: this goes into files and to loggers."""
        values = super().to_dict()
        for part in (values, values.get("backbone_config") or {}):
            part.pop("_name_or_path", None)
        return values

    def drops_tokens_of(self, kind: str) -> bool:
        """Whether views of a kind, `"global"` or `"local"`, lose patches in training mode."""
        return self.token_drop_rate > 0 and self.token_drop_views in ("all", kind)


def resolve_backbone_config(backbone_config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    """
    A backbone config object from what users write. The base class must not see the dict: under the name
    `backbone_config` it applies rules of its own, which fail without `model_type` and for timm models.
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
