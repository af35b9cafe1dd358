"""Writes image files of any depth, number of bands and pages, which PIL cannot write."""

import io
import struct
import zlib

import numpy as np

_KINDS = {"u": 1, "i": 2, "f": 3}


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def packed(pixels: np.ndarray, bits: int) -> bytes:
    """Rows of values of fewer than 8 bits, `(H, W)`, each row from a new byte on."""
    each = np.unpackbits(pixels.astype(np.uint8)[..., None], axis=-1)[..., -bits:]
    return np.packbits(each.reshape(len(pixels), -1), axis=-1).tobytes()


def png(pixels: np.ndarray, orientation: int = 1, bits: int = 16) -> bytes:
    """A PNG of 16 bits with `(H, W, bands)`, or of fewer than 8 `bits` with `(H, W)`."""
    if bits < 8:
        rows = np.frombuffer(packed(pixels, bits), np.uint8).reshape(len(pixels), -1)
        return _png(b"".join(b"\0" + row.tobytes() for row in rows), (*pixels.shape, 1), bits, orientation)
    return _png(b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels), pixels.shape, bits, orientation)


def _png(rows: bytes, shape: tuple[int, ...], bits: int, orientation: int) -> bytes:

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, bands = shape
    header = struct.pack(">IIBBBBB", width, height, bits, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    exif = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
    chunks = [(b"IHDR", header), (b"eXIf", exif), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*of_one) for of_one in chunks)


def tiff(
    *pages: np.ndarray,
    planar: bool = False,
    bits: int | None = None,
    tags: dict | None = None,
    preview: np.ndarray | None = None,
) -> bytes:
    """
    An uncompressed TIFF of pages `(H, W)` or `(H, W, bands)`. `tags` (numbers, or ASCII bytes) are added to each
    page, or replace its own; `preview` is a last page that is marked as a smaller copy. With `bits` 12, or fewer than
    8, the values of a page, of even width, are packed.
    """
    data = b"II*\0" + struct.pack("<I", 8)
    own: list[dict] = [tags or {} for _ in pages]
    if preview is not None:
        pages, own = (*pages, preview), [*own, {254: 1}]
    for number, page in enumerate(pages):
        array = page if page.ndim == 3 else page[:, :, None]
        height, width, bands = array.shape
        stored = np.ascontiguousarray(np.moveaxis(array, -1, 0) if planar else array)
        parts = [plane.tobytes() for plane in stored] if planar else [stored.tobytes()]
        if bits == 12:
            pairs = array.reshape(-1, 2).astype(np.uint32)
            both = pairs[:, 0] << 12 | pairs[:, 1]
            parts = [np.stack([both >> 16, both >> 8, both], 1).astype(np.uint8).tobytes()]
        elif bits is not None and bits < 8:
            parts = [packed(page, bits)]
        values = {
            256: [width], 257: [height], 258: [bits or 8 * array.dtype.itemsize] * bands, 259: [1],
            262: [2 if bands in (3, 4) else 1], 273: [0] * len(parts), 277: [bands], 278: [height],
            279: [len(part) for part in parts], 284: [2 if planar else 1], 339: [_KINDS[array.dtype.kind]] * bands,
        }  # fmt: skip
        if extra := bands - (3 if bands in (3, 4) else 1):
            values[338] = [0] * extra
        values |= {tag: [_not_inline(value)] for tag, value in own[number].items()}
        start = len(data) + 2 + 12 * len(values) + 4
        entries, behind = b"", b""
        size_behind = sum(
            len(value[0]) if isinstance(value[0], bytes) else 4 * len(value)
            for value in values.values()
            if isinstance(value[0], bytes) or len(value) > 1
        )
        offset = start + size_behind
        values[273] = []
        for part in parts:
            values[273].append(offset)
            offset += len(part)
        for tag, value in sorted(values.items()):
            if isinstance(value[0], bytes):
                entries += struct.pack("<HHII", tag, 2, len(value[0]), start + len(behind))
                behind += value[0]
            elif len(value) == 1:
                entries += struct.pack("<HHII", tag, 4, 1, value[0])
            else:
                entries += struct.pack("<HHII", tag, 4, len(value), start + len(behind))
                behind += struct.pack(f"<{len(value)}I", *value)
        following = offset if number + 1 < len(pages) else 0
        data += struct.pack("<H", len(values)) + entries + struct.pack("<I", following) + behind + b"".join(parts)
    return data


def _not_inline(value: int | bytes) -> int | bytes:
    """A text too long to stand in place of its offset."""
    return value.ljust(5, b"\0") if isinstance(value, bytes) else value


def fits(array: np.ndarray, **cards: object) -> bytes:
    """A FITS image of `(H, W)` or planes `(C, H, W)`, whose first row is the lowest one."""
    bits = (-8 if array.dtype.kind == "f" else 8) * array.dtype.itemsize
    told = {"SIMPLE": "T", "BITPIX": bits, "NAXIS": array.ndim}
    told |= {f"NAXIS{axis}": size for axis, size in enumerate(reversed(array.shape), 1)} | cards
    header = "".join(f"{name:8}= {value!s:>20}".ljust(80) for name, value in told.items()) + "END".ljust(80)
    data = array.astype(array.dtype.newbyteorder(">")).tobytes()
    return header.ljust(-(-len(header) // 2880) * 2880).encode() + data + bytes(-len(data) % 2880)
