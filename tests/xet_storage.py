"""
The storage that the Hub's client sends large files to by default, as its protocol (huggingface.co/docs/xet) describes
it: a xorb holds chunks, a shard says which chunks of which xorbs make a file.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator

_HEADER, _ROW = 48, 48  # bytes of a shard's header, and of everything in its section of files
_VERIFIED, _HAS_METADATA = 1 << 31, 1 << 30
_LZ4_MAGIC = 0x184D2204


def name_of_hash(value: bytes) -> str:
    """As a hash stands in addresses: four numbers of eight bytes."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", value))


def chunks_of(xorb: bytes) -> list[bytes]:
    """
    Raises:
        ValueError: If a chunk has another length than its header says, or a compression that is not known.
    """
    chunks, place = [], 0
    while place + 8 <= len(xorb) and xorb[place] == 0:  # a footer begins with letters
        stored, kind, length = (
            int.from_bytes(xorb[place + 1 : place + 4], "little"),
            xorb[place + 4],
            int.from_bytes(xorb[place + 5 : place + 8], "little"),
        )
        place += 8
        data = xorb[place : place + stored]
        place += stored
        if kind not in (0, 1, 2):
            raise ValueError(f"compression {kind}")
        chunk = data if kind == 0 else _lz4(data)
        if kind == 2:
            chunk = _regrouped(chunk)
        if len(chunk) != length:
            raise ValueError(f"{len(chunk)} bytes instead of {length}")
        chunks.append(chunk)
    return chunks


def files_of(shard: bytes, chunks: Callable[[str], list[bytes]]) -> Iterator[bytes]:
    """
    The content of each file of a shard; `chunks` gives those of a xorb by its name.

    Raises:
        ValueError: If a file has another SHA-256 than the shard says.
    """
    place = _HEADER
    while shard[place : place + 32] != b"\xff" * 32:
        flags, number = struct.unpack_from("<II", shard, place + 32)
        place += _ROW
        content = b""
        for _ in range(number):
            xorb, (length, first, end) = shard[place : place + 32], struct.unpack_from("<III", shard, place + 36)
            part = b"".join(chunks(name_of_hash(xorb))[first:end])
            if len(part) != length:
                raise ValueError(f"{len(part)} bytes instead of {length}")
            content += part
            place += _ROW
        place += _ROW * number * bool(flags & _VERIFIED)
        if flags & _HAS_METADATA:
            # Four numbers, as of other hashes, whose text is the usual one.
            if name_of_hash(shard[place : place + 32]) != hashlib.sha256(content).hexdigest():
                raise ValueError("another SHA-256")
            place += _ROW
        yield content


def _regrouped(data: bytes) -> bytes:
    """Numbers of four bytes, of which first bytes, second bytes, ... stood together."""
    whole, place = bytearray(len(data)), 0
    for first in range(4):
        number = len(range(first, len(data), 4))
        whole[first::4] = data[place : place + number]
        place += number
    return bytes(whole)


def _lz4(frame: bytes) -> bytes:
    magic, flags = struct.unpack_from("<IB", frame)
    assert magic == _LZ4_MAGIC
    place = 7 + 8 * bool(flags & 8)
    found = bytearray()
    while size := int.from_bytes(frame[place : place + 4], "little"):
        place += 4
        length = size & 0x7FFFFFFF
        block = frame[place : place + length]
        if size >> 31:
            found += block
        else:
            _add_block(found, block)
        place += length + 4 * bool(flags & 16)
    return bytes(found)


def _add_block(found: bytearray, block: bytes) -> None:
    """Literal bytes and copies of earlier ones in turn; a length of 15 goes on in the next bytes."""
    place = 0

    def longer(length: int) -> int:
        nonlocal place
        more = 255 if length == 15 else 0
        while more == 255:
            more = block[place]
            place += 1
            length += more
        return length

    while place < len(block):
        token = block[place]
        place += 1
        literals = longer(token >> 4)
        found += block[place : place + literals]
        place += literals
        if place >= len(block):
            return
        back = int.from_bytes(block[place : place + 2], "little")
        place += 2
        length = longer(token & 15) + 4
        start = len(found) - back
        if back >= length:
            found += found[start : start + length]
        else:  # it overlaps what it writes
            for number in range(length):
                found.append(found[start + number])
