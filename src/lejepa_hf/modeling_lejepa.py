"""LeJEPAModel (pixels -> embeddings) and LeJEPAForPreTraining (views -> losses)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_lejepa import LeJEPAConfig, resolve_backbone_config
from .losses.objective import objective, objective_sums
from .losses.sigreg import SIGReg
from .model.architecture import forward_kwargs
from .model.backbone import build_backbone, load_pretrained_backbone, prepare_config
from .model.drop_path import add_drop_path
from .model.foreign_settings import refuse_foreign_settings
from .model.layers import final_states, pool
from .model.projector import Projector
from .model.token_dropping import TokenDropping, check_token_dropping
from .model.tracing import describe_backbone


@dataclass
class LeJEPAOutput(ModelOutput):
    """
    Output of [`LeJEPAForPreTraining`].

    Args:
        loss (`torch.Tensor`): `(1 - sigreg_weight) * prediction_loss + sigreg_weight * sigreg_loss`, fp32 scalar.
        prediction_loss (`torch.Tensor`): Mean squared distance of the views from their centre, fp32 scalar.
        sigreg_loss (`torch.Tensor`): Mean statistic, about 1.05 for normal projections, fp32 scalar.
        embeddings (`torch.Tensor` of shape `(num_views, batch_size, embedding_dim)`): Output of the encoder, global
            views first.
        projections (`torch.Tensor` of shape `(num_views, batch_size, projector_dims[-1])`): Output of the projector,
            the input of both losses.
        sums (`torch.Tensor`): [`~losses.objective.objective_sums`], the only output with `sums_only`.
        hidden_states (`tuple[torch.Tensor, ...]`): The backbone's states of the global views, one per layer, with
            `num_global_views * batch_size` rows in the order of `embeddings`; only with `output_hidden_states`.
        attentions (`tuple[torch.Tensor, ...]`): The backbone's attention maps of the global views, with the same rows;
            only with `output_attentions`.
        local_hidden_states (`tuple[torch.Tensor, ...]`): Like `hidden_states`, of the local views.
        local_attentions (`tuple[torch.Tensor, ...]`): Like `attentions`, of the local views.
    """

    loss: torch.Tensor | None = None
    prediction_loss: torch.Tensor | None = None
    sigreg_loss: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    projections: torch.Tensor | None = None
    sums: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    local_hidden_states: tuple[torch.Tensor, ...] | None = None
    local_attentions: tuple[torch.Tensor, ...] | None = None


class LeJEPAPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by both models."""

    config_class = LeJEPAConfig
    base_model_prefix = "encoder"
    input_modalities = ["image"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    # The loss is a mean already: the Trainer must neither count items nor rescale it.
    accepts_loss_kwargs = False

    def __init__(self, config: LeJEPAConfig) -> None:
        refuse_foreign_settings(config)  # the base class loads the attention that a config names
        super().__init__(config)

    def _init_weights(self, module: nn.Module) -> None:
        # Called for our own modules only, because a backbone initialises itself. This is PyTorch's rule for linear
        # layers, which other implementations use as well. He's rule, 2.4 times as large, had worse k-NN and few-shot
        # accuracies.
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.in_features)
                init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> None:  # type: ignore[override]  # the base class tests for None
        """None: there is no token table. The inherited lookup fails for CNNs and misleads FSDP2 for ViTs."""
        return

    def save_pretrained(self, *args: Any, save_original_format: bool = False, **kwargs: Any) -> None:  # noqa: ANN401
        """
        Like the base class, but write the names of our modules into the file by default.

        `Trainer` resumes by plain `load_state_dict`, which does not know the older published names and would skip the
        weights silently.
        """
        kwargs["save_original_format"] = save_original_format
        super().save_pretrained(*args, **kwargs)


