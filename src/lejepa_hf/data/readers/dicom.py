"""DICOM files: stored values are rescaled, and shown by the window of the file."""

import io
from typing import Any

import numpy as np

from ..decoding import check_size
from .addresses import Part
from .library import library_for
from .reader import Cut, Reader, Values

_DECODERS = "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
_BYTE = 8
_MOST_SHORT = 16  # bits whose values 32-bit floats hold exactly


class Dicom(Reader):
    """
    Reads DICOM, one image for each frame. Values are in rescaled units, Hounsfield units for a CT. White and black
    are the ends of the first window; without one, those of a VOI LUT or of the stored bits. MONOCHROME1 is inverted,
    and padding is black. Source: DICOM PS3.3, C.7.6.3, C.11.1 and C.11.2.
    """

    format = "DICOM file"
    packages = "pydicom"

    def parts(self, file: str, cut: Cut) -> list[Part | None]:
        """A part for each frame, if there are several."""
        with library_for(self.format, self.packages):
            number = int(_header(file, ["NumberOfFrames"]).get("NumberOfFrames") or 1)
        return [Part("frame", (frame,)) for frame in range(number)] if number > 1 else [None]

    def size(self, file: str, part: Part | None) -> tuple[int, int]:  # noqa: ARG002
        """Width and height by the header."""
        with library_for(self.format, self.packages):
            header = _header(file, ["Columns", "Rows"])
            return header.Columns, header.Rows

    def values(self, file: str | bytes, part: Part | None, max_image_pixels: int | None) -> Values:
        """Rescaled values, or colours as RGB."""
        with library_for(self.format, self.packages):
            source = io.BytesIO(file) if isinstance(file, bytes) else file
            header = _header(source)
            if "Rows" not in header or "PhotometricInterpretation" not in header:
                held = f" but {header.SOPClassUID.name}" if header.get("SOPClassUID") else ""
                raise ValueError(f"The DICOM file has no image{held}: leave it out.")
            number = int(header.get("NumberOfFrames") or 1)
            if part is not None and part.name != "frame":
                raise ValueError(f"A DICOM file has frames, not a {part.name}.")
            if number > 1 and part is None:
                way_out = "in a folder, each of them is an image if the file ends with .dcm"
                raise ValueError(f"The DICOM file has {number} frames, of which none is named: {way_out}.")
            check_size(header.Columns, header.Rows, max_image_pixels)
            frame = 0 if part is None else part.numbers[0]
            pixels = _pixels(source, header, frame)
            if header.PhotometricInterpretation == "PALETTE COLOR":
                from pydicom.pixels import apply_color_lut

                return Values(apply_color_lut(pixels, header))
            if pixels.ndim == 3:
                return Values(pixels, None if pixels.itemsize == 1 else [0.0, 2.0**header.BitsStored - 1])
            return _grey(pixels, header, frame)


