"""The recipes that come with this package, found by name wherever it is installed."""

import difflib
from pathlib import Path

# setup.py puts them here in wheels; a checkout and an editable installation have them in recipes/ only.
_IN_WHEELS = Path(__file__).with_name("recipes")
_IN_CHECKOUTS = Path(__file__).parents[3] / "recipes"


def packaged_recipes() -> dict[str, Path]:
    """
    Files by name, such as `digits/resnet_tiny`. Those under `accelerate/` are not recipes but configuration files for
    `accelerate launch`.
    """
    folder = _IN_WHEELS if _IN_WHEELS.is_dir() else _IN_CHECKOUTS
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.glob("*/*.yaml"))}


def find_packaged(recipe: str | Path) -> Path:
    """
    The file of a recipe by its name, or by its path in a checkout.

    Args:
        recipe (`str` or `Path`): `digits/resnet_tiny` or `recipes/digits/resnet_tiny.yaml`.

    Raises:
        ValueError: If there is none; the message lists the nearest ones.
    """
    known, given = packaged_recipes(), Path(recipe)
    name = given.as_posix().removeprefix("recipes/").removesuffix(".yaml")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
        # Paths if a path was given, otherwise names.
        nearest = ", ".join(f"recipes/{other}.yaml" if given.suffix else other for other in close)
        raise ValueError(f"No recipe {str(given)!r} here or in the package. Nearest there: {nearest}.")
    return known[name]
