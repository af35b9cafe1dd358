import errno
import gc
import importlib
import itertools
import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import datasets
import fsspec
import pytest
from huggingface_hub.errors import HfHubHTTPError
from parquet_shards import number, open_shards, write_shards
from PIL import Image
from torch.utils.data import DataLoader

from lejepa_hf import MultiCropCollator, MultiCropTransform
from lejepa_hf.data import network
from lejepa_hf.data.errors import DataError, StreamInterrupted
from lejepa_hf.data.network import is_network_error, read_through
from lejepa_hf.data.sources import load_source
from lejepa_hf.data.stream_readers import StreamReader
from lejepa_hf.data.streaming import EndlessRows

SIZES = [20, 30, 10]
http_client = importlib.import_module(HfHubHTTPError.__mro__[1].__module__)  # the Hub's: httpx, of late httpx2


class _Handler(BaseHTTPRequestHandler):
    """Files of a folder, in ranges. The server's `faults` say what goes wrong with the next requests for content."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(with_content=False)

    def do_GET(self):
        self._answer(with_content=True)

    def _answer(self, with_content: bool):
        server = self.server
        path = server.folder / self.path[1:]
        server.asked.append((path.name, self.headers.get("Range")))
        fault = next(server.faults, None)
        if fault == "gone":
            self.close_connection = True
            return
        if not path.is_file() or fault == 503:
            self.send_response(404 if not path.is_file() else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        if "Range" in self.headers:
            first, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            first, last = int(first), min(int(end or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if with_content:
            content = content[first : last + 1]
            self.wfile.write(content[: len(content) // 2] if fault == "drop" else content)
        self.close_connection = fault == "drop"

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.faults, self.asked = folder, iter(()), []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        pass  # a client that leaves a connection


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of three shards; `datasets` itself tries once only, and waits for nothing, we for little."""
    monkeypatch.setattr(network, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(network, "_LONGEST_WAIT", 0.02)
    for name in ("READ_RETRY", "OPEN_RETRY", "READ_SERVER_UNAVAILABLE_RETRY", "READ_RATE_LIMIT_RETRY"):
        monkeypatch.setattr(datasets.config, f"STREAMING_{name}_INTERVAL", 0)
    for name in ("READ", "OPEN"):
        monkeypatch.setattr(datasets.config, f"STREAMING_{name}_MAX_RETRIES", 1)
    write_shards(tmp_path, SIZES, row_group_size=10)
    with _Server(tmp_path) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def stream(server):
    stream = open_shards([f"{server.url}/{shard:02}.parquet" for shard in range(len(SIZES))])
    server.asked.clear()
    return stream


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.WARNING, "lejepa_hf")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "lejepa_hf"]


def reader(stream, max_retries: int = 1) -> StreamReader:
    return StreamReader(stream, 0, 1, [0], 5, max_retries=max_retries)


def test_rows_come_over_http(stream, log):
    assert [[number(row) for row in reader(stream).read(shard)] for shard in range(3)] == [
        list(range(20)),
        list(range(20, 50)),
        list(range(50, 60)),
    ]
    assert log() == []


def test_readers_ask_for_their_own_shards_only(server, stream):
    asked = []
    for own in (StreamReader(stream, i, 2, [0], 5) for i in range(2)):
        server.asked.clear()
        shards = {row["where"][-10:] for epoch, _, row in itertools.islice(own.rows(), SIZES[2])}
        asked.append({name for name, _ in server.asked})
        assert len(shards) <= len(asked[-1]) <= 2


@pytest.mark.parametrize("number_of_faults", [2, 4])  # opening the file asks twice
def test_busy_server(server, stream, log, number_of_faults):
    server.faults = iter([503] * number_of_faults)
    assert [number(row) for row in reader(stream, 2).read(1)] == list(range(20, 50))
    assert len(log()) == number_of_faults // 2
    assert log()[0].startswith("shard 1 of 3: ") and log()[0].endswith("; retry 1 of 2 in 0.01 s")


def test_dropped_connections(server, stream, log):
    server.faults = (("drop" if i in (1, 4) else None) for i in itertools.count())
    assert [number(row) for row in reader(stream).read(1)] == list(range(20, 50))
    assert 1 <= len(log()) <= 2
    assert all(message.endswith("; retry 1 of 1 in 0.01 s") for message in log())


