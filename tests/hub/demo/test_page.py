"""
The page of a real `lejepa demo`: in a real browser, and with requests that no browser makes; what the command refuses.
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from browser import chromium
from demo_process import encoder_folder, free_port, prepared_demo, running_demo
from demo_visitor import Answer, Visitor, file_data
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

            page.click_on_the_image()
            assert "Cosine similarity with the marked place" in page.text()
            page.find("#enlarge input[type=range]").send_keys("\ue014")  # arrow to the right
            page.wait(lambda: "64 x 64 pixels, 16 x 16 patches" in page.text())
            page.check_pictures()
            assert not page.errors()
            page.check_requests(url)

            (tmp_path / "broken.png").write_bytes(b"no image")
            page.find("#upload button[aria-label='Remove Image']").click()
            page.wait(lambda: page.find_all("#upload input[type=file]"))
            page.find("#upload input[type=file]").send_keys(str(tmp_path / "broken.png"))
            # The message is not readable before it has faded in.
            page.wait(lambda: any("cannot be read as an image" in error for error in page.errors()))
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

    def click_on_the_image(self) -> None:
        """Click on the picture as the encoder sees it, which shows similar places."""
        self.find("#seen img").click()
        self.wait(lambda: self.find_all("#similar img"))

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


NOISE = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
# A vision transformer for images of 16 pixels.
TINY = {
    "model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The address of a page that all tests below share, so that each finds what the others left."""
    pytest.importorskip("gradio", reason="gradio is an extra")
    folder = tmp_path_factory.mktemp("demo")
    encoder = encoder_folder(folder / "mine", TINY)
    with prepared_demo([encoder, "--dataset", "digits", "--images", "50"], folder / "output.txt") as url:
        yield url


@pytest.fixture
def visitor(url):
    visitor = Visitor(url)
    yield visitor
    answer = visitor.send("load", [1])  # whatever was sent, the page is there for the next visitor
    assert answer.success and len(answer.data[5]) == 12


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def assert_refused(answer: Answer) -> str:
    """That it shows no picture and names no path of the server; the message."""
    assert not answer.success
    places = (tempfile.gettempdir(), os.getcwd(), sys.prefix, str(Path.home()), "site-packages", "Errno", ".py")
    assert not [place for place in places if place in answer.text], answer.text
    return json.loads(answer.text)["error"]


@pytest.mark.slow
def test_an_upload_is_shown(visitor):
    answer = visitor.send("upload", [visitor.uploaded(encoded(Image.fromarray(NOISE))), 1])
    assert answer.success
    _, _, *pictures, neighbours, note = answer.data
    assert len(neighbours) == 12 and "16 x 16 pixels, 4 x 4 patches" in note
    for picture in [*pictures, neighbours[0]["image"]]:
        assert Image.open(io.BytesIO(visitor.picture(picture))).format == "PNG"
    assert "32 x 32 pixels" in visitor.send("change", [None, 2]).data[-1]  # of the same image
    answer = visitor.send("select", [3], {"index": 8, "value": None})
    assert "48 x 48 pixels" in answer.data[-1]
    Image.open(io.BytesIO(visitor.picture(answer.data[1])))


@pytest.mark.slow
def test_a_click_shows_similar_places(visitor):
    assert visitor.send("load", [1]).success
    answer = visitor.send("seen.select", [None, 1], {"index": [10, 400], "value": None})
    assert answer.success
    picture, note = answer.data
    assert Image.open(io.BytesIO(visitor.picture(picture))).size == (448, 448)
    assert note.startswith("Cosine similarity with the marked place: ") and note.endswith(" to 1.00.")
    other = visitor.send("seen.select", [None, 1], {"index": [440, 0], "value": None}).data[0]
    assert visitor.picture(other) != visitor.picture(picture)
    assert visitor.send("select", [1], {"index": 3, "value": None}).data[2] is None  # not of another image
    outside = ([448, 0], [0, 448], [-1, 0], [0.5, 1], [1], [1, 2, 3], ["1", "2"], "12", 7, None, {"a": 1})
    for index in outside:
        refused = assert_refused(visitor.send("seen.select", [None, 1], {"index": index, "value": None}))
        assert refused == "The place must be inside of the image."
    for event_data in (None, [], "x", {}):
        assert_refused(visitor.send("seen.select", [None, 1], event_data))
    assert_refused(visitor.send("seen.select", [None, 5], {"index": [1, 1], "value": None}))