class LeJEPAModel(LeJEPAPreTrainedModel):
    """
    A backbone with pooling: the encoder that users get.

    Its [`LeJEPAConfig`] gives `backbone_config`, `pooling`, `token_drop_rate` and `drop_path_rate`. A backbone that
    offers no embedding of that pooling, or whose tokens or blocks cannot be dropped, raises a `ValueError`.
    """

    main_input_name = "pixel_values"
    _keys_to_ignore_on_load_unexpected = [r"^projector\."]  # an encoder read from a pretraining checkpoint

    def __init__(self, config: LeJEPAConfig) -> None:
        super().__init__(config)
        backbone_config = resolve_backbone_config(config.backbone_config)
        prepare_config(backbone_config)
        traits = describe_backbone(backbone_config, config.pooling)
        self.pooling, self.embedding_dim = traits.pooling, traits.embedding_dim
        self.backbone: PreTrainedModel = build_backbone(backbone_config, traits.idle_parameters)
        self._backbone_kwargs: dict[str, object] = {**forward_kwargs(self.backbone), "return_dict": True}
        self._channels_last = False  # not a `torch.memory_format`, which cannot be pickled
        self._token_dropping = None
        if config.token_drop_rate:
            prefix = check_token_dropping(backbone_config, config.token_drop_rate, self.pooling)
            self._token_dropping = TokenDropping(self.backbone, config.token_drop_rate, prefix)
        if config.drop_path_rate:
            add_drop_path(self.backbone, config.drop_path_rate, traits.residual_blocks)
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self.post_init()

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        # timm's networks do it in their own way, which the base class does not know.
        self.backbone._set_gradient_checkpointing(enable, *args, **kwargs)
        self.gradient_checkpointing = enable  # read by `is_activation_checkpointing`; timm's networks do not set it

    def use_channels_last(self) -> None:
        """Store weights and pixels with channels last, which makes convolutions faster."""
        self._channels_last = True
        self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # their decorator hides `self`

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        drop_tokens: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
        **kwargs: object,
    ) -> BaseModelOutputWithPooling:
        """
        Embed images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, channels, height, width)`): Normalised pixels.
            drop_tokens (`bool`, *optional*, defaults to `False`): Whether to drop the share `token_drop_rate` of the
                patches in training mode.
            output_attentions (`bool`, *optional*): Whether to return the backbone's attention maps; if missing, the
                config's `output_attentions`. They need `attn_implementation="eager"`.
            output_hidden_states (`bool` or `list[int]`, *optional*): Whether to return the states of all layers of the
                backbone, or the layers to return; if missing, the config's `output_hidden_states`.
            kwargs: Further arguments of the backbone's forward pass.

        Returns:
            `BaseModelOutputWithPooling`: `pooler_output` of shape `(batch_size, embedding_dim)` is the embedding,
            `last_hidden_state` the backbone's tokens or feature map. With `return_dict=False` a tuple.
        """
        if self._token_dropping is not None:
            self._token_dropping.is_on = drop_tokens
        memory_format = torch.channels_last if self._channels_last else torch.contiguous_format
        pixel_values = pixel_values.contiguous(memory_format=memory_format)
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        # Left out where they are not asked for, because not every backbone knows both.
        kwargs |= {name: value for name, value in asked.items() if value}
        outputs = self.backbone(pixel_values, **(self._backbone_kwargs | kwargs))
        states = outputs.get("hidden_states")
        return BaseModelOutputWithPooling(
            last_hidden_state=final_states(outputs),
            pooler_output=pool(outputs, self.pooling),
            hidden_states=None if states is None else tuple(states),  # a list in timm
            attentions=outputs.get("attentions"),
        )


