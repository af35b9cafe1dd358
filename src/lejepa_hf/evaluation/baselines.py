"""An encoder beside its averaged weights, the same encoder untrained, and raw pixels: one column of a table each."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ..data.sources import ImageSource
from ..model.architecture import num_channels
from ..model.backbone import as_native_class, build_backbone
from .embeddings.extraction import LabelledEmbeddings, extract_embeddings
from .embeddings.raw_pixels import raw_pixels
from .encoder_loading import LoadedEncoder, load_encoder

ENCODER, AVERAGED = "LeJEPA encoder", "averaged encoder"
UNTRAINED, PIXELS = "same encoder, untrained", "raw pixels"

Embed = Callable[[ImageSource], LabelledEmbeddings]


def table_columns(
    encoder: str | Path, averaged: str | Path | None = None, cache_dir: str | Path | None = None
) -> dict[str, Callable[[], Embed]]:
    """
    The columns of a run's table by name, each with what prepares its embedding of a source: an encoder is loaded when
    its turn comes.

    Args:
        encoder (`str` or `Path`): Folder of an exported encoder.
        averaged (`str` or `Path`, *optional*): Folder of the same encoder with averaged weights.
        cache_dir (`str` or `Path`, *optional*): Folder that keeps the embeddings of encoders, as in
            [`extract_embeddings`].
    """

    def embedding(load: Callable[[str | Path], LoadedEncoder], folder: str | Path) -> Callable[[], Embed]:
        return lambda: partial(extract_embeddings, *load(folder), cache_dir=cache_dir)

    columns = {ENCODER: embedding(load_encoder, encoder)}
    if averaged is not None:
        columns[AVERAGED] = embedding(load_encoder, averaged)
    columns[UNTRAINED] = embedding(load_untrained, encoder)
    columns[PIXELS] = lambda: _pixels(encoder)
    return columns


def load_untrained(encoder: str | Path) -> LoadedEncoder:
    """The network of an encoder, with the random weights with which training began, or others like them."""
    model, processor = load_encoder(encoder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Built and pooled as in training: `AutoModel.from_config` would put a random pooler behind the first token.
        untrained = as_native_class(build_backbone(model.config), model.config.embedding_pooling)
    untrained.to(model.device)  # type: ignore[arg-type]  # transformers' wrapper of `to` hides its signature
    return untrained, processor


def _pixels(encoder: str | Path) -> Embed:
    model, processor = load_encoder(encoder)
    channels, pixel_range = num_channels(model.config), getattr(processor, "pixel_range", None)
    return partial(raw_pixels, channels=channels, pixel_range=pixel_range)
