"""What all pictures of a run share: colours, a new figure with its axes, saving it, names as matplotlib draws them."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...system.durable_files import complete_file

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.figure import Figure

# Distinguishable for colour-blind readers.
BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#777777"
# Colour, line and marker: distinguishable without colour, too.
STYLES = (
    (BLUE, "-", "o"),
    (ORANGE, "--", "s"),
    (GRAY, ":", "D"),
    ("#009e73", "-.", "^"),
    ("#cc79a7", "-", "v"),
    ("#e69f00", "--", "P"),
)
_LONGEST_NAME = 30  # characters


def new_subplots(width: float, height: float, *grid: int, **options: Any) -> tuple["Figure", Any]:  # noqa: ANN401
    """
    A figure, its size in inches, and the axes that `Figure.subplots` makes of the other arguments. Not pyplot's, which
    would choose a window system and stay open in a notebook.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(*grid, **options)


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
    return path


def as_colours(pixels: "torch.Tensor") -> "np.ndarray":
    """
    An encoder's input `(channels, height, width)` as a picture `(height, width, 3)`, stretched to [0, 1].
    The mean of the channels is shown unless there are three.
    """
    image = pixels.float() if len(pixels) == 3 else pixels.float().mean(0, keepdim=True).expand(3, -1, -1)
    return stretched(image).movedim(0, -1).numpy()


def stretched(values: "torch.Tensor") -> "torch.Tensor":
    """Values from 0 to 1; zeros if all are equal."""
    values = values - values.min()
    return values / values.max().clamp_min(1e-12)


def legible(name: str, instead: str = "", longest: int = _LONGEST_NAME) -> str:
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


def class_name(label: int, class_names: list[str] | None, longest: int = _LONGEST_NAME) -> str:
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
