"""This package as it is installed: its recipes by name, versions for what it makes, and itself as a wheel."""

import base64
import difflib
import hashlib
import importlib.metadata
import io
import platform
import subprocess
import zipfile
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_CHECKOUT = Path(__file__).parents[3]
# setup.py puts them here in wheels; a checkout and an editable installation have them in recipes/ only.
_IN_WHEELS = Path(__file__).with_name("recipes")
_DISTRIBUTION = "lejepa-hf"
_PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "datasets", "scikit-learn", _DISTRIBUTION)
_METADATA = ("METADATA", "entry_points.txt", "licenses/LICENSE")
_TAG = "Wheel-Version: 1.0\nGenerator: lejepa-hf\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def packaged_recipes() -> dict[str, Path]:
    """
    Files by name, such as `digits/resnet_tiny`. Those under `accelerate/` are not recipes but configuration files for
    `accelerate launch`.
    """
    folder = _IN_WHEELS if _IN_WHEELS.is_dir() else _CHECKOUT / "recipes"
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.glob("*/*.yaml"))}


def packaged_name(recipe: str | Path) -> str:
    """The name that a packaged recipe would have: `digits/resnet_tiny` for `recipes/digits/resnet_tiny.yaml`."""
    return Path(recipe).as_posix().removeprefix("recipes/").removesuffix(".yaml")


def find_packaged(recipe: str | Path) -> Path:
    """
    The file of a recipe by its name, or by its path in a checkout.

    Args:
        recipe (`str` or `Path`): `digits/resnet_tiny` or `recipes/digits/resnet_tiny.yaml`.

    Raises:
        ValueError: If there is none; the message lists the nearest ones.
    """
    known, given, name = packaged_recipes(), Path(recipe), packaged_name(recipe)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
        # Paths if a path was given, otherwise names.
        nearest = ", ".join(f"recipes/{other}.yaml" if given.suffix else other for other in close)
        raise ValueError(f"No recipe {str(given)!r} here or in the package. Nearest there: {nearest}.")
    return known[name]


def installed_versions() -> dict[str, str]:
    """Version by name, of the packages that are installed."""
    installed = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    versions = {package: installed[package] for package in _PACKAGES if package in installed}
    return {"python": platform.python_version(), **versions}


def package_versions() -> dict[str, str]:
    """[`installed_versions`], with `commit` where this package is a git checkout."""
    commit = code_commit()
    return installed_versions() | ({"commit": commit} if commit else {})


def code_commit(checkout: str | Path = _CHECKOUT) -> str | None:
    """
    The commit of a git checkout as `git describe` names it, with `-dirty` for changed files. None where the folder is
    not the root of a checkout, since an installed package may be inside another one.
    """
    if not (Path(checkout) / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=30)
        return found.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def build_wheel() -> tuple[str, bytes]:
    """
    The file name that installers expect and the content of a wheel, packed without network or build tools, whether the
    package is installed from a checkout or from a wheel. Equal files make equal wheels, so that a wheel is uploaded
    again only after a change.
    """
    distribution = importlib.metadata.distribution(_DISTRIBUTION)
    stem = f"lejepa_hf-{distribution.version}"
    information = {name: distribution.read_text(name) for name in _METADATA} | {"WHEEL": _TAG}
    information["METADATA"] = information["METADATA"] or distribution.read_text("PKG-INFO")  # of an unpacked sdist
    paths = (path for path in sorted(_PACKAGE.rglob("*")) if path.is_file() and path.suffix != ".pyc")
    files = {f"lejepa_hf/{path.relative_to(_PACKAGE).as_posix()}": path.read_bytes() for path in paths}
    recipes = packaged_recipes()  # of an installed wheel they are among the files already
    files |= {f"lejepa_hf/system/recipes/{name}.yaml": path.read_bytes() for name, path in recipes.items()}
    files |= {f"{stem}.dist-info/{name}": text.encode() for name, text in information.items() if text is not None}
    record = f"{stem}.dist-info/RECORD"
    files[record] = "".join([*map(_record_line, files, files.values()), f"{record},,\n"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            wheel.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # with a fixed date
    return f"{stem}-py3-none-any.whl", buffer.getvalue()


def _record_line(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"
