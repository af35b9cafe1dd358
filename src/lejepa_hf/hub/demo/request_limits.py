"""RequestLimits: what the server of the page accepts, before Gradio reads it."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from .uploads import LARGEST_UPLOAD, Uploads

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_API = "/gradio_api"
_EVENT, _UPLOAD = f"{_API}/queue/join", f"{_API}/upload"
# The two requests that send something, and their largest size in bytes. Gradio has more: direct calls of the page's
# functions that evade the queue, calls of components, recordings.
_SENT = {_EVENT: 64 << 10, _UPLOAD: LARGEST_UPLOAD + (64 << 10)}
# What the page reads of Gradio's interface. The rest would fetch from other servers, store files, or show usage.
_READ = re.compile(
    f"{_API}/(startup-events|app_id|info|login_check|theme[.]css|heartbeat/.*|queue/(data|status)|upload_progress|file=.*)",
    re.DOTALL,
)
_FILE = re.compile(f"{_API}/file=(.*)", re.DOTALL)
_ODD = re.compile(r"//|\\|[.][.]|:")  # in addresses; some versions of Gradio would follow them to other files
_READING = ("GET", "HEAD", "OPTIONS")
_SECONDS = 120  # for a request to arrive
_MOST_REQUESTS = 400  # at the same time; a page that is open needs two
_MOST_UPLOADS = 8
_CLOSE = (b"connection", b"close")  # after an answer whose request was not read to its end
# Gradio remembers names of sessions and of uploads, some for ever.
_LONGEST_NAME = 64
_LONGEST_ADDRESS = 1000


class _Refused(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class RequestLimits:
    """
    ASGI middleware around Gradio's application. It answers 404 to requests that the page never makes and to files
    that are not in the folder of `uploads`, 413 to bodies that are too large, without reading them, 400 to events that
    name an address instead of an upload, which Gradio would download, 408 to slow ones, and 503 to too many at once.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], uploads: Uploads) -> None:
        self._app, self._uploads = app, uploads
        self._running = self._uploading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
        has_answered, body = False, _Body(receive, _SENT.get(path, 0))

        async def observe(message: MutableMapping[str, Any]) -> None:
            nonlocal has_answered
            if not has_answered and scope["method"] not in _READING and not body.has_ended:
                message = {**message, "headers": [*message["headers"], _CLOSE]}  # or the server would read the rest
            has_answered = True
            await send(message)

        is_upload = path == _UPLOAD
        self._running, self._uploading = self._running + 1, self._uploading + is_upload
        try:
            self._check(scope, path)
            if scope["method"] not in _READING:
                receive = _again(await self._event(body), receive) if path == _EVENT else body.receive
            if is_upload:
                await asyncio.to_thread(self._uploads.tidy)
            await self._app(scope, receive, observe)
        except _Refused as refused:
            if not has_answered:
                await _answer(send, refused, as_json=path == _EVENT)
        finally:
            self._running, self._uploading = self._running - 1, self._uploading - is_upload

    def _check(self, scope: Scope, path: str) -> None:
        """Raise unless the request may be read."""
        if self._running > _MOST_REQUESTS or self._uploading > _MOST_UPLOADS:
            raise _Refused(503, "Too many requests at the same time: try again later.")
        query = scope.get("query_string", b"")
        if (
            path.startswith(_API)
            and len(path) + len(query) > _LONGEST_ADDRESS
            or b"deep_link" in unquote_to_bytes(query)
        ):
            raise _Refused(404, "Not found.")
        if not (self._is_readable(path) if scope["method"] in _READING else path in _SENT):
            raise _Refused(404, "Not found.")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if path in _SENT and (not length.isdigit() or int(length) > _SENT[path]):
            raise _Refused(413, f"At most {_SENT[path]:,} bytes are accepted.")

    def _is_readable(self, path: str) -> bool:
        file = _FILE.fullmatch(path)
        if file is not None:
            return self._uploads.has(file[1])
        if path.startswith(_API):
            return _READ.fullmatch(path) is not None or path in _SENT  # for OPTIONS; Gradio refuses the others
        return not path.startswith("/monitoring") and not _ODD.search(path)

    async def _event(self, body: "_Body") -> bytes:
        """Read an event."""
        content = await body.read()
        try:
            event = json.loads(content)
            names_address = _names_address(event)
        except (ValueError, RecursionError):
            raise _Refused(400, "An event must be JSON.") from None
        session = event.get("session_hash", "") if isinstance(event, dict) else None
        if not isinstance(session, str) or len(session) > _LONGEST_NAME:
            raise _Refused(400, f"An event must name its session in at most {_LONGEST_NAME} characters.")
        if names_address:
            raise _Refused(400, "An event must name an upload, not an address.")
        return content


class _Body:
    """The body of a request, as long as it is neither too large nor too slow."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._left = receive, most
        self._end = asyncio.get_running_loop().time() + _SECONDS
        self.has_ended = False

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part."""
        if self.has_ended:  # only the message that the client has gone may follow, at any time
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._end - asyncio.get_running_loop().time())
        except asyncio.TimeoutError:
            raise _Refused(408, f"The request did not arrive within {_SECONDS} seconds.") from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise _Refused(413, "The request is too large.")
        self.has_ended = not message.get("more_body", False)
        return message

    async def read(self) -> bytes:
        """All of it."""
        parts = []
        while not self.has_ended:
            message = await self.receive()
            parts.append(message.get("body", b""))
        return b"".join(parts)


def _again(content: bytes, receive: Receive) -> Receive:
    """Receive a body that was read already, and then what comes after it."""
    parts = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive_again() -> MutableMapping[str, Any]:
        return parts.pop() if parts else await receive()

    return receive_again


def _names_address(value: Any) -> bool:  # noqa: ANN401, any JSON value
    """Whether a value names a file by a url, or holds the file itself as a `data:` url."""
    if isinstance(value, list):
        return any(map(_names_address, value))
    if not isinstance(value, dict):
        return False
    path = value.get("path")
    is_address = isinstance(path, str) and ("://" in path or path.strip().lower().startswith("data:"))
    return is_address or any(map(_names_address, value.values()))


async def _answer(send: Send, refused: _Refused, as_json: bool) -> None:
    """Give the reason. The page shows the text of a refused upload as it is, but reads the JSON of a refused event."""
    content = (json.dumps({"error": refused.reason}) if as_json else refused.reason).encode()
    headers = [(b"content-type", b"application/json" if as_json else b"text/plain"), _CLOSE]
    headers.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
