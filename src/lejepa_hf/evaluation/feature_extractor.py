"""FeatureExtractor: images -> one vector each, from a frozen encoder, with a choice of pooling and layers."""

import json
import zlib
from itertools import islice

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel
from transformers.utils import ModelOutput

from ..data.decoding import DECODING_ERRORS, Encoded, Pixels, decode_image, resized, stored_size
from ..data.pixel_ranges import PixelRange
from ..data.sources import ImageSource
from ..model.architecture import native_image_size, num_channels
from ..model.layers import count_layers, feature_map, forward_layers, has_class_token, patch_tokens, pool
from ..model.tracing import TRACING_ERRORS
from ..system.error_text import reason_of
from .embeddings.image_batches import rows_from
from .pixel_values import check_enlargement, height_and_width, join_pixel_values, to_pixel_values

_PROBE_LAYERS = 2  # of LeJEPA's protocol; DINO's are 4
# Fields of a config that saving and loading change. The dtype is that of the weights.
_NOT_OF_THE_NETWORK = ("_name_or_path", "_commit_hash", "architectures", "dtype", "transformers_version")
_SMALL = 128  # pixels on the longer side
_TRIED = 8  # images, since single ones may be broken
FEATURE_POOLINGS = ("auto", "pooler", "cls", "patches")


