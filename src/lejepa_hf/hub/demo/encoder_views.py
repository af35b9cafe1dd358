"""EncoderViews: the pictures of an image that the page shows, without the page."""

import logging
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from ...data.decoding import DECODING_ERRORS
from ...data.image_source import some_rows
from ...data.sources import ImageSource
from ...evaluation.embeddings.embed_images import public_model
from ...evaluation.embeddings.nearest_images import NearestImages
from ...evaluation.evaluate_encoder import load_encoder
from ...evaluation.feature_extractor import FeatureExtractor
from ...evaluation.patch_maps import (
    MOST_ENLARGED,
    PrincipalColours,
    class_attention,
    enlarged_pixels,
    legible_patch_maps,
    patch_maps,
    similarity_to_patch,
)
from ...evaluation.pixel_values import in_own_colours
from ...model.architecture import num_channels
from ..pictures.figure import as_colours, stretched
from .settings import DemoSettings

logger = logging.getLogger("lejepa_hf")

_Image = Image.Image | np.ndarray
_SIDE = 448  # pixels on the longer side of pictures
_THUMBNAIL = 160
_HEAT = 0.6  # opacity of the heat map over the picture
_RING = 7  # radius of a mark, in pixels
_EXAMPLES = 9
_COLOURED_BY = 32  # images of the bank whose patches determine the colours


class View(NamedTuple):
    """
    The pictures of one image: as the encoder sees it; principal components of its patch features as colours; attention
    of the class token, or norms of the patch features; neighbours with captions, the nearest first; and a note on
    sizes and ranges, with a warning if the requested size could not be used.
    """

    seen: Image.Image
    patches: Image.Image
    heat: Image.Image
    neighbours: list[tuple[Image.Image, str]]
    note: str


