"""The page of a real `lejepa demo` in a real browser, and what the command refuses."""

import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import chromium
from demo_process import encoder_folder, free_port, running_demo
from PIL import Image

from lejepa_hf.cli import main

COMMAND = [sys.executable, "-c", "from lejepa_hf.cli import main; raise SystemExit(main())", "demo"]


@pytest.mark.slow
def test_in_a_browser(tiny_vit, tmp_path):
    pytest.importorskip("gradio", reason="gradio is an extra")
    with chromium(tmp_path / "profile") as browser:
        port, encoder = free_port(), encoder_folder(tmp_path / "mine", tiny_vit)
        command = [*COMMAND, encoder, "--dataset", "digits", "--images", "200", "--port", str(port)]
        with running_demo(command, port, tmp_path / "output.txt") as url:
            browser.get(url)
            page = Page(browser)
            page.check_pictures()
            first = page.sources()
            assert "among 200 of the dataset" in page.text()

            noise = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "mine.png")
            page.find("#upload input[type=file]").send_keys(str(tmp_path / "mine.png"))
            page.wait(lambda: page.all_differ_from(first))
            page.check_pictures()
            uploaded = page.sources()

            page.find_all("#examples button img")[3].click()
            page.wait(lambda: page.all_differ_from(uploaded))
            page.check_pictures()
            assert "48 x 48 pixels, 12 x 12 patches" in page.text()

            page.find("#enlarge input[type=range]").send_keys("\ue014")  # arrow to the right
            page.wait(lambda: "64 x 64 pixels, 16 x 16 patches" in page.text())
            page.check_pictures()
            assert not page.errors()
            page.check_requests(url)

            (tmp_path / "broken.png").write_bytes(b"no image")
            page.find("#upload button[aria-label='Remove Image']").click()
            page.wait(lambda: page.find_all("#upload input[type=file]"))
            page.find("#upload input[type=file]").send_keys(str(tmp_path / "broken.png"))
            page.wait(page.errors)
            assert "cannot be read as an image" in page.errors()[0]
    assert "Traceback" not in (tmp_path / "output.txt").read_text(encoding="utf-8")


class Page:
    """Actions and contents of the page in a browser."""

    def __init__(self, browser):
        self.browser = browser

    def find_all(self, selector: str) -> list:
        return self.browser.find_elements("css selector", selector)

    def find(self, selector: str):
        self.wait(lambda: self.find_all(selector))
        return self.find_all(selector)[0]

    def wait(self, condition):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = [StaleElementReferenceException]  # drawn anew meanwhile
        return WebDriverWait(self.browser, 60, ignored_exceptions=ignored).until(lambda _: condition())

    def text(self) -> str:
        return self.find("body").text

    def sources(self) -> list[str]:
        return [self.find(f"#{name} img").get_attribute("src") for name in ("seen", "patches", "heat", "neighbours")]

    def all_differ_from(self, before: list[str]) -> bool:
        return all(one != other for one, other in zip(self.sources(), before, strict=True))

    def check_pictures(self) -> None:
        """Whether the pictures have loaded and are not empty."""
        self.wait(lambda: len(self.find_all("#neighbours img")) == 12)
        images = [self.find(f"#{name} img") for name in ("seen", "patches", "heat")] + self.find_all("#neighbours img")
        for image in images:
            self.wait(lambda image=image: image.get_property("complete") and image.get_property("naturalWidth") > 0)
        for image in images[:4]:
            path = Path(self.browser.capabilities["chrome"]["userDataDir"]) / "seen.png"
            image.screenshot(str(path))
            colours = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
            assert len(np.unique(colours, axis=0)) > 10

    def errors(self) -> list[str]:
        return [toast.text for toast in self.find_all(".toast-body.error")]

    def check_requests(self, url: str) -> None:
        """No other server is contacted: no fonts, no scripts, no statistics."""
        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        asked = {one["request"]["url"] for one in sent if one.get("documentURL", "").startswith(url)}
        assert len(asked) > 10
        assert not [one for one in asked if not one.startswith((url, "data:", "blob:"))]


def error_of(arguments: list[str], capsys) -> str:
    assert main(["demo", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_what_is_refused_before_any_work(tiny_vit, tmp_path, capsys):
    pytest.importorskip("gradio", reason="gradio is an extra")
    encoder = encoder_folder(tmp_path / "mine", tiny_vit)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"`port` {port} of 127.0.0.1 cannot be used" in error_of([encoder, "--port", str(port)], capsys)
    assert "`port` must be 1 to 65535, got 99999" in error_of([encoder, "--port", "99999"], capsys)
    assert "`port` 7860 of 256.0.0.1 cannot" in error_of([encoder, "--host", "256.0.0.1", "--port", "7860"], capsys)
    assert "`images` must be at least 1, got 0" in error_of([encoder, "--images", "0"], capsys)
    assert "`dataset` '/no/such'" in error_of([encoder, "--dataset", "/no/such"], capsys)
    assert "has the splits train and test" in error_of([encoder, "--dataset", "digits", "--split", "all"], capsys)
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}" in error_of([encoder, "--dataset", str(tmp_path / "empty")], capsys)
    assert "it needs `--push USER/NAME`" in error_of([encoder, "--private"], capsys)
    (tmp_path / "mine" / "model.safetensors").unlink()
    assert f"`encoder` {encoder!r} cannot be loaded" in error_of([encoder], capsys)


def test_without_gradio(tmp_path, capsys, monkeypatch):
    # As where it is not installed: no folder of the path has it.
    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not (Path(p) / "gradio").is_dir()])
    sys.path_importer_cache.clear()
    assert error_of([str(tmp_path)], capsys) == 'error: A demo needs gradio: `pip install "gradio>=6"`.'
