"""What all pictures of a run share: colours, a figure, a file."""

from pathlib import Path

# Told apart by colour-blind eyes.
BLUE, ORANGE, GRAY = "#0072b2", "#d55e00", "#777777"
# Told apart without colour as well.
STYLES = (
    (BLUE, "-", "o"),
    (ORANGE, "--", "s"),
    (GRAY, ":", "D"),
    ("#009e73", "-.", "^"),
    ("#cc79a7", "-", "v"),
    ("#e69f00", "--", "P"),
)


def new_figure(width: float, height: float):
    """A figure of so many inches. Not pyplot's, which would choose a window system and keep it open in a notebook."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure, path: Path) -> Path:
    """Write it, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def as_colours(pixels):
    """
    What an encoder sees, stretched from black to white.

    Args:
        pixels (`torch.Tensor` of shape `(channels, height, width)`): Of other than three channels the mean is shown.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`: In [0, 1].
    """
    image = pixels.float() if len(pixels) == 3 else pixels.float().mean(0, keepdim=True).expand(3, -1, -1)
    image = image - image.min()
    return (image / image.max().clamp_min(1e-12)).movedim(0, -1).numpy()
