"""The client of Hugging Face, told to talk to a `HubServer`."""

import os
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
from hub_server import HubServer
from huggingface_hub.utils import close_session

from lejepa_hf.hub import push

TOKEN = "hf_" + "a" * 30


def connect(server: HubServer, monkeypatch, token: str | None = TOKEN) -> None:
    """This process talks to that server, and does not wait long when it fails."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)  # of the functions of the module
    files = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(server.folder / "no-token"))
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    waits = SimpleNamespace(sleep=lambda seconds: server.requests.append(f"WAIT {seconds:g}"))
    monkeypatch.setattr(huggingface_hub.utils._http, "time", waits)
    monkeypatch.setattr(push, "time", waits)
    close_session()


def environment(server: HubServer, cache: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {
        "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(cache), "OMP_NUM_THREADS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", **more,
    }  # fmt: skip
