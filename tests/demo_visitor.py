"""What a browser, or somebody who imitates one, sends to a page of `lejepa demo`."""

import http.client
import json
import uuid
from typing import NamedTuple
from urllib.parse import quote, urlsplit

_META = {"_type": "gradio.FileData"}


class Answer(NamedTuple):
    """Whether an event was carried out, and all that the server said about it."""

    success: bool
    text: str

    @property
    def data(self) -> list:
        return json.loads(self.text)["data"]


def file_data(path: object, **more) -> dict:
    """A file as the page's events name it."""
    return {"path": path, "meta": _META} | more


class Visitor:
    """
    One visitor of a page, who can send anything.

    Args:
        url (`str`): The page's address.
    """

    def __init__(self, url: str):
        self.host, self.session = urlsplit(url).netloc, uuid.uuid4().hex
        status, content = self.request("GET", "/config")
        assert status == 200, content
        page = json.loads(content)
        parts = {part["id"]: part["props"].get("elem_id") for part in page["components"]}
        targets = [(event["id"], *target) for event in page["dependencies"] for target in event["targets"]]
        # By their names, and those of a picture by its id too: `seen.select`.
        self.events = {name: number for number, part, name in targets if parts.get(part) != "seen"}
        self.events |= {f"seen.{name}": number for number, part, name in targets if parts.get(part) == "seen"}

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, timeout=60)

    def request(self, method: str, path: str, body=None, **headers) -> tuple[int, bytes]:
        connection = self.connection()
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, path: str, value: object) -> tuple[int, bytes]:
        return self.request("POST", path, json.dumps(value), Content_Type="application/json")

    def upload(self, content: bytes, name: str = "mine.png") -> tuple[int, bytes]:
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        kind = "multipart/form-data; boundary=x"
        return self.request("POST", "/gradio_api/upload", head + content + b"\r\n--x--\r\n", Content_Type=kind)

    def uploaded(self, content: bytes, name: str = "mine.png") -> dict:
        """An upload that is accepted, as events name it."""
        status, answer = self.upload(content, name)
        assert status == 200, answer
        return file_data(json.loads(answer)[0], orig_name=name)

    def join(self, event: str | int, data: list, event_data: object = None) -> tuple[int, bytes]:
        number = self.events[event] if isinstance(event, str) else event
        body = {"data": data, "event_data": event_data, "fn_index": number, "session_hash": self.session}
        return self.post("/gradio_api/queue/join", body)

    def send(self, event: str | int, data: list, event_data: object = None) -> Answer:
        """Send an event and wait for the answer."""
        status, content = self.join(event, data, event_data)
        if status != 200:
            return Answer(False, content.decode())
        number = json.loads(content)["event_id"]
        connection = self.connection()
        try:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={self.session}")
            for line in connection.getresponse():
                if not line.startswith(b"data:"):
                    continue
                message = json.loads(line[5:])
                if message["msg"] == "process_completed" and message["event_id"] == number:
                    return Answer(message["success"], json.dumps(message["output"]))
        finally:
            connection.close()
        raise AssertionError("no answer")

    def picture(self, shown: dict) -> bytes:
        """The content of a picture in an answer."""
        status, content = self.request("GET", f"/gradio_api/file={quote(shown['path'])}")
        assert status == 200, content
        return content
