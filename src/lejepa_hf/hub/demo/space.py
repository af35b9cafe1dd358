"""The page as a Space of the Hub: its settings, and this package as it is installed here."""

import importlib.metadata
import os
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi, SpaceCardData
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from transformers import AutoConfig

from ...data.dataset_files import DIGITS
from ...evaluation.embeddings.embed_images import public_model
from ...evaluation.encoder_loading import find_encoder, load_encoder
from ...model.architecture import is_timm
from ...system.installed_package import build_wheel
from ..public_files import public_files
from ..push import ConnectionTrouble, Target
from .settings import DemoSettings, is_on_hub

_SETTINGS = "demo.json"
_APP = f'''"""A page that shows what an encoder sees: `lejepa demo` with the settings in {_SETTINGS}."""

import logging
import sys
from pathlib import Path

# Spaces install `requirements.txt` before this folder is there, so it cannot name the wheel.
sys.path.insert(0, str(Path(__file__).with_name("{{wheel}}")))

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

Made by `lejepa demo --push`. `{wheel}` is the package lejepa-hf {version} under the
[Apache License 2.0](https://www.apache.org/licenses/LICENSE-2.0).
"""


def push_space(settings: DemoSettings, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """
    Publish a page as a Space `repo_id`, and return its address. A local encoder is pushed with it, into `encoder/`;
    one of the Hub is named. `private` and `token` are used as in [`~hub.push.push_run`].

    Raises:
        ValueError: If a Space could not show the page (a local dataset, an encoder that is not public), or if the id,
            the token or its rights are not sufficient. Nothing is sent then.
        OSError: If the Hub cannot be reached, or if the connection breaks.
    """
    if settings.dataset not in (None, DIGITS) and not is_on_hub(settings.dataset):
        raise ValueError(
            f"`dataset` {settings.dataset!r} is not where a Space could read it: push it to the Hub (`hf upload "
            "USER/NAME FOLDER --repo-type dataset`) and give its id, use 'digits', or leave it out."
        )
    target = Target(repo_id, private, None, token, is_space=True)
    files = space_files(settings)
    target.prepare()
    target.commit(files, _is_of_a_push, "Demo of an encoder")
    return target.url


def space_files(settings: DemoSettings) -> dict[str, Path | bytes]:
    """
    The files of a Space by name: the app, its settings and requirements, this package as a wheel, and a local encoder.
    ValueError if the encoder or the dataset cannot be read, or is on the Hub and not public.
    """
    settings.open_dataset()
    if settings.dataset not in (None, DIGITS):
        _check_public(settings.dataset, "dataset")
    files: dict[str, Path | bytes] = {}
    encoder = find_encoder(settings.encoder)
    on_hub = not os.path.isdir(encoder)
    if on_hub:
        _check_public(settings.encoder, "model")
        config = AutoConfig.from_pretrained(settings.encoder, trust_remote_code=False)
    else:
        config = load_encoder(encoder)[0].config
        of_encoder = public_files(encoder)
        files = {f"encoder/{name}": file for name, file in of_encoder.items() if not name.endswith(".md")}
    title = settings.title or public_model(settings.encoder).removesuffix("/encoder")
    shown = replace(settings, encoder=settings.encoder if on_hub else "encoder", title=title)
    wheel, content = build_wheel()
    files |= {
        "app.py": _APP.format(wheel=wheel).encode(),
        wheel: content,
        _SETTINGS: shown.to_json().encode(),
        "requirements.txt": _requirements(is_timm(config)).encode(),
        "README.md": _readme(shown, on_hub, wheel).encode(),
    }
    return files


def _requirements(needs_timm: bool) -> str:
    """The requirements of this package. Spaces install Gradio themselves, in the version that README.md names."""
    needed = [line for line in importlib.metadata.requires("lejepa-hf") or [] if "extra ==" not in line]
    return "\n".join([*needed, *(["timm"] if needs_timm else [])]) + "\n"


def _readme(settings: DemoSettings, on_hub: bool, wheel: str) -> str:
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
    described = images.get(settings.dataset, f", the images are from [{dataset}]({hub}/datasets/{dataset})")
    version, head = importlib.metadata.version("lejepa-hf"), card.to_yaml()
    return _README.format(
        card=head, title=settings.title, encoder=encoder, dataset=described, wheel=wheel, version=version
    )


def _check_public(repo_id: str, kind: str) -> None:
    """Refuse a repository that a Space could not read, because it has no token."""
    field = "encoder" if kind == "model" else kind
    instead = "give the encoder's folder, which is pushed with the Space" if kind == "model" else "use 'digits'"
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
        raise OSError(f"`{field}` {repo_id!r}: the Hub cannot be reached ({error}); try again later.") from error
    if gated:
        raise ValueError(f"`{field}` {repo_id!r} is gated, and a Space could not read it: {instead}.")


def _is_of_a_push(name: str) -> bool:
    """Whether a push wrote this file; the next push removes it if it is no longer needed."""
    is_wheel = name.startswith("lejepa_hf-") and name.endswith(".whl")
    return is_wheel or name.startswith(("lejepa_hf/", "encoder/"))  # Spaces of version 0.1.0 have sources
