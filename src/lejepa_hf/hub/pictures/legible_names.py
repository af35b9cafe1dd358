"""Names of classes and runs, which may hold anything, as text that matplotlib draws."""

from functools import cache

_LONGEST = 30


def legible(name: str, instead: str = "", longest: int = _LONGEST) -> str:
    """
    A name on one line, shortened to `longest` characters.

    Characters that the font does not have, such as Chinese ones, emoji and control characters, are left out. Then
    `instead`, a class number for example, stands before the rest, so that names stay different.
    """
    line = " ".join(name.split())
    shown = "".join(character for character in line if ord(character) in _characters()).strip()
    if shown != line or not shown:
        shown = f"{instead} {shown}".strip()
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    # matplotlib leaves labels with an underscore in front out of legends.
    return plain_text(f"\N{ZERO WIDTH SPACE}{shown}" if shown.startswith("_") else shown)


def class_name(label: int, class_names: list[str] | None, longest: int = _LONGEST) -> str:
    """The name of a class as [`legible`] text, its number if it has no name."""
    if class_names and 0 <= label < len(class_names):
        return legible(class_names[label], str(label), longest)
    return str(label)


def plain_text(text: str) -> str:
    """Text that matplotlib does not read as mathematics, which it finds between two dollars."""
    return text.replace("$", r"\$")


@cache
def _characters() -> frozenset[int]:
    """Code points that the pictures' font can draw."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())