class LeJEPAForPreTraining(LeJEPAPreTrainedModel):
    """Encoder, projector and the LeJEPA objective, all of which a [`LeJEPAConfig`] rebuilds."""

    main_input_name = "global_views"

    def __init__(self, config: LeJEPAConfig) -> None:
        super().__init__(config)
        self.encoder = LeJEPAModel(config)
        self.projector = Projector(self.encoder.embedding_dim, list(config.projector_dims), config.projector_norm)
        self.sigreg = SIGReg(
            config.num_slices,
            config.num_knots,
            config.t_max,
            config.directions_seed,
            config.sigreg_views,
            config.statistic,
        )
        self._next_step = 0
        self.supports_gradient_checkpointing = self.encoder.supports_gradient_checkpointing
        self.post_init()

    @classmethod
    def from_pretrained_backbone(cls, name_or_path: str, **config_kwargs: Any) -> "LeJEPAForPreTraining":  # noqa: ANN401
        """
        Warm start: a model with the backbone's weights from a checkpoint and a new projector.

        Args:
            name_or_path (`str`): Hub id or folder of any vision model that `AutoModel` loads.
            config_kwargs: Further fields of [`LeJEPAConfig`].

        Returns:
            [`LeJEPAForPreTraining`]: In training mode, with fp32 weights.
        """
        backbone = load_pretrained_backbone(name_or_path)
        model = cls(LeJEPAConfig(backbone_config=backbone.config, **config_kwargs))
        model.encoder.backbone.load_state_dict(backbone.state_dict())
        return model

    @can_return_tuple
    def forward(
        self,
        global_views: torch.Tensor,
        local_views: torch.Tensor | None = None,
        step: int | None = None,
        sums_only: bool = False,
        batch_sums: torch.Tensor | None = None,
        num_parts: int = 1,
        output_attentions: bool | None = None,
        output_hidden_states: bool | list[int] | None = None,
    ) -> LeJEPAOutput:
        """
        Embed and project all views of a batch, and compute both losses.

        Args:
            global_views (`torch.Tensor` of shape `(batch_size, num_global_views, channels, height, width)`):
                Normalised pixels of the large crops.
            local_views (`torch.Tensor` of shape `(batch_size, num_local_views, channels, h, w)`, *optional*):
                Normalised pixels of the small crops of the same images.
            step (`int`, *optional*): Optimiser step, which fixes SIGReg's directions. If missing, this process counts
                its forward passes in training mode from 0. A run that has to repeat itself after a resume needs it.
            sums_only (`bool`, *optional*, defaults to `False`): Whether to return sums over these images instead of
                losses. Added up over micro-batches and ranks they are the `batch_sums` of the batch.
            batch_sums (`torch.Tensor`, *optional*): Sums over a larger batch that contains these images. The losses
                are then those of that batch, and the gradients of its parts average to its gradient.
            num_parts (`int`, *optional*, defaults to 1): Number of micro-batches on each rank in `batch_sums`.
            output_attentions (`bool`, *optional*): As in [`LeJEPAModel`].
            output_hidden_states (`bool` or `list[int]`, *optional*): As in [`LeJEPAModel`].

        Returns:
            [`LeJEPAOutput`]: The losses and what they were computed from. With `return_dict=False` a tuple.

        Raises:
            ValueError: If there is no global view, views are not normalised floats, or the number of images differs
                between the sizes.
        """
        sizes = {"global": global_views}
        if local_views is not None and local_views.shape[1] > 0:
            sizes["local"] = local_views
        for views in sizes.values():
            self._check_views(views, batch_size=len(global_views))
        if step is None:
            step = self._next_step
            self._next_step += self.training
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        encoded = [self._encode(views, kind, **asked) for kind, views in sizes.items()]
        of_sizes = [embeddings for embeddings, _ in encoded]
        states = {kind: states for kind, (_, states) in zip(sizes, encoded, strict=True)}
        embeddings = torch.cat(of_sizes)
        num_views, batch_size, _ = embeddings.shape
        rows = self.projector(*(of_size.flatten(0, 1) for of_size in of_sizes))
        projections = rows.unflatten(0, (num_views, batch_size))
        num_global_views = global_views.shape[1]
        if sums_only:
            return LeJEPAOutput(sums=objective_sums(projections, num_global_views, self.sigreg, step))
        prediction, sigreg = objective(projections, num_global_views, self.sigreg, step, batch_sums, num_parts)
        weight = self.config.sigreg_weight
        return LeJEPAOutput(
            loss=(1 - weight) * prediction + weight * sigreg,
            prediction_loss=prediction,
            sigreg_loss=sigreg,
            embeddings=embeddings,
            projections=projections,
            **states["global"],
            **{f"local_{name}": value for name, value in states.get("local", {}).items()},
        )

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        self.encoder._set_gradient_checkpointing(enable, *args, **kwargs)

    def _encode(
        self,
        views: torch.Tensor,
        kind: str,
        **asked: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Embeddings `(V, B, D)` and states of the layers for `(B, V, C, H, W)`, all views of one size in one pass."""
        rows = views.transpose(0, 1).flatten(0, 1).to(self.dtype)
        outputs = self.encoder(rows, drop_tokens=self.config.drops_tokens_of(kind), return_dict=True, **asked)
        embeddings = outputs.pooler_output.unflatten(0, (views.shape[1], views.shape[0]))
        return embeddings, {"hidden_states": outputs.hidden_states, "attentions": outputs.attentions}

    @staticmethod
    def _check_views(views: torch.Tensor, batch_size: int) -> None:
        if views.ndim != 5 or 0 in views.shape[:2] or len(views) != batch_size:
            raise ValueError(
                "Views must be (images, views, channels, height, width) with at least one global view and the same "
                f"images for all sizes; got shape {tuple(views.shape)} for a batch of {batch_size}."
            )
        if not views.is_floating_point():
            raise ValueError(
                f"Views must be normalised floats, got {views.dtype}: apply the photometric operations first, "
                "`apply_photometric(batch)` from lejepa_hf.data.photometric."
            )


AutoConfig.register("lejepa", LeJEPAConfig, exist_ok=True)
AutoModel.register(LeJEPAConfig, LeJEPAModel, exist_ok=True)
AutoModelForPreTraining.register(LeJEPAConfig, LeJEPAForPreTraining, exist_ok=True)
