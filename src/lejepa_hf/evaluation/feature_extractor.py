"""FeatureExtractor: images -> one vector each, from a frozen encoder, by a choice of pooling and layers."""

import json
import zlib
from itertools import islice

import numpy as np
import torch

from ..data.decoding import DECODING_ERRORS, decode_image
from ..data.sources import ImageSource
from ..model.architecture import forward_kwargs, native_image_size, num_channels
from ..model.layers import count_layers, forward_layers, has_class_token, patch_tokens
from ..model.pooling import pool
from ..model.tracing import TRACING_ERRORS, reason_of
from .embeddings.image_batches import rows_from
from .pixel_values import to_pixel_values

_PROBE_LAYERS = 2  # of LeJEPA's protocol; DINO's are 4
# Of a config: what saving and loading leave there. The weights tell their dtype.
_NOT_OF_THE_NETWORK = ("_name_or_path", "_commit_hash", "architectures", "dtype", "transformers_version")
_TRIED = 8  # images, for single ones may be broken
FEATURE_POOLINGS = ("auto", "pooler", "cls", "patches")


class FeatureExtractor:
    """
    A frozen encoder, put into evaluation mode, and what is taken from it.

    Args:
        encoder (`PreTrainedModel`): Any vision model that `AutoModel` loads.
        processor (`ImageProcessor`): Makes pixel values from images.
        pooling (`str`, *optional*, defaults to `"auto"`): The trained embedding: what `config.embedding_pooling` says,
            for other models the pooled output, or the mean of `last_hidden_state` where there is none. Or `"pooler"`,
            the pooled output; `"cls"`, the class token; `"patches"`, the mean of the patch tokens without class and
            register tokens, or of the feature map.
        num_layers (`int`, *optional*, defaults to 1): With `cls` and `patches`: so many of the last blocks, joined,
            deepest last, see [`~model.layers.forward_layers`].
        bf16 (`bool`, *optional*, defaults to `False`): Forward passes under autocast.
    """

    def __init__(self, encoder, processor, pooling: str = "auto", num_layers: int = 1, bf16: bool = False) -> None:
        self.encoder, self.processor = encoder.eval(), processor
        self.pooling, self.num_layers, self.bf16 = pooling, num_layers, bf16
        self._probe_layers = min(_PROBE_LAYERS, count_layers(encoder))

    def decode(self, value):
        """What a row of a source holds -> an image with the encoder's channels, by [`~data.decoding.decode_image`]."""
        return decode_image(value, num_channels(self.encoder.config), getattr(self.processor, "pixel_range", None))

    def preprocess(self, images: list) -> torch.Tensor:
        """Decoded images -> pixel values of shape `(batch_size, num_channels, height, width)`, on the host."""
        pixels = to_pixel_values(images, self.processor, num_channels(self.encoder.config))
        return pixels.pin_memory() if self.encoder.device.type == "cuda" else pixels

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixel values -> `(batch_size, dim)`, fp32, on the encoder's device."""
        pixels = pixels.to(self.encoder.device, self.encoder.dtype, non_blocking=True)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.bf16):
            if self.pooling in ("auto", "pooler"):
                outputs = self.encoder(pixels, **forward_kwargs(self.encoder))
                return pool(outputs, self.resolved_pooling(outputs)).float()
            states = forward_layers(self.encoder, pixels, self.num_layers)[1]
            if self.pooling == "cls":
                parts = [state[:, 0] for state in states]
            else:
                parts = [patch_tokens(self.encoder, state, tuple(pixels.shape[-2:])).mean(1) for state in states]
        return torch.cat(parts, dim=1).float()

    @torch.no_grad()
    def with_probe_features(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The trained embedding, and what the paper fits a linear probe on, by one forward pass.

        Args:
            pixels (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): From [`preprocess`].

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: `(batch_size, dim)`, as `pooling="auto"` gives it, and `(batch_size,
            probe_dim)`: the class tokens of the last two layers, joined, or without a class token the mean of the
            patch tokens or of the feature map. fp32, on the encoder's device.

        Source: arXiv 2511.08544, experiment details.
        """
        pixels = pixels.to(self.encoder.device, self.encoder.dtype, non_blocking=True)
        size = tuple(pixels.shape[-2:])
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.bf16):
            try:
                outputs, states = forward_layers(self.encoder, pixels, self._probe_layers)
            except ValueError:  # blocks that see images in pieces have no class token
                self._probe_layers = 1
                outputs, states = forward_layers(self.encoder, pixels, 1)
            embedding = pool(outputs, self.resolved_pooling(outputs)).float()
            if has_class_token(self.encoder, states[-1], size):
                features = torch.cat([state[:, 0] for state in states], dim=1)
            else:
                features = patch_tokens(self.encoder, states[-1], size).mean(1)
        return embedding, features.float()

    def resolved_pooling(self, outputs) -> str:
        """What `auto` stands for with these outputs of the encoder: `"pooler"`, `"cls"` or `"mean"`."""
        if self.pooling != "auto":
            return self.pooling
        pooled = getattr(outputs, "pooler_output", None) is not None
        return getattr(self.encoder.config, "embedding_pooling", "pooler" if pooled else "mean")

    def grey_image(self):
        """An image of the encoder's size and channels, as [`decode`] gives it, to try the encoder with."""
        side, channels = native_image_size(self.encoder.config), num_channels(self.encoder.config)
        grey = np.full((side, side, channels), 127, dtype=np.uint8)
        return self.decode(grey[:, :, 0] if channels in (1, 3) else grey)

    @torch.no_grad()
    def try_one(self) -> tuple[str, int]:
        """
        Embed one grey image.

        Returns:
            `tuple[str, int]`: What the embedding is, `"pooler"`, `"cls"`, `"mean"` or `"patches"`, and its dimension.

        Raises:
            ValueError: If this encoder takes no pixels alone, or does not offer that pooling or so many layers.
        """
        kind = self.encoder.config.model_type
        pixels = self.preprocess([self.grey_image()])
        on_device = pixels.to(self.encoder.device, self.encoder.dtype)
        try:
            outputs, (state,) = forward_layers(self.encoder, on_device, 1)
        except TRACING_ERRORS as error:
            raise ValueError(
                f"`model`: a {kind} model does not turn the pixels of its processor into embeddings "
                f"({reason_of(error)}): take a vision encoder; of a model of images and texts, its vision part."
            ) from error
        size = tuple(pixels.shape[-2:])
        offered = ["auto"]
        offered += ["pooler"] if getattr(outputs, "pooler_output", None) is not None else []
        offered += ["cls"] if has_class_token(self.encoder, state, size) else []
        offered += ["patches"]
        if self.pooling not in offered:
            raise ValueError(
                f"`pooling` {self.pooling!r} cannot be made from this {kind} encoder: it offers {', '.join(offered)}."
            )
        most = count_layers(self.encoder)
        if not 1 <= self.num_layers <= most:
            raise ValueError(f"`layers` must be 1 to {most} for this {kind} encoder, got {self.num_layers}.")
        if self.num_layers > 1 and self.pooling in ("auto", "pooler"):
            joinable = " or ".join(name for name in offered if name in ("cls", "patches"))
            raise ValueError(
                f"`layers` {self.num_layers} has no meaning for `pooling` {self.pooling!r}, which only the last layer "
                f"has: choose {joinable}."
            )
        return self.resolved_pooling(outputs), self(pixels).shape[1]

    def try_images(self, source: ImageSource) -> None:
        """
        Decode some images, until the first one that can be.

        Args:
            source ([`ImageSource`]): Where they are.

        Raises:
            ValueError: If none of the first rows' images suits this encoder.
        """
        found = []
        for row in islice(rows_from(source, 0), _TRIED):
            found.append(self._why_not(row[source.image_column]))
            if found[-1] is None:
                return
        if found:
            raise ValueError(
                f"`dataset` {source.name!r}: none of its first images, up to {_TRIED}, can be given to this "
                f"{self.encoder.config.model_type} encoder of {num_channels(self.encoder.config)} channels: {found[0]}"
            )

    def _why_not(self, value) -> Exception | None:
        try:
            self.preprocess([self.decode(value)])
        except DECODING_ERRORS as error:
            return error
        return None

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that follow from weights, config and preprocessing."""
        config = {key: value for key, value in self.encoder.config.to_dict().items() if key not in _NOT_OF_THE_NETWORK}
        check = zlib.crc32(self.processor.to_json_string().encode())
        check = zlib.crc32(json.dumps(config, sort_keys=True, default=str).encode(), check)
        for name, tensor in self.encoder.state_dict().items():
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            check = zlib.crc32(content.numpy(), zlib.crc32(name.encode(), check))
        return f"{check:08x}"
