"""Which files of a run are published, under which names, and without what is private."""

import getpass
import json
import mmap
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import get_token
from transformers.utils import logging

from ..system.run_folder import RunFolder
from .training_data import has_local_images, public_name

logger = logging.get_logger(__name__)

MODEL_FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json", "preprocessor_config.json")
_ENCODER = (*MODEL_FILES, "model.onnx", "model.onnx.data", "README.md")
_RUN = RunFolder("")  # names relative to the folder of a run
_FILES = tuple(path.name for path in (_RUN.recipe, _RUN.versions, _RUN.results, _RUN.statistics, _RUN.metrics))
# Folder of a run -> folder in the repository, and which files of it.
_FOLDERS: dict[Path, tuple[str, tuple[str, ...]]] = {
    _RUN.encoder: ("", _ENCODER),
    _RUN.averaged_encoder: (f"{_RUN.averaged_encoder}/", _ENCODER),
    _RUN.pretraining: (f"{_RUN.pretraining}/", MODEL_FILES),
    _RUN.pictures: (f"{_RUN.pictures}/", ("*.png",)),
    _RUN.path: ("", _FILES),
}
# Keys about the machine, not the run: paths identify user and machine.
_PRIVATE_KEYS = ("output_dir", "run_name", "logging_dir", "hub_", "push_to_hub")
_TEXT = (".json", ".jsonl", ".yaml", ".md")
_HUB_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{8,}")
_SECRET_NAMES = re.compile("TOKEN|SECRET|PASSWORD|API_KEY")
# Pictures of a run that show images.
_OF_IMAGES = (_RUN.picture("pca_maps"), _RUN.picture("neighbours"), _RUN.picture("embeddings"))
_THIS_FOLDER = 'folder = "."  # this folder, or the id of its repository on the Hub\n'  # in the code of a card
_NO_PICTURES = re.compile(r"^## Pictures\n\n(?=## )", re.MULTILINE)
_SECTION_OF_PICTURES = re.compile(r"^## Pictures\n.*?(?=^## )", re.MULTILINE | re.DOTALL)


def public_files(
    folder: str | Path, repo_id: str | None = None, revision: str | None = None, without: Sequence[str] = ()
) -> dict[str, Path | bytes]:
    """
    The files to publish of a run folder, or of an exported encoder with its `pretraining/`, by name in the repository.
    They are chosen from a list: never optimizer state, checkpoints or pickles. Texts come as their content, from which
    paths of this machine, tokens and `_name_or_path` are removed.

    Args:
        folder (`str` or `Path`): The run folder, or the encoder's.
        repo_id (`str`, *optional*): Repository that the code of cards loads the encoder from; their folder if missing.
        revision (`str`, *optional*): Its branch, if it is not the main one.
        without (`list[str]`, *optional*): Names of files to leave out, from [`pictures_of_local_images`].
    """
    folder = Path(folder)
    of_encoder = {_RUN.path: _FOLDERS[_RUN.encoder], _RUN.pretraining: _FOLDERS[_RUN.pretraining]}
    folders = _FOLDERS if is_run(folder) else of_encoder
    local_paths = RunFolder(folder).read_local_paths()
    found: dict[str, Path | bytes] = {}
    for part, (prefix, patterns) in folders.items():
        for path in sorted(path for pattern in patterns for path in (folder / part).glob(pattern)):
            if path.suffix == ".onnx" and _has_stack_traces(path):
                logger.warning(
                    f"{path} names files of this machine and is not pushed: write it with `lejepa export --onnx`."
                )
                continue
            if prefix + path.name not in without:
                is_text = path.suffix in _TEXT
                found[prefix + path.name] = _without_private(path, folder, local_paths) if is_text else path
    for name in [name for name in found if name.endswith("README.md")]:
        card = found[name]
        assert isinstance(card, bytes), "texts come as their content"
        found[name] = _for_place(card.decode(), Path(name).parent, repo_id, revision, without).encode()
    return found


def pictures_of_local_images(run: str | Path) -> list[str]:
    """
    Names in the repository of a run's pictures that show its images, if these are on this machine and not on the Hub,
    or it is not known where they are. None of an encoder folder.
    """
    folder = RunFolder(run)
    if not has_local_images(folder.read_recipe(), folder.read_local_paths()):
        return []
    return [path.as_posix() for path in _OF_IMAGES if (folder.path / path).is_file()]


