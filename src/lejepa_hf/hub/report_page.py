"""What the pages about one run and about several have in common: templates, pictures, and a place to write to."""

import base64
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..system.durable_files import write_text
from ..system.run_folder import PictureName, RunFolder
from .model_card import PICTURES
from .public_files import is_run

_MARK = '<meta name="generator" content="lejepa report">'  # in every page
_TITLE_OF_OLD_PAGES = ": LeJEPA run</title>"
# The last one is on pages only, for whoever made the run.
CAPTIONS: dict[PictureName, str] = {name: caption for name, (caption, _) in PICTURES.items()}
CAPTIONS["confusion"] = "Which classes of held-out images k-NN takes for which"


@dataclass(frozen=True)
class PagePicture:
    """A picture as addresses that contain it, for light pages and, if there is one, for dark pages."""

    light: str
    dark: str | None
    caption: str


def open_run(run: str | Path) -> RunFolder:
    """The folder of a run, finished or not. ValueError for any other."""
    folder = RunFolder(run)
    if not folder.recipe.is_file() or not is_run(folder.path):
        raise ValueError(f"`run` {str(run)!r} is not a run folder: no recipe.yaml there.")
    return folder


def pictures_of(run: RunFolder, *names: PictureName) -> list[PagePicture]:
    """Those pictures of a run that exist, with their usual captions."""
    return [
        PagePicture(_address(run.picture(name)), _address_if_there(run.dark_picture(name)), CAPTIONS[name])
        for name in names
        if run.picture(name).is_file()
    ]


def other_pictures(run: RunFolder) -> list[PagePicture]:
    """Pictures in a run's folder that this package does not draw."""
    own = {run.picture(name) for name in CAPTIONS}
    paths = (path for path in sorted(run.pictures.glob("*.png")) if path not in own)
    return [PagePicture(_address(path), None, path.stem.replace("_", " ")) for path in paths]


def write_page(path: Path, template: str, **context: object) -> Path:
    """Fill one of the package's templates, write it and return its path."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    write_text(path, environment.get_template(template).render(**context))
    return path


def check_out(path: Path) -> None:
    """Refuse to replace a file that is not such a page."""
    if path.is_dir():
        raise ValueError(f"`out` {str(path)!r} is a folder: name a file, such as {str(path / 'report.html')!r}.")
    if path.exists() and not _is_page(path):
        raise ValueError(f"`out` {str(path)!r} exists and is not a report: choose another name with --out.")


def _is_page(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(1000)
    return _MARK in head or _TITLE_OF_OLD_PAGES in head


def _address(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _address_if_there(path: Path) -> str | None:
    return _address(path) if path.is_file() else None
