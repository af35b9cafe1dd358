"""A backbone with fresh or pretrained weights, ready for training, and a trained one as its native class."""

import copy
import inspect
from collections.abc import Iterable

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .architecture import has_learned_pooler, is_timm, setting, without_pooler
from .foreign_settings import refuse_foreign_settings
from .loading_errors import explained, refuse_not_finite, refuse_unfilled
from .tracing import without_weights


def prepare_config(config: PreTrainedConfig) -> None:
    """
    Set in the config itself, where nothing was set, what training on crops needs, so that it is exported with it.

    timm's transformers take other sizes than their own only with `dynamic_img_size`, and a masking encoder has to see
    all of the image.
    """
    if is_timm(config) and "dynamic_img_size" not in (config.model_args or {}):
        wrapper, _ = without_weights(config)
        if "dynamic_img_size" in inspect.signature(type(wrapper.timm_model).__init__).parameters:
            config.model_args = {**(config.model_args or {}), "dynamic_img_size": True}
    if setting(config, "mask_ratio") is not None:
        config.update({"mask_ratio": 0.0})


def leave_out_classifier(config: PreTrainedConfig) -> None:
    """
    Remove the number of classes from the arguments in a config of timm, which newer versions record there. The wrapper
    passes its own, 0, and both together are a TypeError.
    """
    if is_timm(config) and "num_classes" in (config.model_args or {}):
        config.model_args = {name: value for name, value in config.model_args.items() if name != "num_classes"}


def build_backbone(config: PreTrainedConfig, idle_parameters: Iterable[str] = ()) -> PreTrainedModel:
    """
    The backbone with fresh weights, ready for training, without a learned pooler.

    `idle_parameters` are names of parameters to freeze, from [`~model.tracing.describe_backbone`]: because they get no
    gradient, they would stop DDP in the second step.
    """
    refuse_foreign_settings(config)
    leave_out_classifier(config)
    backbone = AutoModel.from_config(config, trust_remote_code=False, **without_pooler(config))
    if is_timm(config) and not next(backbone.parameters()).is_meta:
        # The wrapper draws all layers again from normal(0, 0.02), but timm's models need timm's own initialisation.
        import timm

        fresh = timm.create_model(config.architecture, num_classes=0, **(config.model_args or {}))
        backbone.timm_model.load_state_dict(fresh.state_dict())
    for name in idle_parameters:
        backbone.get_parameter(name).requires_grad_(False)
    return backbone


def pretrained_config(name_or_path: str) -> PreTrainedConfig:
    """The config of the backbone that [`load_pretrained_backbone`] loads from the same argument; same errors."""
    config = _config_of(name_or_path)
    part = setting(config, "backbone_config" if config.model_type == "lejepa" else "vision_config")
    config = part if isinstance(part, PreTrainedConfig) else config
    refuse_foreign_settings(config)
    leave_out_classifier(config)
    prepare_config(config)
    return config


def load_pretrained_backbone(name_or_path: str) -> PreTrainedModel:
    """
    A pretrained backbone in fp32 for a warm start, without its learned pooler if it has one.

    `name_or_path` is a Hub id or a folder that `AutoModel.from_pretrained` accepts; of a model of text and images
    (CLIP, SigLIP) the vision part is taken. A checkpoint that is missing, incomplete or not finite raises a
    `ValueError`.
    """
    if _config_of(name_or_path).model_type == "lejepa":
        with explained("pretrained_backbone", name_or_path):
            model = AutoModel.from_pretrained(name_or_path, dtype=torch.float32, trust_remote_code=False)
        refuse_not_finite("pretrained_backbone", name_or_path, model.backbone)
        return model.backbone
    config = pretrained_config(name_or_path)
    with explained("pretrained_backbone", name_or_path):
        backbone, loaded = AutoModel.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False,
            **without_pooler(config),
        )  # fmt: skip
    refuse_unfilled("pretrained_backbone", name_or_path, config.model_type, loaded)
    refuse_not_finite("pretrained_backbone", name_or_path, backbone)
    return backbone


def as_native_class(backbone: PreTrainedModel, pooling: str) -> PreTrainedModel:
    """
    Turn a trained backbone into a model that `AutoModel` loads from its saved form alone.

    A class with a learned pooler would be loaded with a random one. It gets the identity instead, so that
    `pooler_output` is exactly the first token. `config.embedding_pooling` records how the trained embedding is made:
    `"pooler"`, `"cls"` or `"mean"`. The trained backbone and its config do not change.
    """
    config = backbone.config.__class__.from_dict(backbone.config.to_dict())
    config.embedding_pooling = pooling
    if not has_learned_pooler(config):
        native = copy.copy(backbone)  # shares the weights, has its own config
        native.config = config
        return native
    config.pooler_act = "linear"
    native = type(backbone)(config)
    result = native.load_state_dict(backbone.state_dict(), strict=False)
    unfilled = [key for key in result.missing_keys if not key.startswith("pooler.")] + result.unexpected_keys
    if unfilled:
        raise RuntimeError(f"{type(backbone).__name__} does not load its own weights: {unfilled}.")
    # Some classes have the setting in their config and no pooler by default.
    if "pooler" in dict(native.named_children()):
        native.config.embedding_pooling = "pooler" if pooling == "cls" else pooling
        nn.init.eye_(native.get_parameter("pooler.dense.weight"))
        nn.init.zeros_(native.get_parameter("pooler.dense.bias"))
    return native.eval()


def _config_of(name_or_path: str) -> PreTrainedConfig:
    with explained("pretrained_backbone", name_or_path):
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
