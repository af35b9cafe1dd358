"""HEIC photographs of phones, which PIL opens as soon as pillow-heif is registered."""

from .library import library_for

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def is_heif(content: bytes) -> bool:
    """Whether the beginning of a file is that of a HEIC or HEIF file."""
    return content[4:8] == b"ftyp" and content[8:12] in _BRANDS


def register_heif() -> None:
    """Let PIL open HEIC files in this process. ValueError without pillow-heif."""
    with library_for("HEIC photograph", "pillow-heif"):
        from pillow_heif import register_heif_opener

        register_heif_opener()
