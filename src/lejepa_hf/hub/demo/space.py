"""The page -> a Space of the Hub: its settings, and this package as it is installed here."""

import importlib.metadata
import os
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi, SpaceCardData
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from transformers import AutoConfig

from ...data.sources import DIGITS
from ...evaluation.embeddings.embed_images import public_model
from ...evaluation.encoder_loading import find_encoder, load_encoder
from ...model.architecture import is_timm
from ..public_files import public_files
from ..push import ConnectionTrouble, Target
from .settings import DemoSettings, is_on_hub

_PACKAGE = Path(__file__).parents[2]
_SETTINGS = "demo.json"
_APP = f'''"""A page to look at an encoder: what `lejepa demo` shows, with the settings in {_SETTINGS}."""

import logging
from pathlib import Path

from lejepa_hf.hub.demo.page import serve
from lejepa_hf.hub.demo.settings import DemoSettings

logging.basicConfig(format="%(message)s")
logging.getLogger("lejepa_hf").setLevel(logging.INFO)
serve(DemoSettings.read(Path(__file__).with_name("{_SETTINGS}")))
'''
_README = """---
{card}
---

# {title}

What a vision encoder makes of an image: principal components of its patch features, where it looks, and the images it
finds most similar. The encoder is {encoder}{dataset}.

Made by `lejepa demo --push`. `lejepa_hf/` is the package lejepa-hf {version} of
[Apache License 2.0](https://www.apache.org/licenses/LICENSE-2.0).
"""


def push_space(settings: DemoSettings, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """
    Publish a page as a Space. An encoder of this machine goes with it, into `encoder/`; one of the Hub is named.

    Args:
        settings ([`DemoSettings`]): What the page shows.
        repo_id (`str`): `user/name`; made if missing, brought up to date if not.
        private (`bool`, *optional*): Whether others must not see it. If missing, the account's default.
        token (`str`, *optional*): If missing, that of `HF_TOKEN` or `hf auth login`.

    Returns:
        `str`: Address of the Space.

    Raises:
        ValueError: If a Space could not show it: a dataset of this machine, an encoder that others may not read. Or if
            the id, the token or its rights do not do. Nothing was sent then.
        OSError: If the Hub cannot be reached, or not long enough.
    """
    if settings.dataset not in (None, DIGITS) and not is_on_hub(settings.dataset):
        raise ValueError(
            f"`dataset` {settings.dataset!r} is not where a Space could read it: push it to the Hub (`hf upload "
            "USER/NAME FOLDER --repo-type dataset`) and give its id, or take 'digits', or none."
        )
    target = Target(repo_id, private, token=token, is_space=True)
    files = space_files(settings)
    target.commit(files, target.prepare(), _is_of_a_push, "Demo of an encoder")
    return target.url


def space_files(settings: DemoSettings) -> dict[str, Path | bytes]:
    """
    What a Space needs, which has the packages of `requirements.txt` and not this one.

    Args:
        settings ([`DemoSettings`]): With an encoder and a dataset that can be read here.

    Returns:
        `dict[str, Path | bytes]`: Name in the repository -> file or content.

    Raises:
        ValueError: If encoder or dataset cannot be read, or one of the Hub not by everybody.
    """
    settings.open_dataset()
    if settings.dataset not in (None, DIGITS):
        _check_public(settings.dataset, "dataset")
    files: dict[str, Path | bytes] = {}
    encoder = find_encoder(settings.encoder)
    on_hub = not os.path.isdir(encoder)
    if on_hub:
        _check_public(settings.encoder, "model")
        config = AutoConfig.from_pretrained(settings.encoder)
    else:
        config = load_encoder(encoder)[0].config
        of_encoder = public_files(encoder)
        files = {f"encoder/{name}": file for name, file in of_encoder.items() if not name.endswith(".md")}
    title = settings.title or public_model(settings.encoder).removesuffix("/encoder")
    shown = replace(settings, encoder=settings.encoder if on_hub else "encoder", title=title)
    files |= {
        "app.py": _APP.encode(),
        _SETTINGS: shown.to_json().encode(),
        "requirements.txt": _requirements(is_timm(config)).encode(),
        "README.md": _readme(shown, on_hub).encode(),
    }
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in (".py", ".md"):
            files[f"lejepa_hf/{path.relative_to(_PACKAGE).as_posix()}"] = path
    return files


def _requirements(needs_timm: bool) -> str:
    """Those of this package; Gradio is the Space's own affair, in the version that README.md names."""
    needed = [line for line in importlib.metadata.requires("lejepa-hf") or [] if "extra ==" not in line]
    return "\n".join([*needed, *(["timm"] if needs_timm else [])]) + "\n"


def _readme(settings: DemoSettings, on_hub: bool) -> str:
    dataset = settings.dataset if settings.dataset not in (None, DIGITS) else None
    card = SpaceCardData(
        title=settings.title,
        sdk="gradio",
        sdk_version=importlib.metadata.version("gradio"),
        python_version="3.12",
        app_file="app.py",
        models=[settings.encoder] if on_hub else None,
        datasets=[dataset] if dataset else None,
        tags=["lejepa", "self-supervised-learning", "vision"],
    )
    hub = "https://huggingface.co"
    encoder = f"[{settings.encoder}]({hub}/{settings.encoder})" if on_hub else "in `encoder/`"
    images = {None: "", DIGITS: ", the images are scikit-learn's digits"}
    told = images.get(settings.dataset, f", the images are of [{dataset}]({hub}/datasets/{dataset})")
    version = importlib.metadata.version("lejepa-hf")
    return _README.format(card=card.to_yaml(), title=settings.title, encoder=encoder, dataset=told, version=version)


def _check_public(repo_id: str, kind: str) -> None:
    """A Space reads without a token."""
    field = "encoder" if kind == "model" else kind
    instead = "give the encoder's folder, which is pushed with the Space" if kind == "model" else "take 'digits'"
    try:
        gated = HfApi().repo_info(repo_id, repo_type=kind, token=False).gated
    except HFValidationError as error:
        raise ValueError(f"`{field}` {repo_id!r} is neither a folder here nor an id of the Hub.") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"`{field}` {repo_id!r} is missing on the Hub or private, and a Space could not read it: make it public, "
            f"or {instead}."
        ) from error
    except ConnectionTrouble as error:
        raise OSError(f"`{field}` {repo_id!r}: the Hub cannot be asked for it ({error}).") from error
    if gated:
        raise ValueError(f"`{field}` {repo_id!r} is gated, and a Space was not let in: {instead}.")


def _is_of_a_push(name: str) -> bool:
    return name.startswith(("lejepa_hf/", "encoder/"))