def _for_place(card: str, part: Path, repo_id: str | None, revision: str | None, without: Sequence[str]) -> str:
    """A card whose code loads the encoder from its repository, and that shows no picture that is left out."""
    for name in without:
        card = re.sub(rf"!\[[^\]]*\]\((\.\./)?{re.escape(name)}\)\n\n", "", card)
    card = _NO_PICTURES.sub("", card)
    if repo_id is None or _THIS_FOLDER not in card:
        return card
    where = {"revision": revision, "subfolder": part.as_posix() if part != Path() else None}
    options = "".join(f', {name}="{value}"' for name, value in where.items() if value is not None)
    card = card.replace(_THIS_FOLDER, f'folder = "{repo_id}"\n')
    return card.replace(".from_pretrained(folder)", f".from_pretrained(folder{options})")


def _has_stack_traces(path: Path) -> bool:
    """PyTorch writes them into ONNX unless they are removed."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b'File "') >= 0


def is_of_this_package(name: str) -> bool:
    """Whether a push may have written a file of this name, so that the next one may delete it."""
    return any(
        Path(name).parent == Path(prefix) and Path(name).match(pattern)
        for prefix, patterns in _FOLDERS.values()
        for pattern in patterns
    )


def is_run(folder: Path) -> bool:
    """Whether this is the folder of a run rather than of an encoder."""
    return not (folder / "config.json").is_file()


def card_for_repository(text: str, has_pictures: bool) -> str:
    """The card of `encoder/` for the root of a repository. Without `pictures/` there, their section is left out."""
    return text.replace("](../pictures/", "](pictures/") if has_pictures else _SECTION_OF_PICTURES.sub("", text)


def public_recipe_text(recipe: dict[str, Any], local_paths: Collection[str] | None = None) -> str:
    """A recipe as YAML, without what identifies user and machine; `local_paths` as in [`public_name`]."""
    public = {key: value for key, value in recipe.items() if not key.startswith(_PRIVATE_KEYS)}
    public = _without_paths("", public, local_paths)
    return yaml.safe_dump(public, sort_keys=False, default_flow_style=None, width=110)


def _without_private(path: Path, run: Path, local_paths: Collection[str] | None) -> bytes:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        # Without the place that weights were read from, usually a folder.
        content = json.loads(text, object_hook=lambda part: {k: part[k] for k in part if k != "_name_or_path"})
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    elif path == RunFolder(run).recipe:
        text = public_recipe_text(yaml.safe_load(text) or {}, local_paths)
    elif path == RunFolder(run).encoder / "README.md":
        text = card_for_repository(text, has_pictures=True)
    elif path == run / "README.md":  # an encoder folder alone
        text = card_for_repository(text, has_pictures=False)
    clean = _hide_secrets(_hide_paths(text, run))
    if clean != text:
        logger.warning(f"{path.name}: paths of this machine and tokens are removed before publishing.")
    return clean.encode()


def _without_paths(key: str, value: Any, local_paths: Collection[str] | None) -> Any:  # noqa: ANN401, any YAML value
    """A recipe's value without paths of this machine and addresses, in lists and in entries of `mixture` too."""
    if isinstance(value, list):
        return [_without_paths(key, item, local_paths) for item in value]
    if isinstance(value, dict):
        return {inner: _without_paths(inner, item, local_paths) for inner, item in value.items()}
    if not isinstance(value, str) or not value:
        return value
    private = value.startswith(("/", "~", "../", "./")) or "://" in value
    if key in ("dataset", "pretrained_backbone", "continue_from"):
        private = private or public_name(value, local_paths) is None
    return "<local>" if private else value


def _hide_paths(text: str, run: Path) -> str:
    places = {run.absolute(), run.resolve(), Path.cwd(), Path.home(), Path.home().resolve(), Path("/home") / _user()}
    longest_first = sorted((str(place) for place in places if len(place.parts) > 1), key=len, reverse=True)
    pattern = re.compile(f"(?<![\\w.-])({'|'.join(map(re.escape, longest_first))})(?![\\w-])[^\\s\"',)\\]}}]*")
    return pattern.sub("<local>", text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return "nobody"


def _hide_secrets(text: str) -> str:
    secrets = {value for name, value in os.environ.items() if _SECRET_NAMES.search(name)} | {get_token() or ""}
    for secret in sorted((secret for secret in secrets if len(secret) >= 8), key=len, reverse=True):
        text = text.replace(secret, "<secret>")
    return _HUB_TOKEN.sub("<secret>", text)
