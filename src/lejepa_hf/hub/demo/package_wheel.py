"""This package as a wheel, packed from the files that are installed here."""

import base64
import hashlib
import importlib.metadata
import io
import zipfile
from pathlib import Path

from ...system.packaged_recipes import packaged_recipes

_PACKAGE = Path(__file__).parents[2]
_DISTRIBUTION = "lejepa-hf"
_METADATA = ("METADATA", "entry_points.txt", "licenses/LICENSE")
_TAG = "Wheel-Version: 1.0\nGenerator: lejepa-hf\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


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
