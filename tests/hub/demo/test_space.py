"""Pages pushed to a Hub on loopback, and started from the pushed files."""

import importlib.metadata
import io
import json
import os
import sys
import urllib.request

import numpy as np
import pytest
import yaml
from demo_process import encoder_folder, free_port, running_demo, without
from demo_visitor import Visitor
from hub_client import TOKEN, connect
from hub_server import HubServer

from lejepa_hf.cli import main
from lejepa_hf.hub.demo.settings import DemoSettings
from lejepa_hf.hub.demo.space import push_space
from lejepa_hf.hub.push import push_run

WHEEL = f"lejepa_hf-{importlib.metadata.version('lejepa-hf')}-py3-none-any.whl"

pytest.importorskip("gradio", reason="gradio is an extra")

# A Space: the package is not installed, and can only be found beside app.py.
SPACE = """
import atexit, os, runpy, sys
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
sys.path = [os.getcwd()] + [p for p in sys.path if p and not os.path.isdir(os.path.join(p, "lejepa_hf"))]
atexit.register(lambda: print(sys.modules["lejepa_hf"].__file__, flush=True))
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    with HubServer(tmp_path / "hub", tokens={TOKEN: "me"}) as server:
        connect(server, monkeypatch)
        yield server


def card_of(files: dict[str, bytes]) -> dict:
    return yaml.safe_load(files["README.md"].decode().split("---\n")[1])


def test_an_encoder_of_this_machine_goes_with_it(server, tiny_vit, tmp_path, capsys):
    encoder = encoder_folder(tmp_path / "mine", tiny_vit)
    arguments = ["demo", encoder, "--dataset", "digits", "--images", "50", "--push", "me/look"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{server.url}/spaces/me/look\n"
    files = server.files("spaces/me/look")
    settings = {"encoder": "encoder", "dataset": "digits", "split": "train", "images": 50, "title": "mine"}
    assert json.loads(files["demo.json"]) == settings
    card = card_of(files)
    assert (card["sdk"], card["app_file"], card["title"]) == ("gradio", "app.py", "mine")
    assert "models" not in card and "datasets" not in card
    needed = files["requirements.txt"].decode().splitlines()
    assert any(line.startswith("torch>=") for line in needed) and not any("extra" in line for line in needed)
    assert {name for name in files if name.startswith("encoder/")} == {
        "encoder/config.json", "encoder/model.safetensors", "encoder/preprocessor_config.json",
    }  # fmt: skip
    assert [name for name in files if "lejepa_hf" in name] == [WHEEL] and WHEEL in files["README.md"].decode()
    for content in files.values():
        assert TOKEN.encode() not in content and str(tmp_path).encode() not in content

    # Again, after something was renamed: what others put there stays.
    old = ("lejepa_hf/old.py", "lejepa_hf-0.0.9-py3-none-any.whl", "encoder/old.json")
    more = {name: server.store(b"old") for name in (*old, "notes.md")}
    content = server.read("spaces/me/look")
    server.commit("spaces/me/look", content, "main", content["commits"][content["refs"]["main"]] | more)
    assert main(arguments) == 0
    assert server.files("spaces/me/look").keys() == files.keys() | {"notes.md"}


def test_an_encoder_of_the_hub_is_named(server, tiny_vit, tmp_path):
    push_run(encoder_folder(tmp_path / "mine", tiny_vit), "me/encoder", private=False)
    push_space(DemoSettings("me/encoder"), "me/look", private=True)
    files = server.files("spaces/me/look")
    assert server.read("spaces/me/look")["private"]
    assert json.loads(files["demo.json"])["encoder"] == "me/encoder"
    assert card_of(files)["models"] == ["me/encoder"]
    assert not [name for name in files if name.startswith("encoder/")]


def test_what_a_space_could_not_show(server, tiny_vit, tmp_path, capsys):
    encoder = encoder_folder(tmp_path / "mine", tiny_vit)
    push_run(encoder, "me/secret", private=True)
    server.create("me/gated", gated=True)
    for arguments, message in [
        (["me/secret"], "`encoder` 'me/secret' is missing on the Hub or private"),
        (["me/nothing"], "or give the encoder's folder, which is pushed with the Space"),
        (["me/gated"], "`encoder` 'me/gated' is gated"),
        (["./no/such/folder"], "`encoder` './no/such/folder' is neither a folder here nor an id of the Hub"),
        ([encoder, "--dataset", str(tmp_path)], f"`dataset` {str(tmp_path)!r} is not where a Space could read it"),
        ([encoder, "--dataset", "a/*.parquet"], "`dataset` 'a/*.parquet' is not where a Space could read it"),
        ([encoder, "--dataset", "digits", "--split", "all"], "has the splits train and test"),
        ([encoder, "--images", "0"], "`images` must be at least 1"),
    ]:
        assert main(["demo", *arguments, "--push", "me/look"]) == 2
        assert message in capsys.readouterr().err
    assert main(["demo", encoder, "--push", "look"]) == 2
    assert "must be of the form 'user/name'" in capsys.readouterr().err
    assert server.read("spaces/me/look") is None
    (tmp_path / "mine" / "model.safetensors").unlink()
    assert main(["demo", encoder, "--push", "me/look"]) == 2
    assert "cannot be loaded" in capsys.readouterr().err


def test_without_a_token(server, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert main(["demo", str(tmp_path), "--push", "me/look"]) == 2
    assert "`token` is missing" in capsys.readouterr().err


@pytest.mark.slow
def test_what_was_pushed_runs_alone(server, tiny_vit, tmp_path):
    encoder = encoder_folder(tmp_path / "mine", tiny_vit)
    push_space(DemoSettings(encoder, "digits", images=50), "me/look")
    for name, content in server.files("spaces/me/look").items():
        path = tmp_path / "space" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "mine").rename(tmp_path / "gone")
    port, output = free_port(), tmp_path / "output.txt"
    # Spaces set the address by these variables.
    env = without("PYTHONPATH", "HF_TOKEN") | {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    command = [sys.executable, "-c", SPACE]
    with running_demo(command, port, output, cwd=tmp_path / "space", env=env) as url:
        assert b"mine: look at an encoder" in urllib.request.urlopen(url).read()
        visitor, pixels = Visitor(url), io.BytesIO()
        np.save(pixels, np.arange(300, dtype=np.uint16).reshape(10, 10, 3))
        assert visitor.send("upload", [visitor.uploaded(pixels.getvalue(), "mine.npy"), 1]).success
    imported = output.read_text(encoding="utf-8").splitlines()[-1]
    assert imported == os.path.join(WHEEL, "lejepa_hf", "__init__.py")
