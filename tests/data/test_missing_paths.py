import socket

import huggingface_hub
import pytest
from hub_client import connect
from hub_server import HubServer
from huggingface_hub import constants

from lejepa_hf.data.missing_paths import refuse_missing_path


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """The Hub at a port that nobody listens at, an empty cache, and a current folder with `photos`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (("HF_HUB_OFFLINE", False), ("ENDPOINT", f"http://127.0.0.1:{port}")):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    (tmp_path / "photos" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    huggingface_hub.close_session()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photoes", "is not a folder here, and the Hub cannot be reached: ConnectError"),
        ("photoes", "Did you mean 'photos'?"),
        ("photos/trian", "Did you mean 'photos/train'?"),
        ("me/elsewhere", "is not a folder here, and the Hub cannot be reached"),
        ("./photoes", "no such folder. '.' holds photos"),
        ("photos/train/", "no such folder"),
        ("photos/a/b", "no such folder"),
        ("my photos", "no such folder. '.' holds photos"),
    ],
)
def test_refused_at_once(no_hub, name, said):
    with pytest.raises(ValueError, match="`dataset` '") as error:
        refuse_missing_path(name)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ValueError, match=r"is a single file: name the folder .* \.parquet, \.tar"):
        refuse_missing_path(str(tmp_path / "photo.jpg"))


def test_what_may_be_on_the_hub_or_in_the_cache_goes_on(no_hub, monkeypatch):
    (no_hub / "cache" / "me___birds").mkdir(parents=True)
    (no_hub / "hub" / "datasets--me--fish").mkdir(parents=True)
    refuse_missing_path("me/birds")
    refuse_missing_path("me/fish")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refuse_missing_path("me/elsewhere")


def test_what_the_hub_does_not_know(no_hub, monkeypatch):
    with HubServer(no_hub / "server") as hub:
        connect(hub, monkeypatch, token=None)
        hub.create("datasets/me/birds")
        hub.create("datasets/me/secret", private=True)
        hub.create("datasets/me/gated", gated=True)
        (no_hub / "me" / "bird").mkdir(parents=True)
        refuse_missing_path("me/birds")
        refuse_missing_path("me/gated")  # opening it explains how to be let in
        for name, said in (("me/birds2", "Did you mean 'me/bird'?"), ("me/secret", "log in with `hf auth login`")):
            with pytest.raises(ValueError, match="is neither 'digits', a folder here, nor a dataset") as error:
                refuse_missing_path(name)
            assert said in str(error.value) and "\n" not in str(error.value)