def test_dead_server(server, stream, log):
    server.faults = itertools.repeat(503)
    with pytest.raises(StreamInterrupted) as error:
        list(reader(stream).read(2))
    for part in ("shard 2 of 3", "1 retries", "--resume", "02.parquet"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert len(log()) == 1


def test_server_that_hangs_up(server, stream):
    server.faults = itertools.repeat("gone")
    with pytest.raises(StreamInterrupted, match="^shard 0 of 3: the connection was lost and 0 retries"):
        list(reader(stream, 0).read(0))


def test_missing_file_is_not_waited_for(server, stream, log):
    (server.folder / "01.parquet").unlink()
    with pytest.raises(DataError, match="^shard 1 of 3 cannot be read on after 0 rows: FileNotFoundError") as error:
        list(reader(stream, 8).read(1))
    assert not isinstance(error.value, StreamInterrupted)
    assert log() == []


def test_a_workers_message_arrives_as_one_line(server, stream):
    rows = EndlessRows(stream, 4, seed=0, num_readers=1, max_retries=0)
    server.faults = itertools.repeat(503)
    batches = iter(DataLoader(rows, 4, num_workers=1, collate_fn=list))
    with pytest.raises(StreamInterrupted) as error:
        next(batches)
    message = str(error.value)
    assert message.startswith("shard ") and message.endswith("when the network is back.")
    assert "Traceback" not in message and "\n" not in message
    del error  # it holds the loader in a cycle, and collected as a part of one that waits 5 s for its worker
    gc.collect()


def test_shards_by_address_go_on_where_the_connection_broke(server, log):
    def read(*faults) -> list[dict]:
        source = load_source(f"{server.url}/{{00..02}}.parquet", streaming=True)
        rows = iter(EndlessRows(source.dataset, 4, seed=0, shuffle_buffer_size=5, max_retries=2))
        first = list(itertools.islice(rows, 20))
        server.faults = iter(faults)
        return first + list(itertools.islice(rows, 130))

    undisturbed = read()
    assert sorted(map(number, undisturbed[:60])) == list(range(60))
    assert log() == []
    assert read(503, 503, None, "drop", "gone", "gone", None, None, "drop") == undisturbed
    assert len(log()) >= 2


def test_images_behind_urls(server, log):
    # Streamed folders give rows that name their files.
    Image.new("RGB", (80, 80), (200, 0, 0)).save(server.folder / "red.png")
    collator = MultiCropCollator(MultiCropTransform(global_crop_size=16, num_local_views=0))
    server.faults = iter([503, 503])
    batch = collator([{"image": {"bytes": None, "path": f"{server.url}/red.png"}}])
    assert batch["global_views"][0, 0, :, 8, 8].tolist() == [200, 0, 0]
    assert len(log()) == 1 and "red.png" in log()[0]
    with pytest.raises(DataError, match="None of the 1 images"):  # what is not there will not come back
        collator([{"image": {"bytes": None, "path": f"{server.url}/blue.png"}}])


def test_a_dead_server_is_no_broken_image(server):
    Image.new("RGB", (80, 80)).save(server.folder / "red.png")
    server.faults = itertools.repeat(503)
    transform = MultiCropTransform(global_crop_size=16, num_local_views=0)
    rows = [{"image": Image.new("RGB", (80, 80))}, {"image": f"{server.url}/red.png"}]
    with pytest.raises(StreamInterrupted, match="red.png"):
        MultiCropCollator(transform)(rows)


# read_through alone


class Source:
    """Numbers from 0 on; each opening of it ends as the next of `ends` says."""

    def __init__(self, *ends: tuple[int, Exception]):
        self.ends, self.opened = iter(ends), 0

    def __call__(self):
        self.opened += 1
        last, error = next(self.ends, (10, None))
        yield from range(last)
        if error is not None:
            raise error


@pytest.fixture
def short_waits(monkeypatch, log):
    """Waits as they were logged."""
    monkeypatch.setattr(network, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(network, "_LONGEST_WAIT", 0.006)
    return lambda: [float(message.split()[-2]) for message in log()]


def test_each_item_once(short_waits):
    source = Source((3, ConnectionError()), (3, TimeoutError()), (7, ConnectionError()))
    assert list(read_through(source, "it", 2)) == list(range(10))
    assert source.opened == 4
    assert short_waits() == [0.001, 0.002, 0.001]  # an item between them begins the retries anew


def test_waits_double_up_to_the_longest(short_waits, log):
    with pytest.raises(StreamInterrupted, match="^it: .* 5 retries did not bring it back .ConnectionError gone away."):
        list(read_through(Source(*[(0, ConnectionError("gone\n away"))] * 6), "it", 5))
    assert short_waits() == [0.001, 0.002, 0.004, 0.006, 0.006]
    assert log()[1] == "it: ConnectionError gone away; retry 2 of 5 in 0.002 s"


def test_default_waits_are_minutes_in_all():
    first, longest = network._FIRST_WAIT, network._LONGEST_WAIT
    assert 180 < sum(min(first * 2**retry, longest) for retry in range(network.MAX_RETRIES)) < 600


def test_signatures_of_addresses_are_not_told(short_waits, log):
    lost = ConnectionError("GET https://storage.example/x.parquet?Signature=secret refused")
    with pytest.raises(StreamInterrupted) as error:
        list(read_through(Source(*[(0, lost)] * 2), "it", 1))
    for said in (*log(), str(error.value)):
        assert "secret" not in said and "storage.example/x.parquet?... refused" in said


def test_other_errors_come_through(log):
    read = []
    with pytest.raises(ZeroDivisionError):
        read.extend(read_through(Source((3, ZeroDivisionError())), "it"))
    assert read == [0, 1, 2] and log() == []


def test_nothing_is_read_ahead():
    items = read_through(Source((2, ZeroDivisionError())), "it")
    assert [next(items), next(items)] == [0, 1]


def raised(action) -> Exception:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def caused_by(cause: Exception, error: Exception) -> Exception:
    error.__cause__ = cause
    return error


def answered(status: int) -> http_client.HTTPStatusError:
    request = http_client.Request("GET", "http://localhost/a")
    return http_client.HTTPStatusError("", request=request, response=http_client.Response(status, request=request))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        ConnectionError("Server Disconnected"),
        TimeoutError(),
        OSError(errno.ENETUNREACH, "unreachable"),
        aiohttp.ClientPayloadError(),
        aiohttp.ServerDisconnectedError(),
        http_client.ReadTimeout(""),
        http_client.RemoteProtocolError(""),
        *map(answered, (408, 429, 500, 502, 503, 504)),
        caused_by(answered(503), FileNotFoundError("a")),
        caused_by(caused_by(ConnectionError(), ValueError()), FileNotFoundError("a")),
    ],
    ids=repr,
)
def test_network_errors(error):
    assert is_network_error(error)


