import io
import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import datasets
import pytest
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from lejepa_hf import MultiCropCollator, MultiCropTransform
from lejepa_hf.data.errors import DataError, StreamInterrupted
from lejepa_hf.data.network import is_network_error, read_through
from lejepa_hf.data.sources import load_source
from lejepa_hf.data.streaming import EndlessRows


class Unreliable(BaseHTTPRequestHandler):
    """Files with ranges, from a server that fails as often as it is told to."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        data = server.files.get(self.path.split("?")[0].lstrip("/"))
        if data is None:
            return self.answer(404, b"")
        if self.command == "GET" and server.failures > 0:
            server.failures -= 1
            if server.manner == "drop":
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
            return self.answer(503, b"")
        size, given = len(data), self.headers.get("Range")
        headers = {"Accept-Ranges": "bytes"}
        if given:
            first, last = given.removeprefix("bytes=").split("-")
            first, last = int(first), min(int(last or size), size - 1)
            data = data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return self.answer(206 if given else 200, data, headers)

    do_HEAD = do_GET

    def answer(self, status: int, data: bytes, headers: dict | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def content(number: int) -> bytes:
    return number.to_bytes(4, "big") * 500


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for setting, value in {"MAX_RETRIES": 1, "RETRY_INTERVAL": 0.01}.items():  # of its own, else 20 of 5 s each
        monkeypatch.setattr(datasets.config, f"STREAMING_READ_{setting}", value)
        monkeypatch.setattr(datasets.config, f"STREAMING_OPEN_{setting}", value)
    monkeypatch.setattr("lejepa_hf.data.network._FIRST_WAIT", 0.05)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unreliable)
    server.files, server.failures, server.manner = {}, 0, "drop"
    for shard in range(2):
        rows = {"image": [{"bytes": content(i), "path": None} for i in range(40 * shard, 40 * shard + 40)]}
        Dataset.from_dict(rows, features=Features({"image": ImageFeature(decode=False)})).to_parquet(
            tmp_path / f"{shard}.parquet", batch_size=10
        )
        server.files[f"{shard}.parquet"] = (tmp_path / f"{shard}.parquet").read_bytes()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


def rows_of(server, **settings):
    source = load_source(f"{server.url}/{{0..1}}.parquet", streaming=True)
    return iter(EndlessRows(source.dataset, 4, seed=0, shuffle_buffer_size=1, **settings))


def read(rows, number: int) -> list[int]:
    return [int.from_bytes(row["image"]["bytes"][:4], "big") for row in islice(rows, number)]


@pytest.mark.parametrize("manner", ["drop", "busy"])
def test_a_stream_goes_on_where_the_connection_broke(server, manner, caplog):
    undisturbed = read(rows_of(server), 160)
    assert sorted(undisturbed[:80]) == list(range(80))
    rows = rows_of(server, max_retries=3)
    first = read(rows, 30)
    server.manner, server.failures = manner, 3
    with caplog.at_level(logging.WARNING, "lejepa_hf"):
        assert first + read(rows, 130) == undisturbed
    assert server.failures == 0
    assert "retry 1 of 3" in caplog.text and "shard" in caplog.text


def test_a_stream_that_does_not_come_back_stops_with_the_way_out(server):
    rows = rows_of(server, max_retries=2)
    read(rows, 30)
    server.failures = 10_000
    with pytest.raises(StreamInterrupted, match=r"shard \d+ of 2: .* 2 retries .*--resume") as error:
        read(rows, 100)
    assert "\n" not in str(error.value)


def test_images_behind_urls(server, caplog):
    buffer = io.BytesIO()
    Image.new("RGB", (80, 80), (200, 0, 0)).save(buffer, "PNG")
    server.files["red.png"] = buffer.getvalue()
    collator = MultiCropCollator(MultiCropTransform(global_crop_size=16, num_local_views=0))
    server.manner, server.failures = "busy", 1
    batch = collator([{"image": {"bytes": None, "path": f"{server.url}/red.png"}}])
    assert batch["global_views"][0, 0, :, 8, 8].tolist() == [200, 0, 0]
    assert "retry 1 of" in caplog.text
    with pytest.raises(DataError, match="None of the 1 images"):  # what is not there will not come back
        collator([{"image": {"bytes": None, "path": f"{server.url}/blue.png"}}])


def test_a_damaged_shard_is_named(tmp_path):
    rows = {"image": [{"bytes": content(i), "path": None} for i in range(40)]}
    for shard in range(2):
        Dataset.from_dict(rows, features=Features({"image": ImageFeature(decode=False)})).to_parquet(
            tmp_path / f"{shard}.parquet", batch_size=10
        )
    source = load_source(f"{tmp_path}/*.parquet", streaming=True)
    damaged = bytearray((tmp_path / "1.parquet").read_bytes())
    damaged[20_000:30_000] = bytes(10_000)
    (tmp_path / "1.parquet").write_bytes(damaged)
    with pytest.raises(DataError, match=r"shard [4-7] of 8 cannot be read.*Replace the file"):
        list(islice(EndlessRows(source.dataset, 4, seed=0), 100))


def test_an_error_that_no_retry_mends_comes_through():
    def missing():
        yield 1
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError):
        list(read_through(missing, "x"))


def test_signatures_of_addresses_are_not_logged(caplog, monkeypatch):
    monkeypatch.setattr("lejepa_hf.data.network._FIRST_WAIT", 0.01)

    def lost():
        raise ConnectionError("GET https://storage.example/x.parquet?Signature=secret refused")
        yield

    with pytest.raises(StreamInterrupted) as error:
        list(read_through(lost, "x", 1))
    assert "secret" not in caplog.text + str(error.value) and "storage.example/x.parquet?..." in caplog.text


def test_retries_count_anew_after_progress(monkeypatch):
    monkeypatch.setattr("lejepa_hf.data.network._FIRST_WAIT", 0.001)
    opened = []

    def every_other():
        opened.append(1)
        for number in range(10):
            if number >= len(opened):
                raise ConnectionResetError
            yield number

    assert list(read_through(every_other, "x", 1)) == list(range(10))


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(101, "Network is unreachable"), True),
        (FileNotFoundError(2, "No such file"), False),
        (ValueError("bad"), False),
    ],
)
def test_what_may_pass(error, passing):
    assert is_network_error(error) == passing
    wrapped = RuntimeError("while reading")
    wrapped.__cause__ = error
    assert is_network_error(wrapped) == passing
