"""What all pictures of a run share: colours, a new figure with its axes, saving it, names as matplotlib draws them."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...system.durable_files import complete_file
from ...system.run_folder import PictureName, RunFolder

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from matplotlib.typing import ColorType

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
_PAPER, _DARK_PAPER = "#ffffff", "#14171b"  # the latter is the background of dark pages of this package
# What is drawn on the background, not on an image, by its colour on dark backgrounds.
_IN_THE_DARK = {"#000000": "#e6e9ed", BLUE: "#6bb8e6", ORANGE: "#f0905a", GRAY: "#a3adb8", "#dddddd": "#39424c"}


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


def save_picture(figure: "Figure", run: str | Path, name: PictureName) -> Path:
    """Write a picture of a run as PNG, and once more with a dark background for dark pages. Returns the first path."""
    folder = RunFolder(run)
    path = save_figure(figure, folder.picture(name))
    figure.set_layout_engine("none")  # everything has its place now
    for artist in figure.findobj():
        _darken(artist)
    figure.set_facecolor(_DARK_PAPER)
    save_figure(figure, folder.dark_picture(name))
    return path


def _darken(artist: "Artist") -> None:
    """Exchange the colours of text, lines and frames for those that are legible on a dark background."""
    from matplotlib.colors import to_hex, to_rgba
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    if isinstance(artist, Text):
        artist.set_color(_dark(artist.get_color()))
        if (box := artist.get_bbox_patch()) is not None:
            _darken(box)
    elif isinstance(artist, Line2D):
        artist.set_color(_dark(artist.get_color()))
        artist.set_markeredgecolor(_dark(artist.get_markeredgecolor()))
        if to_hex(artist.get_markerfacecolor()) == _PAPER:
            artist.set_markerfacecolor(_DARK_PAPER)
    elif isinstance(artist, Patch):
        if to_rgba(artist.get_edgecolor())[3] > 0:
            artist.set_edgecolor(_dark(artist.get_edgecolor()))
        if artist.get_fill() and to_hex(artist.get_facecolor()) == _PAPER:
            artist.set_facecolor(to_rgba(_DARK_PAPER, to_rgba(artist.get_facecolor())[3]))


def _dark(colour: "ColorType") -> str:
    from matplotlib.colors import to_hex

    return _IN_THE_DARK.get(to_hex(colour), to_hex(colour))


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