class FeatureExtractor:
    """
    A frozen encoder in evaluation mode, and the features to take from it.

    Args:
        encoder (`PreTrainedModel`): Any vision model that `AutoModel` loads.
        processor (`BaseImageProcessor`): Makes pixel values of images; its `pixel_range`, if it has one, gives the
            values of black and white in arrays and 16-bit images.
        pooling (`str`, *optional*, defaults to `"auto"`): `"auto"`, the trained embedding: pooled as
            `config.embedding_pooling` says, and without it the pooled output, or the mean of `last_hidden_state` for
            models without one. `"pooler"`, the pooled output; `"cls"`, the class token; `"patches"`, the mean of the
            patch tokens, without class and register tokens, or of the feature map.
        num_layers (`int`, *optional*, defaults to 1): With `cls` and `patches`, number of last blocks whose features
            are concatenated, deepest last, see [`~model.layers.forward_layers`].
        bf16 (`bool`, *optional*, defaults to `False`): Whether forward passes run under autocast in bfloat16.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        processor: BaseImageProcessor,
        pooling: str = "auto",
        num_layers: int = 1,
        bf16: bool = False,
    ) -> None:
        self.encoder, self.processor = encoder.eval(), processor
        self.pooling, self.num_layers, self.bf16 = pooling, num_layers, bf16
        self._most_layers = count_layers(encoder)

    @property
    def pixel_range(self) -> PixelRange | None:
        """Stored values that are black and white, as the processor says; None for the usual ones."""
        return getattr(self.processor, "pixel_range", None)

    def decode(self, value: Encoded, max_image_pixels: int | None = None) -> Pixels:
        """
        Decode a value of an image column for the encoder's channels, by [`~data.decoding.decode_image`]; one that the
        processor would enlarge to more than `max_image_pixels` is refused in the same way.
        """
        image = decode_image(value, num_channels(self.encoder.config), self.pixel_range, max_image_pixels)
        check_enlargement(image, self.processor, max_image_pixels)
        return image

    def preprocess(self, images: list, **settings: object) -> torch.Tensor:
        """
        Decoded images -> pixel values of shape `(batch_size, num_channels, height, width)`, on the host. `settings`
        are arguments of the processor.
        """
        return to_pixel_values(images, self.processor, num_channels(self.encoder.config), **settings)

    def as_they_are(self, images: list[Pixels]) -> torch.Tensor:
        """[`preprocess`] of images that have their final size: neither resized nor cropped."""
        return self.preprocess(images, do_resize=False, do_center_crop=False)

    def try_as_they_are(self, protocol: str, side: int) -> torch.Tensor:
        """[`as_they_are`] of one grey image; a processor that always resizes or crops is refused."""
        try:
            pixels = self.as_they_are([resized(self.grey_image(), (side, side))])
        except TypeError:  # timm's processor has no such arguments
            pixels = torch.empty(0, 0)
        if pixels.shape[-2:] != (side, side):
            raise ValueError(
                f"`{protocol}`: the {type(self.processor).__name__} of this encoder always resizes or crops, so that "
                "images would not keep their size: save the encoder with a `BitImageProcessor`."
            )
        return pixels

    def pixels(self, value: Encoded, max_image_pixels: int | None = None) -> torch.Tensor:
        """[`decode`] and [`preprocess`] of one image: only one at a time is then in memory at its full size."""
        return self.preprocess([self.decode(value, max_image_pixels)])

    def reduced(self, image: Pixels) -> Pixels | torch.Tensor:
        """
        Pixel values of a large decoded image, so that no batch is in memory at full size. A small one stays as it is:
        many of them are preprocessed faster together.
        """
        width, height = stored_size(image)
        is_small = max(width, height) <= min(_SMALL, 4 * min(width, height))  # thin ones grow when they are resized
        return image if is_small else self.preprocess([image])

    def decode_reduced(self, value: Encoded, max_image_pixels: int | None = None) -> Pixels | torch.Tensor:
        """[`reduced`] of what [`decode`] returns."""
        return self.reduced(self.decode(value, max_image_pixels))

    def batch(self, images: list[Pixels | torch.Tensor]) -> torch.Tensor:
        """Pixel values of several images from [`reduced`], on the host, pinned if the encoder is on a GPU."""
        pixels = {place: image for place, image in enumerate(images) if isinstance(image, torch.Tensor)}
        if small := [place for place in range(len(images)) if place not in pixels]:
            pixels |= zip(small, self.preprocess([images[place] for place in small]).split(1), strict=True)
        joined = join_pixel_values([pixels[place] for place in range(len(images))])
        return joined.pin_memory() if self.encoder.device.type == "cuda" else joined

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixel values -> `(batch_size, dim)`, fp32, on the encoder's device."""
        outputs, states = self._forward(pixels, self.num_layers)
        if self.pooling in ("auto", "pooler"):
            return self.embedding(outputs)
        return self._joined(states, self.pooling, pixels)

    @torch.no_grad()
    def _forward(self, pixels: torch.Tensor, num_layers: int = 1) -> tuple[ModelOutput, list[torch.Tensor]]:
        """[`~model.layers.forward_layers`] on the encoder's device."""
        pixels = pixels.to(self.encoder.device, self.encoder.dtype, non_blocking=True)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.bf16):
            return forward_layers(self.encoder, pixels, num_layers)

    def _forward_available(self, pixels: torch.Tensor, num_layers: int) -> tuple[ModelOutput, list[torch.Tensor]]:
        """[`_forward`] with as many of the last layers as the encoder offers; one if blocks see parts of images."""
        try:
            return self._forward(pixels, min(num_layers, self._most_layers))
        except ValueError:
            if self._most_layers == 1:
                raise
            self._most_layers = 1  # later batches do not try again
            return self._forward(pixels)

    def embedding(self, outputs: ModelOutput) -> torch.Tensor:
        """The embedding `(batch_size, dim)`, fp32, in these outputs of the encoder, with `pooling` auto or pooler."""
        return pool(outputs, self._resolved_pooling(outputs)).float()

    def _joined(self, states: list[torch.Tensor], pooling: str, pixels: torch.Tensor) -> torch.Tensor:
        """The class tokens, or the means of the patches, of several layers."""
        size = height_and_width(pixels)
        parts = [
            state[:, 0] if pooling == "cls" else patch_tokens(self.encoder, state, size).mean(1) for state in states
        ]
        return torch.cat(parts, dim=1).float()

    def with_probe_features(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The trained embedding `(batch_size, dim)`, and the features `(batch_size, probe_dim)` that the paper fits a
        linear probe on, from one forward pass, fp32, on the encoder's device.

        Features are the class tokens of the last two layers, concatenated, or without a class token the mean of the
        patch tokens or of the feature map. Source: arXiv 2511.08544, experiment details.
        """
        outputs, states = self._forward_available(pixels, _PROBE_LAYERS)
        if has_class_token(self.encoder, states[-1], height_and_width(pixels)):
            return self.embedding(outputs), self._joined(states, "cls", pixels)
        return self.embedding(outputs), self._joined(states[-1:], "patches", pixels)

    def last_states(self, pixels: torch.Tensor, num_layers: int) -> list[torch.Tensor]:
        """States of the last layers, see [`~model.layers.forward_layers`]; fewer if the encoder has fewer."""
        return self._forward_available(pixels, num_layers)[1]

    def last_state(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixel values -> the state of the last layer, see [`~model.layers.forward_layers`]."""
        return self._forward(pixels)[1][0]

    def has_class_token(self, state: torch.Tensor, pixels: torch.Tensor) -> bool:
        """Whether the first token of a state of `pixels` is a class token."""
        return has_class_token(self.encoder, state, height_and_width(pixels))

    def patches(self, state: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The tokens of the patches `(batch_size, num_patches, width)` of a state of `pixels`."""
        return patch_tokens(self.encoder, state, height_and_width(pixels))

    def as_maps(self, state: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """
        Tokens of all patches of `pixels`, or a feature map, -> maps `(batch_size, dim, rows, columns)`, fp32, on the
        host, see [`~model.layers.feature_map`].
        """
        return feature_map(self.encoder, state, height_and_width(pixels)).float().cpu()

    def _resolved_pooling(self, outputs: ModelOutput) -> str:
        """The pooling of these outputs of the encoder; of `auto` `"pooler"`, `"cls"` or `"mean"`."""
        if self.pooling != "auto":
            return self.pooling
        usual = "mean" if outputs.get("pooler_output") is None else "pooler"
        return getattr(self.encoder.config, "embedding_pooling", usual)

    def grey_image(self) -> Image.Image | np.ndarray:
        """A decoded image of the encoder's size and channels to try it with."""
        side, channels = native_image_size(self.encoder.config), num_channels(self.encoder.config)
        grey = np.full((side, side, channels), 127, dtype=np.uint8)
        return self.decode(grey[:, :, 0] if channels in (1, 3) else grey)

    def try_pixels(self) -> torch.Tensor:
        """Pixel values of one grey image, of the size that the processor makes of all images."""
        return self.preprocess([self.grey_image()])

    def try_one(self) -> tuple[str, int]:
        """
        Embed one grey image, and return the pooling, `"pooler"`, `"cls"`, `"mean"` or `"patches"`, and the embedding's
        dimension. An encoder that needs more than pixels, or cannot offer this pooling or so many layers, is refused.
        """
        kind = self.encoder.config.model_type
        pixels = self.try_pixels()
        try:
            outputs, (state,) = self._forward(pixels)
        except TRACING_ERRORS as error:
            raise ValueError(
                f"`model`: a {kind} model does not turn the pixels of its processor into embeddings "
                f"({reason_of(error)}): use a vision encoder, or the vision part of a model of images and text."
            ) from error
        has_cls = has_class_token(self.encoder, state, height_and_width(pixels))
        is_pooled = outputs.get("pooler_output") is not None
        offers = {"auto": True, "pooler": is_pooled, "cls": has_cls, "patches": True}
        if not offers.get(self.pooling):
            offered = ", ".join(name for name, is_offered in offers.items() if is_offered)
            raise ValueError(
                f"`pooling` {self.pooling!r} cannot be made from this {kind} encoder: it offers {offered}."
            )
        if self.num_layers != 1 and self.pooling in ("auto", "pooler"):
            raise ValueError(
                f"`layers` {self.num_layers} has no meaning for `pooling` {self.pooling!r}, which exists in the last "
                f"layer only: choose {'cls or patches' if has_cls else 'patches'}."
            )
        return self._resolved_pooling(outputs), self(pixels).shape[1]

    def refusal(self, value: Encoded, max_image_pixels: int | None = None) -> Exception | None:
        """Why a value of an image column cannot be decoded and preprocessed; None if it can."""
        try:
            self.pixels(value, max_image_pixels)
        except DECODING_ERRORS as error:
            return error
        return None

    def try_images(self, *sources: ImageSource) -> None:
        """Check before the long work, as by [`try_one`], and that the encoder takes one of each source's images."""
        self.try_one()
        kind, channels = self.encoder.config.model_type, num_channels(self.encoder.config)
        for source in sources:
            rows = islice(rows_from(source, 0), _TRIED)
            refusals = (self.refusal(row[source.image_column], source.max_image_pixels) for row in rows)
            first = next(refusals, None)
            if first is not None and all(refusals):
                raise ValueError(
                    f"`dataset` {source.name!r}: none of its first images, up to {_TRIED}, can be given to this "
                    f"{kind} encoder of {channels} channels: {first}"
                )

    def fingerprint(self) -> str:
        """Eight hexadecimal digits, a checksum of weights, config and preprocessing."""
        config = {key: value for key, value in self.encoder.config.to_dict().items() if key not in _NOT_OF_THE_NETWORK}
        check = zlib.crc32(self.processor.to_json_string().encode())
        check = zlib.crc32(json.dumps(config, sort_keys=True, default=str).encode(), check)
        for name, tensor in self.encoder.state_dict().items():
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            check = zlib.crc32(content.numpy(), zlib.crc32(name.encode(), check))
        return f"{check:08x}"