@pytest.mark.parametrize(
    "error",
    [
        None,
        FileNotFoundError("a"),
        OSError(errno.ENOSPC, "full"),
        OSError("image file is truncated"),
        ValueError(),
        MemoryError(),
        *map(answered, (401, 403, 404, 410, 416)),
        caused_by(answered(404), FileNotFoundError("a")),
    ],
    ids=repr,
)
def test_no_network_errors(error):
    assert not is_network_error(error)


def test_real_errors(server, tmp_path):
    def read(path):
        with fsspec.open(path, "rb") as file:
            return file.read()

    assert not is_network_error(raised(lambda: read(str(tmp_path / "missing"))))
    assert not is_network_error(raised(lambda: read(f"{server.url}/missing")))
    server.faults = itertools.repeat(503)
    assert is_network_error(raised(lambda: read(f"{server.url}/00.parquet")))
    server.faults = itertools.repeat("gone")
    assert is_network_error(raised(lambda: read(f"{server.url}/00.parquet")))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens there
        assert is_network_error(raised(lambda: read(f"http://127.0.0.1:{unused.getsockname()[1]}/00.parquet")))


def test_real_errors_of_the_hubs_client(server):
    def get(path: str):
        with http_client.Client(timeout=5, trust_env=False) as client:
            client.get(f"{server.url}/{path}").raise_for_status()

    assert not is_network_error(raised(lambda: get("missing")))
    for fault in (503, "gone", "drop"):
        server.faults = iter([fault])
        assert is_network_error(raised(lambda: get("00.parquet")))