@pytest.mark.slow
def test_a_click_before_an_image_shows_nothing(visitor):
    assert visitor.send("seen.select", [None, 1], {"index": [10, 10], "value": None}).success


@pytest.mark.slow
def test_captions_are_whole(url):
    """Gradio cuts them to a line; its style is that of one version, so its names must still be there."""
    import gradio

    assets = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
    (style,) = assets.glob("Gallery-*.css")
    for name in ("caption-label", "thumbnail-lg", "grid-container", "thumbnail-item"):
        assert f".{name}" in style.read_text(encoding="utf-8")
    _, content = Visitor(url).request("GET", "/config")
    page = json.loads(content)["css"]
    rule = page[page.index("#neighbours .caption-label") :].partition("}")[0]
    assert "position: static" in rule and "white-space: normal" in rule and "overflow: visible" in rule


@pytest.mark.slow
def test_no_other_file_is_read(visitor, tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(Image.fromarray(NOISE)))
    os.mkfifo(tmp_path / "pipe.png")
    mine = visitor.uploaded(encoded(Image.fromarray(NOISE)))["path"]
    above = os.path.dirname(os.path.dirname(mine))
    (tmp_path / "link.png").symlink_to(mine)
    names = ("secret.png", "pipe.png", "link.png", "missing.png", ".")
    paths = [f"{tmp_path}/{name}" for name in names]
    paths += ["/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/environ", "secret.png", "setup.cfg", "", above]
    paths += [
        f"{mine}/../../../{tmp_path.name}/secret.png",
        f"{above}/../{tmp_path}/secret.png",
        f"{mine}\0",
        f"{mine}x",
    ]
    found: dict[bool, set] = {True: set(), False: set()}
    for path in paths:
        for file in ({"path": path}, file_data(path), file_data(path, url=None, is_stream=True)):
            message = assert_refused(visitor.send("upload", [file, 1]))
            found["meta" in file].add(message)
        assert visitor.request("GET", f"/gradio_api/file={path.replace(chr(0), '%00')}")[0] in (403, 404)
    # One message, whether there is such a file or not.
    assert found[False] == {"This is not a file that was uploaded here, or it has been deleted: upload it again."}
    assert found[True] <= found[False] | {None}
    for value in ("/etc/passwd", ["/etc/passwd"], 7, None, {}, {"path": 7}, {"path": ["/etc/passwd"]}, [mine, mine]):
        assert_refused(visitor.send("upload", [value, 1]))


@pytest.mark.slow
def test_numbers_are_bounded(visitor):
    mine = visitor.uploaded(encoded(Image.fromarray(NOISE)))
    numbers = (0, -1, 5, 1000, 1e300, 2.5, float("nan"), float("inf"), "3", "1e9", [3], {"a": 1}, None, True)
    for number in numbers:
        assert_refused(visitor.send("upload", [mine, number]))
        assert_refused(visitor.send("select", [number], {"index": 0, "value": None}))
        assert_refused(visitor.send("load", [number]))
    assert "from 1 to 4" in assert_refused(visitor.send("upload", [mine, 1000]))
    assert visitor.send("upload", [mine, 1]).success
    for number in numbers:
        assert_refused(visitor.send("change", [None, number]))
    for index in (-1, 9, 10**9, 0.5, float("nan"), "0", [0], None, True):
        assert_refused(visitor.send("select", [1], {"index": index, "value": None}))
    for event_data in (None, [], "x", {}):
        assert_refused(visitor.send("select", [1], event_data))
    for data in ([], [mine], [[mine], 1]):
        assert_refused(visitor.send("upload", data))
    assert_refused(visitor.send("change", ["/etc/passwd"]))
    assert visitor.send("change", ["/etc/passwd", 1]).success  # of the image chosen before: no path comes from there


