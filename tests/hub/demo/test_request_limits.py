"""The middleware around a small application that answers with what it received."""

import asyncio
import json
import os

import pytest

from lejepa_hf.hub.demo import request_limits
from lejepa_hf.hub.demo.request_limits import RequestLimits
from lejepa_hf.hub.demo.uploads import Uploads

JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"


async def echo(scope, receive, send):
    content = b""
    while True:
        message = await receive()
        content += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": content})


async def send(
    limits: RequestLimits, method: str, path: str, *parts: bytes, length: int | None = None, hangs=False, query=b""
):
    """Status and content of the answer to a request whose body comes in parts, and how many of them were read."""
    waiting, sent = list(parts), []

    async def receive():
        if not waiting and (hangs or not parts):
            await asyncio.sleep(0 if not hangs else 3600)
        if not waiting:
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting) or hangs}

    async def collect(message):
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": query}
    await limits(scope, receive, collect)
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent), len(parts) - len(waiting)


@pytest.fixture
def limits(tmp_path):
    return RequestLimits(echo, Uploads(tmp_path))


def answer(*arguments, **settings):
    return asyncio.run(send(*arguments, **settings))


def test_what_a_page_sends_arrives_as_it_is(limits, tmp_path):
    event = json.dumps({"data": [{"path": str(tmp_path / "x.png"), "url": "http://h/x"}, 3]}).encode()
    assert answer(limits, "POST", JOIN, event[:9], event[9:]) == (200, event, 2)
    assert answer(limits, "POST", UPLOAD, b"a" * 9, b"b") == (200, b"a" * 9 + b"b", 2)
    for path in ("/", "/config", "/assets/index.js", "/theme.css", "/gradio_api/info", "/gradio_api/queue/data"):
        assert answer(limits, "GET", path)[0] == 200
    assert answer(limits, "GET", f"/gradio_api/file={os.path.realpath(tmp_path)}/{'a' * 64}/x.png")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/run/predict", "/gradio_api/api/predict", "/gradio_api/call/look", "/gradio_api/call/v2/look",
        "/gradio_api/component_server", "/gradio_api/process_recording", "/gradio_api/cancel", "/gradio_api/reset",
        "/gradio_api/stream/1", "/gradio_api/vibe-edit", "/login", "/gradio_api/queue/join/", "/", "",
        "/gradio_api/upload/../run/predict",
    ],
)  # fmt: skip
def test_nothing_else_can_be_sent(limits, path):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert answer(limits, method, path, b"{}") == (404, b"Not found.", 0)
    assert answer(limits, "PUT", JOIN, b"{}", length=70_000)[0] == 413  # limited as well


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file//etc/passwd", "/gradio_api/file=http://127.0.0.1/",
        "/gradio_api/file=", "/gradio_api/file=\n/etc/passwd", "/gradio_api/proxy=http://127.0.0.1/", "/monitoring",
        "/monitoring/summary", "/gradio_api/deep_link", "/gradio_api/runs", "/gradio_api/dev/reload",
        "/gradio_api/run-history/records", "/gradio_api/user", "/gradio_api/openapi.json", "/gradio_api",
        "/static//windows/win.ini", "/static/../secret", "/assets/C:/x", "/static/..\\x", "/gradio_apis",
        "/gradio_api/custom_component/a/client/b/c", "/gradio_api/infos", "/gradio_api/queue/datas",
    ],
)  # fmt: skip
def test_what_the_page_does_not_show(limits, path):
    for method in ("GET", "HEAD"):
        assert answer(limits, method, path)[:2] == (404, b"Not found.")


def test_large_bodies(limits, monkeypatch):
    # Of a length that is known, nothing is read.
    assert answer(limits, "POST", UPLOAD, b"a", length=600 << 20) == (
        413,
        b"At most 67,174,400 bytes are accepted.",
        0,
    )
    assert answer(limits, "POST", JOIN, b"a", length=70_000)[::2] == (413, 0)
    assert answer(limits, "POST", JOIN, b"a", length="-1")[::2] == (413, 0)
    assert answer(limits, "POST", JOIN, *[b" " * 9000] * 50)[::2] == (413, 8)
    monkeypatch.setitem(request_limits._SENT, UPLOAD, 25_000)
    assert answer(limits, "POST", UPLOAD, *[b"a" * 9000] * 50)[::2] == (413, 3)


def test_the_connection_ends_with_an_answer_before_the_end_of_a_request(tmp_path):
    async def refuse(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def headers(*parts: bytes):
        waiting, sent = list(parts), []

        async def receive():
            return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

        async def collect(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": UPLOAD, "headers": []}
        await RequestLimits(refuse, Uploads(tmp_path))(scope, receive, collect)
        return sent[0]["headers"]

    assert asyncio.run(headers(b"a", b"b")) == [(b"connection", b"close")]
    assert asyncio.run(headers(b"a")) == []


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1/x.png", "HTTPS://h/", "file:///etc/passwd", " data:image/png;base64,"]
)
def test_no_address_is_fetched(limits, path):
    for data in ([{"path": path}, 1], [1, {"path": path}], [[{"a": {"path": path}}]]):
        status, reason, _ = answer(limits, "POST", JOIN, json.dumps({"data": data}).encode())
        assert status == 400 and b"not an address" in reason


@pytest.mark.parametrize("event", [b"", b"{", b"\xff\xfe", b"[" * 60_000])
def test_events_that_are_not_json(limits, event):
    assert answer(limits, "POST", JOIN, event)[0] == 400


@pytest.mark.parametrize("session", ["a" * 65, 7, ["a"], {}, None])
def test_names_that_gradio_remembers_are_short(limits, session):
    assert answer(limits, "POST", JOIN, json.dumps({"session_hash": session}).encode())[0] == 400
    assert answer(limits, "POST", JOIN, json.dumps([session]).encode())[0] == 400
    for path in ("/gradio_api/upload_progress", "/gradio_api/queue/data", "/gradio_api/info"):
        assert answer(limits, "GET", path, query=b"session_hash=" + b"a" * 64)[0] == 200
        assert answer(limits, "GET", path, query=b"session_hash=" + b"a" * 1000)[0] == 404
    assert answer(limits, "GET", f"/gradio_api/heartbeat/{'a' * 1000}")[0] == 404
    assert answer(limits, "GET", "/", query=b"__sign=" + b"a" * 1000)[0] == 200  # of a private Space
    for query in (b"deep_link=../aaa", b"a=1&deep%5Flink=x"):
        assert answer(limits, "GET", "/config", query=query)[0] == answer(limits, "GET", "/", query=query)[0] == 404


def test_slow_requests_end(limits, monkeypatch):
    monkeypatch.setattr(request_limits, "_SECONDS", 0.01)
    for path in (JOIN, UPLOAD):
        assert answer(limits, "POST", path, b"{", hangs=True)[0] == 408


def test_many_at_the_same_time(limits):
    async def flood(method: str, path: str, number: int) -> list[int]:
        tasks = [asyncio.create_task(send(limits, method, path, b"{}", hangs=True)) for _ in range(number)]
        done, pending = await asyncio.wait(tasks, timeout=0.3)
        for task in pending:
            task.cancel()
        await asyncio.wait(tasks)
        return [task.result()[0] for task in done], len(pending)

    assert asyncio.run(flood("POST", UPLOAD, 12)) == ([503] * 4, 8)
    assert asyncio.run(flood("GET", "/", 403)) == ([503] * 3, 400)
    assert answer(limits, "GET", "/")[0] == answer(limits, "POST", UPLOAD, b"a")[0] == 200  # all are counted out
