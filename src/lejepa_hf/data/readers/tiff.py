"""TIFF files, and pages and windows of them, by tifffile: any number of bands, pages and bits."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from ..decoding import check_size, load_upright, open_by_pil
from ..deep_files import BESIDE, full_pages, pil_reads, refuse_hidden_pages
from ..file_values import values_of_image
from ..orientations import ORIENTATION, UPRIGHT
from ..pixel_arrays import wrong_channels
from ..pixel_ranges import PixelRange, range_of_channels
from ..stored_numbers import GDAL_NO_DATA, Told, number_of, told_of
from .addresses import Part
from .library import library_for
from .reader import Check, Cut, Reader, Values

FORMAT, PACKAGES = "TIFF", "tifffile imagecodecs"
_COLOURS = (0, 1, 2)  # values of the tag of the colour space that are grey or RGB; with 0, low values are white
_PALETTE = 3  # the same tag: values are numbers of colours
_YCBCR, _JPEG = 6, 7  # the colours of JPEG tiles, which tifffile turns into RGB; a compression
_PLANES = 2  # a configuration: band after band
_ALL_BANDS = 0  # in place of a number of channels


class Window(NamedTuple):
    """A part of an image, in pixels from its upper left corner as stored."""

    left: int
    top: int
    width: int
    height: int


def read_tiff(
    value: str | Path | bytes,
    num_channels: int,
    pixel_range: PixelRange | None,
    check: Check,
    page: int | None = None,
    window: Window | None = None,
) -> np.ndarray:
    """
    Read an image, one page of it or a window, uint8 `(H, W)` or `(H, W, channels)`, upright. `check` is called with
    width and height before the pixels are read. Of a window only the tiles and strips that it touches are read, and
    smaller copies of a slide are not pages.
    """
    with library_for(FORMAT, PACKAGES, misread=True), _opened(value) as file:
        pages = _pages(file, page, check, window)
        number = sum(map(_num_bands, pages))
        if number != num_channels and (num_channels not in (1, 3) or len(pages) > 1):
            raise wrong_channels(number, num_channels, len(pages))
        bands: list[np.ndarray] = []
        for page_of_bands in pages:
            first = sum(band.shape[-1] for band in bands)
            of_page = range_of_channels(pixel_range, first, _num_bands(page_of_bands))
            bands.append(_stored_bands(page_of_bands, window, check).to_eight_bit(of_page))
        if num_channels in (1, 3) and len(pages) == 1:
            bands = [bands[0][:, :, : _kept(pages[0], bands[0].shape[-1], num_channels)]]
        return _upright(bands, pages[0])


def tiff_values(
    value: str | Path | bytes, num_channels: int, check: Check, page: int | None = None, window: Window | None = None
) -> Values:
    """
    As [`read_tiff`], but the values that are in the file. Of any number of channels if `num_channels` is 0; else those
    of the first page alone if all together have another number.
    """
    with library_for(FORMAT, PACKAGES, misread=True), _opened(value) as file:
        pages = _pages(file, page, check, window)
        if num_channels and sum(map(_num_bands, pages)) != num_channels:
            pages = pages[:1]
        bands = [_stored_bands(page_of_bands, window, check) for page_of_bands in pages]
        array = _upright([one.values for one in bands], pages[0])
        missing = _upright([one.missing for one in bands], pages[0])
        if num_channels in (1, 3) and len(pages) == 1 and _is_rgb(pages[0]):
            array, missing = array[..., :3], missing[..., :3]
        return Values(array, bands[0].told.file_range, missing if missing.any() else None)


def _upright(bands: list[np.ndarray], page: Any) -> np.ndarray:  # noqa: ANN401, a page of tifffile
    """All bands, turned as the tag of the first page says; `(H, W)` if there is one."""
    upright = UPRIGHT.get(page.tags.valueof(ORIENTATION, 1), np.asarray)(np.concatenate(bands, axis=-1))
    return np.ascontiguousarray(upright[:, :, 0] if upright.shape[-1] == 1 else upright)


@contextmanager
def _opened(value: str | Path | bytes) -> Iterator[Any]:
    from tifffile import TiffFile

    with TiffFile(io.BytesIO(value) if isinstance(value, bytes) else str(value)) as file:
        yield file


def _pages(file: Any, page: int | None, check: Check, window: Window | None) -> list[Any]:  # noqa: ANN401
    """The pages that are the channels of an image."""
    pages = [page for number, page in enumerate(file.pages) if not number or not page.subfiletype & BESIDE]
    if page is not None:
        if page >= len(file.pages):
            raise ValueError(f"The file is not a TIFF with a page {page}.")
        pages = [file.pages[page]]
    refuse_hidden_pages(file.pages[0].description, len(file.pages))
    sizes = {(page.imagewidth, page.imagelength) for page in pages}
    if window is not None:
        check(window.width, window.height)
        return [
            page
            for page in pages
            if (page.imagewidth, page.imagelength) == (pages[0].imagewidth, pages[0].imagelength)
        ]
    if len(sizes) > 1:
        raise ValueError(f"The pages of the TIFF have different sizes: {sorted(sizes)} pixels.")
    check(*sizes.pop())
    return pages


def _num_bands(page: Any) -> int:  # noqa: ANN401
    """Number of bands of a page, those of its colours if it has a palette."""
    return 3 if page.photometric == _PALETTE else page.samplesperpixel


def _kept(page: Any, number: int, num_channels: int) -> int:  # noqa: ANN401
    """How many bands of a page are grey or colours, with their transparency."""
    kept = min(number, 3) if _is_rgb(page) else number  # the others are beside the colours
    if kept > 4:
        raise wrong_channels(kept, num_channels)
    if not _is_rgb(page) and page.photometric not in _COLOURS:
        raise ValueError(
            f"The TIFF has other colours than RGB, such as CMYK (its tag 262 is {int(page.photometric)}), which are "
            "read of whole images of 8 bits only: save it as RGB."
        )
    return kept


def _is_rgb(page: Any) -> bool:  # noqa: ANN401
    is_jpeg = page.photometric == _YCBCR and page.compression == _JPEG
    return page.photometric in (_COLOURS[-1], _PALETTE) or is_jpeg


class _Bands(NamedTuple):
    """The bands of a page, `(H, W, bands)`, what it says of them, and which of them are transparency."""

    values: np.ndarray
    told: Told
    transparency: list[int]

    @property
    def missing(self) -> np.ndarray:
        """Where there is no value, or transparency."""
        found = np.zeros(self.values.shape, bool) if self.told.no_data is None else self.values == self.told.no_data
        found[:, :, self.transparency] = True
        return found

    def to_eight_bit(self, pixel_range: PixelRange | None) -> np.ndarray:
        """Scale to uint8; transparency keeps the whole range of its type."""
        scaled, whole = self.told.to_eight_bit(self.values, pixel_range), self.told._replace(no_data=None)
        for band in self.transparency:
            scaled[:, :, band] = whole._replace(is_inverted=False).to_eight_bit(self.values[:, :, band], None)
        return scaled


def _stored_bands(page: Any, window: Window | None, check: Check) -> _Bands:  # noqa: ANN401
    values = _whole(page) if window is None else _part(page, window, check)
    if page.photometric == _PALETTE:
        return _Bands(_colours(page, values), Told(np.dtype(np.uint8)), [])
    no_data = number_of(page.tags.valueof(GDAL_NO_DATA))
    told = told_of(page.bitspersample, page.sampleformat, page.photometric, no_data)
    first = values.shape[-1] - len(page.extrasamples)
    return _Bands(values, told, [first + place for place, kind in enumerate(page.extrasamples) if kind in (1, 2)])


def _colours(page: Any, values: np.ndarray) -> np.ndarray:  # noqa: ANN401
    """The colours of a palette, of which the upper 8 bits are used, for `(H, W, 1)` numbers of them."""
    return np.moveaxis(page.colormap[:, values[:, :, 0]] >> 8, 0, -1).astype(np.uint8)


def _whole(page: Any) -> np.ndarray:  # noqa: ANN401
    axes = page.axes if page.samplesperpixel > 1 else page.axes.replace("S", "")
    if axes not in ("YX", "YXS", "SYX"):
        raise ValueError(f"A page of the TIFF has the axes {page.axes}: save it as .npy.")
    values = page.asarray()
    values = np.moveaxis(values, 0, -1) if axes == "SYX" else values
    return values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)  # as the header promised


def _part(page: Any, window: Window, check: Check) -> np.ndarray:  # noqa: ANN401
    """A window of a page, `(height, width, bands)`, from the tiles or strips that it touches."""
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    rows = min(rows, page.imagelength)
    down, across = -(-page.imagelength // rows), -(-page.imagewidth // columns)
    planes = page.samplesperpixel if page.planarconfig == _PLANES else 1
    left, top, width, height = window
    if left + width > page.imagewidth or top + height > page.imagelength:
        raise ValueError(f"The window {tuple(window)} is not within {page.imagewidth} x {page.imagelength} pixels.")
    check(columns, rows)  # one of them is decoded as a whole
    found = np.full((height, width, page.samplesperpixel), page.nodata or 0, page.dtype)
    in_view = (
        range(top // rows, (top + height - 1) // rows + 1),
        range(left // columns, (left + width - 1) // columns + 1),
    )
    for plane, row, column in product(range(planes), *in_view):
        segment = _segment(page, (plane * down + row) * across + column)
        if segment is None:  # a tile that was never written
            continue
        y, x = row * rows - top, column * columns - left  # of the segment within the window
        inner = segment[max(0, -y) : height - y, max(0, -x) : width - x]
        bands = slice(plane, plane + 1) if planes > 1 else slice(None)
        y, x = max(0, y), max(0, x)
        found[y : y + inner.shape[0], x : x + inner.shape[1], bands] = inner
    return found


def _segment(page: Any, index: int) -> np.ndarray | None:  # noqa: ANN401
    """A tile or strip, `(H, W, bands)`."""
    file, size = page.parent.filehandle, page.databytecounts[index]
    if not size:
        return None
    file.seek(page.dataoffsets[index])
    content = file.read(size)  # before `decode` is asked for, which reads the file when it is made
    segment, _, shape = page.decode(content, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
    return None if segment is None else segment.reshape(segment.shape[-3:])[: shape[1], : shape[2]]


def stored_size_of(file: str) -> tuple[int, int]:
    """Width and height of the first page."""
    with library_for(FORMAT, PACKAGES), _opened(file) as opened:
        return opened.pages[0].imagewidth, opened.pages[0].imagelength


class TiffPage(Reader):
    """Reads a page of a TIFF as an image of its own, by PIL where PIL reads it well."""

    format = FORMAT
    packages = PACKAGES

    def parts(self, file: str, cut: Cut) -> list[Part | None]:  # noqa: ARG002
        """A part for each page, if there are several; not the previews and masks."""
        numbers = _page_numbers(file)
        return [Part("page", (number,)) for number in numbers] if len(numbers) > 1 else [None]

    def read(
        self,
        file: str | bytes,
        part: Part | None,
        num_channels: int,
        pixel_range: PixelRange | None,
        max_image_pixels: int | None,
    ) -> np.ndarray:
        """The page with 8 bits a channel."""
        number, check = _number_of(part), partial(check_size, max_image_pixels=max_image_pixels)
        image = _page_by_pil(file, number, max_image_pixels)
        if image is not None and pil_reads(image, num_channels, pixel_range is not None):
            return np.asarray(load_upright(image, 1, num_channels, pixel_range, number))
        return read_tiff(file, num_channels, pixel_range, check, number)

    def values(self, file: str | bytes, part: Part | None, max_image_pixels: int | None) -> Values:
        """The values of all bands of the page."""
        number, check = _number_of(part), partial(check_size, max_image_pixels=max_image_pixels)
        image = _page_by_pil(file, number, max_image_pixels)
        if image is not None and pil_reads(image, _ALL_BANDS, True):
            return values_of_image(image, _ALL_BANDS, number)
        return tiff_values(file, _ALL_BANDS, check, number)


def _page_numbers(file: str) -> list[int]:
    """Pages that are neither previews nor masks."""
    opened = open_by_pil(file, 2**62)
    with suppress(SyntaxError):  # PIL does not know the type of a page: floats of 16 bits, integers of 64
        if opened is not None:
            return full_pages(opened, have_one_size=False)
    with library_for(FORMAT, PACKAGES), _opened(file) as tiff:
        refuse_hidden_pages(tiff.pages[0].description, len(tiff.pages))
        return [number for number, page in enumerate(tiff.pages) if not number or not page.subfiletype & BESIDE]


def _number_of(part: Part | None) -> int:
    return 0 if part is None else part.numbers[0]


def _page_by_pil(file: str | bytes, number: int, max_image_pixels: int | None) -> TiffImageFile | None:
    """A page that PIL knows the type of, None for others; ValueError if there is no such page."""
    image = open_by_pil(file, max_image_pixels)
    if image is None:
        return None
    try:
        if not isinstance(image, TiffImageFile) or number >= image.n_frames:
            raise ValueError(f"The file is not a TIFF with a page {number}.")
        image.seek(number)
    except SyntaxError:  # it, or another one, has a type that PIL does not know
        return None
    check_size(*image.size, max_image_pixels)
    return image