@pytest.mark.slow
def test_nothing_is_fetched_from_other_servers(visitor):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"http://127.0.0.1:{other.getsockname()[1]}/x.png"
        mine = visitor.uploaded(encoded(Image.fromarray(NOISE)))
        local = address.replace("127.0.0.1", "localhost")
        for path in (address, local, address.upper(), f"file://{mine['path']}", "data:image/png;base64,AAAA"):
            for data in (
                [file_data(path), 1],
                [{"path": path}, 1],
                [mine, file_data(path)],
                [file_data(path, url=path), 1],
            ):
                assert_refused(visitor.send("upload", data))
            assert_refused(visitor.send("load", [file_data(path)]))
        assert visitor.send("upload", [mine | {"url": address}, 1]).success
        for path in (f"file={address}", f"file/{address}", f"proxy={address}", f"proxy={local}"):
            assert visitor.request("GET", f"/gradio_api/{path}")[0] == 404
        other.settimeout(0.3)
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.slow
def test_only_the_events_of_the_page_can_be_sent(visitor):
    number, mine = visitor.events["load"], visitor.uploaded(encoded(Image.fromarray(NOISE)))
    for path in (
        "run/predict",
        "api/predict",
        "run/look",
        "call/look",
        "call/v2/look",
        "call/lambda",
        "cancel",
        "reset",
    ):
        body = {"fn_index": number, "data": [1], "session_hash": visitor.session, "event_id": "x"}
        assert visitor.post(f"/gradio_api/{path}", body)[0] == 404
    for path in ("component_server", "process_recording", "vibe-edit", "vibe-code", "stream/x"):
        assert visitor.post(f"/gradio_api/{path}", {"component_id": 1, "data": mine})[0] == 404
    closed = ("gradio_api/deep_link?session_hash=x", "gradio_api/runs", "gradio_api/openapi.json", "monitoring")
    for path in (f"/{path}" for path in closed):
        assert visitor.request("GET", path)[0] == 404
    described = json.loads(visitor.request("GET", "/gradio_api/info")[1])
    assert described == {"named_endpoints": {}, "unnamed_endpoints": {}}
    for event in (99, -1, "1", None, 1.5):
        assert visitor.join(event if event != "1" else 99, [1])[0] != 200


@pytest.mark.slow
def test_uploads_are_limited_before_they_are_sent(visitor):
    for path, size in (("/gradio_api/upload", 600 << 20), ("/gradio_api/queue/join", 1 << 20)):
        connection = visitor.connection()
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        assert connection.getresponse().status == 413  # nothing of it was sent yet
        connection.close()


@pytest.mark.slow
def test_images_that_are_not_shown(visitor):
    thin = "pixels are too long: at most 8 times as long as wide"
    for content, name, reason in (
        (b"no image", "broken.png", "cannot identify image file"),
        (b"", "empty.png", "cannot identify image file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "a.svg", "cannot identify image file"),
        (encoded(Image.new("L", (10000, 1))), "thin.png", thin),
        (encoded(Image.new("L", (1, 10000))), "thin.png", thin),
        (encoded(Image.new("1", (9000, 9000))), "bomb.png", "9000 x 9000 pixels, and at most 67,108,864 are accepted"),
    ):
        message = assert_refused(visitor.send("upload", [visitor.uploaded(content, name), 4]))
        assert message.startswith("This file cannot be read as an image: ") and reason in message


@pytest.mark.slow
def test_many_visitors_at_the_same_time(url):
    def visit(number: int) -> int:
        visitor = Visitor(url)
        return visitor.join("load", [1 + number % 4])[0]

    with ThreadPoolExecutor(30) as threads:
        assert set(threads.map(visit, range(60))) <= {200, 503}
    last, end = Visitor(url), time.monotonic() + 60
    while not last.send("load", [1]).success:  # the queue may still be full
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_uploads_without_a_length_are_limited(url):
    visitor, part = Visitor(url), b"a" * (1 << 20)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    connection = visitor.connection()
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    sent = 0
    try:
        connection.send(b"%x\r\n%s\r\n" % (len(head), head))
        while sent < 600:
            sent += 1
            connection.send(b"%x\r\n%s\r\n" % (len(part), part))
    except OSError:
        pass  # the connection was closed
    assert 60 < sent < 200
    connection.close()
    assert visitor.send("load", [1]).success


@pytest.mark.slow
@pytest.mark.parametrize("said", ["Loading weights", "embedding"])
def test_interrupted_before_the_page_is_there(tiny_vit, tmp_path, said):
    pytest.importorskip("gradio", reason="gradio is an extra")
    encoder = encoder_folder(tmp_path / "mine", tiny_vit)
    in_a_terminal = "from lejepa_hf.system import progress_bars; progress_bars.are_drawn = lambda: True; "
    command = [sys.executable, "-c", in_a_terminal + COMMAND[2], "demo"]
    command += [encoder, "--dataset", "digits", "--images", "50", "--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        text = ""
        while said not in text:
            text += process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        text += process.stdout.read()
    assert process.returncode == 130
    assert text.endswith("interrupted\n") and "Traceback" not in text and text.count("interrupted") == 1


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
    assert error_of([str(tmp_path)], capsys) == 'error: A demo needs gradio: `pip install "gradio>=6.7"`.'