class EncoderViews:
    """
    An encoder and, if a dataset is given, its embedded images: `bank` is searched for neighbours, `examples` are other
    images with the names of their classes. ValueError if either cannot be loaded, or the encoder has no patches.
    """

    def __init__(self, settings: DemoSettings) -> None:
        # A missing dataset is an error before the encoder is loaded.
        source = settings.open_dataset()
        self.extractor = FeatureExtractor(*load_encoder(settings.encoder))
        pooling, dim = self.extractor.try_one()
        config = self.extractor.encoder.config
        self.channels = num_channels(config)
        self.title = settings.title or public_model(settings.encoder).removesuffix("/encoder")
        parameters = sum(parameter.numel() for parameter in self.extractor.encoder.parameters())
        self.description = f"{config.model_type}, {parameters / 1e6:.2f} million parameters, "
        self.description += f"embeddings of {dim} numbers ({pooling})"
        self.bank: NearestImages | None = None
        self.examples: list[tuple[_Image, str | None]] = []
        grey = self.extractor.grey_image()
        self._most_pixels = enlarged_pixels(self.extractor, [grey], MOST_ENLARGED)[0, 0].numel()
        images = [grey] if source is None else self._fill_bank(settings, source)
        maps, self.enlarge = legible_patch_maps(self.extractor, images)
        # A colour then means the same in all images.
        self._colours = PrincipalColours(maps) if self.bank is not None else None
        self.has_attention = class_attention(self.extractor, images[:1]) is not None

    def _fill_bank(self, settings: DemoSettings, source: ImageSource) -> list[_Image]:
        rows = list(some_rows(source, settings.images + _EXAMPLES))
        if not rows:
            raise ValueError(f"`dataset` {source.name!r} has no images in split {settings.split!r}.")
        num_examples = min(_EXAMPLES, len(rows) // 2)  # they are not in the bank, or each were its own neighbour
        bank = self.bank = NearestImages(self.extractor, source, rows[num_examples:])
        for row in rows[:num_examples]:
            try:
                image = self.extractor.decode(row[source.image_column])
            except DECODING_ERRORS as error:
                logger.warning(f"{source.name}: an example cannot be read and is left out: {error}")
                continue
            self.examples.append((image, bank.label_of(row)))
        return [self.extractor.decode(value) for value in bank.values(_COLOURED_BY)]

    def look(self, image: _Image, enlarge: int) -> View:
        """
        Make the pictures of an image from the extractor's `decode`, with the side of the processor's crop times
        `enlarge`. An encoder that takes only one size gets that size, and the note says so.
        """
        maps, enlarge, note = self._maps(image, enlarge)
        pixels = enlarged_pixels(self.extractor, [image], enlarge)[0]
        colours = (self._colours or PrincipalColours(maps))(maps)[0]
        attention = class_attention(self.extractor, [image], enlarge) if self.has_attention else None
        heat = (maps.norm(dim=1) if attention is None else attention)[0]
        seen = draw_pixels(in_own_colours(pixels, self.extractor.processor))
        rows, columns = heat.shape
        note += f"{pixels.shape[2]} x {pixels.shape[1]} pixels, {columns} x {rows} patches. "
        if attention is None:
            note += f"Lengths of features from {heat.min():.3g} to {heat.max():.3g}."
        else:
            note += f"A patch has {heat.min():.2%} to {heat.max():.2%} of the class token's attention."
        return View(seen, draw_colours(colours), draw_heat(heat, seen), self._neighbours(image), note)

    def similar(self, image: _Image, enlarge: int, x: int, y: int) -> tuple[Image.Image, str] | None:
        """
        Show where an image is similar to one of its places: the cosine similarity of all patch features with that of
        the patch there, over the image, with a mark at the place; and a note on the range. `x` and `y` are pixels from
        the left and from the top of the picture that [`look`] returns as `seen`. None for a place outside of it.
        """
        maps, enlarge, _ = self._maps(image, enlarge)
        pixels = enlarged_pixels(self.extractor, [image], enlarge)[0]
        seen = draw_pixels(in_own_colours(pixels, self.extractor.processor))
        if not (0 <= x < seen.width and 0 <= y < seen.height):
            return None
        rows, columns = maps.shape[2:]
        cosines = similarity_to_patch(maps, y * rows // seen.height, x * columns // seen.width)[0]
        note = f"Cosine similarity with the marked place: {cosines.min():.2f} to {cosines.max():.2f}."
        return mark(draw_heat(cosines, seen), x, y), note

    def _maps(self, image: _Image, enlarge: int) -> tuple[torch.Tensor, int, str]:
        """Patch features, by how much the image was enlarged for them, and why not by more."""
        try:
            self._check_size(image, enlarge)
            return patch_maps(self.extractor, [image], enlarge), enlarge, ""
        except ValueError as error:
            if enlarge == 1:
                raise
            return patch_maps(self.extractor, [image]), 1, f"**Shown at its own size.** {error}\n\n"

    def _check_size(self, image: _Image, enlarge: int) -> None:
        """Refuse more pixels than the most enlarged square image has. Processors that do not crop have no limit."""
        _, _, height, width = enlarged_pixels(self.extractor, [image], enlarge).shape
        if height * width > self._most_pixels:
            raise ValueError(
                f"`enlarge` {enlarge}: {width} x {height} pixels are too many for this page; choose a lower one."
            )

    def _neighbours(self, image: _Image) -> list[tuple[Image.Image, str]]:
        found = self.bank(image) if self.bank is not None else []
        captions = [(f"{one.label} · " if one.label is not None else "") + f"{one.cosine:.3f}" for one in found]
        thumbnails = [draw_thumbnail(self.extractor.decode(one.value)) for one in found]
        return list(zip(thumbnails, captions, strict=True))


def draw_pixels(pixels: torch.Tensor) -> Image.Image:
    """Draw the input of an encoder, `(channels, height, width)`, as [`as_colours`] does."""
    return draw_colours(torch.from_numpy(as_colours(pixels)))


def draw_colours(colours: torch.Tensor) -> Image.Image:
    """Draw `(rows, columns, 3)` in [0, 1] with sharp edges, at least `_SIDE` pixels on the longer side."""
    picture = Image.fromarray((colours.numpy() * 255).round().astype(np.uint8))
    scale = _SIDE / max(picture.size)
    if scale <= 1:
        return picture
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.NEAREST)


def draw_heat(heat: torch.Tensor, picture: Image.Image) -> Image.Image:
    """
    Draw a number for each patch, `(rows, columns)`, in colours from violet to yellow, over the picture in grey.
    Between the middles of the patches, numbers are interpolated.
    """
    from matplotlib import colormaps

    size = (picture.height, picture.width)
    smooth = F.interpolate(stretched(heat)[None, None], size, mode="bicubic", align_corners=False)[0, 0].clamp(0, 1)
    light = Image.fromarray((colormaps["inferno"](smooth.numpy())[..., :3] * 255).round().astype(np.uint8))
    return Image.blend(picture.convert("L").convert("RGB"), light, _HEAT)


def mark(picture: Image.Image, x: int, y: int) -> Image.Image:
    """A picture with a ring around a pixel."""
    marked = picture.copy()
    pen = ImageDraw.Draw(marked)
    for radius, colour in ((_RING + 1, "black"), (_RING, "white")):  # seen on any colour
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=2)
    return marked


def draw_thumbnail(image: _Image) -> Image.Image:
    """Draw a small picture of an image or of an array, whose channels are averaged."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray((stretched(torch.from_numpy(image.mean(-1))).numpy() * 255).astype(np.uint8))
    image = image.convert("RGB")
    scale = _THUMBNAIL / max(image.size)
    # Tiny images keep sharp pixels; photographs are resized smoothly.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize([max(1, round(side * scale)) for side in image.size], method)