def _header(source: str | io.BytesIO, names: list[str] | None = None) -> Any:  # noqa: ANN401, a pydicom dataset
    """All attributes but the pixels, or those with these names."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return dcmread(source, stop_before_pixels=True, specific_tags=names)
    except InvalidDicomError as error:
        way_out = "write it again with `pydicom.dcmread(path, force=True)` and `save_as`, or leave it out"
        raise ValueError(f"The file does not begin as DICOM files do, with DICM at byte 128: {way_out}.") from error


def _pixels(source: str | io.BytesIO, header: Any, frame: int) -> np.ndarray:  # noqa: ANN401
    """Stored values of one frame, colours as RGB. Others than this frame are not decoded."""
    from pydicom.pixels import get_decoder, pixel_array

    syntax = header.file_meta.TransferSyntaxUID
    way_out = f"`pip install {_DECODERS}`, or write the files without compression (`gdcmconv --raw` or `dcmdjpeg`)"
    if syntax.is_compressed and not syntax.is_deflated and not get_decoder(syntax).is_available:
        raise ValueError(
            f"The pixels are compressed as {syntax.name}, for which pydicom has no decoder here: {way_out}."
        )
    if isinstance(source, io.BytesIO):
        source.seek(0)
    try:
        return pixel_array(source, index=frame)
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"pydicom cannot decode pixels compressed as {syntax.name}: {reason} Try {way_out}."
        ) from error


def _grey(pixels: np.ndarray, header: Any, frame: int) -> Values:  # noqa: ANN401
    bits, is_signed = header.BitsStored, header.PixelRepresentation == 1
    is_inverted = header.PhotometricInterpretation == "MONOCHROME1"
    missing = _padding(pixels, header)
    slope = float(_setting(header, frame, "PixelValueTransformationSequence", "RescaleSlope") or 1)
    intercept = float(_setting(header, frame, "PixelValueTransformationSequence", "RescaleIntercept") or 0)
    window = None if pixels.dtype.kind == "f" and "FloatPixelData" in header else _window(header, frame)
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if is_signed else (0.0, 2.0**bits - 1)
    if header.get("ModalityLUTSequence"):
        array, high = _looked_up(pixels, header.ModalityLUTSequence[0], header)
        low = 0.0
    elif (slope, intercept) == (1, 0) and window is None and pixels.dtype == np.uint8 and bits == _BYTE:
        array = pixels  # like any other file of 8 bits
    else:
        array = pixels.astype(np.float32 if bits <= _MOST_SHORT else np.float64) * slope + intercept
        low, high = sorted((low * slope + intercept, high * slope + intercept))
    if window is not None and window[2] == "SIGMOID":
        with np.errstate(over="ignore"):
            shown = 1 / (1 + np.exp(-4 * (array.astype(np.float64) - window[0]) / window[1]))
        return Values(array, [low, high], missing, is_inverted, shown=shown)
    if window is not None:
        return Values(array, _ends(*window), missing, is_inverted)
    if header.get("VOILUTSequence"):
        shown, white = _looked_up(array, header.VOILUTSequence[0], header)
        return Values(array, [low, high], missing, is_inverted, shown=shown / white)
    is_plain = array.dtype == np.uint8 or pixels.dtype.kind == "f"
    return Values(array, None if is_plain else [low, high], missing, is_inverted)


def _looked_up(values: np.ndarray, table: Any, header: Any) -> tuple[np.ndarray, float]:  # noqa: ANN401
    """What a table makes of values, and its largest one. pydicom 3.0 misreads tables of more than 256 bytes."""
    number, first, bits = table.LUTDescriptor
    number, stored = number or 2**16, table.LUTData
    if isinstance(stored, bytes):
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        stored = np.frombuffer(stored, np.uint8 if len(stored) < 2 * number else f"{order}u2")
    places = (values.round().astype(np.int64) - first).clip(0, number - 1)
    return np.asarray(stored)[places].astype(np.float32), 2.0**bits - 1


def _setting(header: Any, frame: int, sequence: str, name: str) -> Any:  # noqa: ANN401
    """An attribute of a frame: its own, else that of all frames, else that of a file with one frame."""
    for groups, number in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        if (found := header.get(groups)) and number < len(found) and found[number].get(sequence):
            value = found[number].get(sequence)[0].get(name)
            if value is not None:
                return value
    return header.get(name)


def _window(header: Any, frame: int) -> tuple[float, float, str] | None:  # noqa: ANN401
    """Centre, width and function of the first window."""
    centre, width = (_setting(header, frame, "FrameVOILUTSequence", f"Window{name}") for name in ("Center", "Width"))
    numbers = [value[0] if hasattr(value, "__len__") and value else value for value in (centre, width)]
    if any(number is None or hasattr(number, "__len__") for number in numbers) or float(numbers[1]) <= 0:
        return None
    function = _setting(header, frame, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR"
    return float(numbers[0]), float(numbers[1]), str(function)


def _ends(centre: float, width: float, function: str) -> list[float]:
    """The values of black and white of a linear window."""
    if function == "LINEAR" and width > 1:
        centre, width = centre - 0.5, width - 1
    return [centre - width / 2, centre + width / 2]


def _padding(pixels: np.ndarray, header: Any) -> np.ndarray | None:  # noqa: ANN401
    """Where there is no image, as the header says."""
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = header.get("PixelPaddingRangeLimit", value)
    return (pixels >= min(value, limit)) & (pixels <= max(value, limit))
