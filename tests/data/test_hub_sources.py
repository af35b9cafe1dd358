"""A real Hub server on loopback, a real client in its own process."""

import json
import os
import subprocess
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pictures import encoded, table

TOKEN = "hf_SECRET"
COMMITS = {"main": "0123456789" * 4, "first": "9876543210" * 4}
README = b"""---
configs:
- config_name: small
  data_files: small.parquet
- config_name: large
  data_files: large-*.parquet
dataset_info:
- config_name: small
  features:
  - name: photo
    dtype: image
  splits:
  - name: train
    num_examples: 1
- config_name: large
  features:
  - name: photo
    dtype: image
  splits:
  - name: train
    num_examples: 4
---
"""


class Hub(BaseHTTPRequestHandler):
    """Read-only. Owner `me`; what a repository is called tells how it can be reached."""

    repositories: dict[str, dict[str, dict[str, bytes]]] = {}  # name -> revision -> files
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.split("?")[0].replace("%2F", "/")
        if not path.startswith(("/api/datasets/me/", "/datasets/me/")):
            return self.missing("RepoNotFound")
        repository, _, rest = path.split("/datasets/me/")[1].partition("/")
        if repository == "private":
            return self.missing("RepoNotFound", status=401)
        if repository == "locked" or (repository == "gated" and rest.startswith("resolve/")):
            return self.missing("GatedRepo", status=403)
        if repository not in self.repositories:
            return self.missing("RepoNotFound")
        what, _, rest = rest.partition("/")
        revision, _, name = (rest or "main").partition("/")
        revision = next((known for known, commit in COMMITS.items() if revision in (known, commit)), None)
        if revision not in self.repositories[repository]:
            return self.missing("RevisionNotFound")
        self.commit, files = COMMITS[revision], self.repositories[repository][revision]
        if what in ("", "revision"):
            siblings = [{"rfilename": name} for name in files]
            return self.json({"id": f"me/{repository}", "sha": self.commit, "siblings": siblings, "tags": []})
        if what == "paths-info":
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            return self.json([entry(name, files[name]) for name in body["paths"] if name in files])
        if what == "tree":
            return self.json([entry(name, data) for name, data in files.items()])
        return self.file(files[name]) if name in files else self.missing("EntryNotFound")

    do_HEAD = do_POST = do_GET

    def file(self, data: bytes):
        size, given = len(data), self.headers.get("Range")
        headers = {"ETag": f'"{zlib.crc32(data):040x}"', "X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        if given:
            first, last = given.removeprefix("bytes=").split("-")
            first, last = int(first), min(int(last or size), size - 1)
            data = data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self.reply(206 if given else 200, data, headers)

    def json(self, value):
        headers = {"Content-Type": "application/json", "X-Repo-Commit": self.commit}
        self.reply(200, json.dumps(value).encode(), headers)

    def missing(self, code: str, status: int = 404):
        headers = {"X-Repo-Commit": self.commit} if code == "EntryNotFound" else {}
        self.reply(status, b"{}", {"X-Error-Code": code, **headers})

    def reply(self, status: int, data: bytes, headers: dict):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def entry(name: str, data: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(data), "oid": f"{zlib.crc32(data):040x}"}


CLIENT = """
import json
import logging
import sys
import traceback
import zlib

logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)

from lejepa_hf.data.sources import load_source

ASKED = {
    "default": {"name": "me/pets"},
    "test": {"name": "me/pets", "split": "test"},
    "revision": {"name": "me/pets", "revision": "first"},
    "one file": {"name": "me/pets", "data_files": "train-00001-of-00002.parquet"},
    "files": {"name": "me/pets", "data_files": ["train-00001*", "test-*.parquet"]},
    "config": {"name": "me/birds", "config": "large"},
    "file of a described set": {"name": "me/birds", "data_files": "large-1.parquet"},
    "hf": {"name": "hf://datasets/me/pets/train-*.parquet"},
    "hf at revision": {"name": "hf://datasets/me/pets@first/*.parquet"},
    "unknown split": {"name": "me/pets", "split": "dev"},
    "unknown config": {"name": "me/pets", "config": "dogs"},
    "unknown revision": {"name": "me/pets", "revision": "second"},
    "unknown files": {"name": "me/pets", "data_files": "validation*"},
    "unknown hf": {"name": "hf://datasets/me/pets/validation*.parquet"},
    "no config": {"name": "me/birds"},
    "unknown": {"name": "me/pests"},
    "bare": {"name": "pests"},
    "odd name": {"name": "me/aggregated"},
    "empty": {"name": "me/empty"},
    "gated": {"name": "me/gated"},
    "gated hf": {"name": "hf://datasets/me/gated/a.parquet"},
    "locked": {"name": "me/locked"},
    "locked hf": {"name": "hf://datasets/me/locked/a.parquet"},
    "private": {"name": "me/private"},
    "private hf": {"name": "hf://datasets/me/private/a.parquet"},
}

def answer(settings, streaming):
    try:
        source = load_source(**settings, streaming=streaming)
    except ValueError as error:
        traceback.print_exc()
        return str(error)
    return [source.num_images, sorted(zlib.crc32(row[source.image_column]["bytes"]) for row in source.dataset)]

answers = {name: [answer(settings, streaming) for streaming in (True, False)] for name, settings in ASKED.items()}
print("RESULT" + json.dumps(answers))
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    home = tmp_path_factory.mktemp("hub")

    def parquet(numbers, columns=("photo", "kind")) -> bytes:
        table(numbers).select_columns(list(columns)).to_parquet(home / "any.parquet")
        return (home / "any.parquet").read_bytes()

    pets = {"train-00000-of-00002": range(3), "train-00001-of-00002": range(3, 5), "test-00000-of-00001": [9]}
    birds = {"small": [1], "large-0": [2, 3], "large-1": [4, 5]}
    repositories = {
        "pets": {
            "main": {f"{name}.parquet": parquet(numbers) for name, numbers in pets.items()},
            "first": {"train.parquet": parquet([7])},
        },
        "birds": {
            "main": {"README.md": README, **{f"{name}.parquet": parquet(n, ["photo"]) for name, n in birds.items()}}
        },
        "empty": {"main": {"README.md": b"Nothing yet."}},
        "gated": {"main": {"a.parquet": parquet([1])}},
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Filled", (Hub,), {"repositories": repositories}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    environment |= {"HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT], env=environment, cwd=home, capture_output=True, text=True, timeout=120
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr[-4000:]
    return done, json.loads(done.stdout.split("RESULT")[1]), f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ("default", range(5)),
        ("test", [9]),
        ("revision", [7]),
        ("one file", [3, 4]),
        ("files", [3, 4, 9]),
        ("config", [2, 3, 4, 5]),
        ("file of a described set", [4, 5]),
        ("hf", range(5)),
        ("hf at revision", [7]),
    ],
)
def test_images_of_the_hub(client, asked, numbers):
    images = sorted(zlib.crc32(encoded(number)) for number in numbers)
    stream, whole = client[1][asked]
    assert whole == [len(images), images]
    assert stream in ([len(images), images], [None, images])  # a length that is told must be right


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("unknown split", ["no split 'dev'", "train", "test"]),
        ("unknown config", ["set `config` to one of them", "dogs", "default"]),
        ("unknown revision", ["'me/pets' cannot be opened, check `revision`", "second"]),
        ("unknown files", ["'me/pets' has no images", "validation*"]),
        ("unknown hf", ["'hf://datasets/me/pets/validation*.parquet' has no images"]),
        ("no config", ["set `config` to one of them", "small", "large"]),
        ("unknown", ["'me/pests' was not found"]),
        ("bare", ["'pests' was not found"]),
        ("odd name", ["'me/aggregated' was not found"]),
        ("empty", ["'me/empty' has no images"]),
        ("gated", ["'me/gated' is gated", "{}/datasets/me/gated", "`hf auth login`"]),
        ("gated hf", ["a.parquet' is gated", "{}/datasets/me/gated", "`hf auth login`"]),
        ("locked", ["'me/locked' is gated", "{}/datasets/me/locked", "`hf auth login`"]),
        ("locked hf", ["a.parquet' has no images", "{}/datasets/me/locked", "`hf auth login`"]),
        ("private", ["'me/private' was not found", "{}/datasets/me/private", "`hf auth login`"]),
        ("private hf", ["a.parquet' has no images", "{}/datasets/me/private", "`hf auth login`"]),
    ],
)
def test_what_the_hub_does_not_give(client, asked, said):
    for answer in client[1][asked]:
        assert isinstance(answer, str)
        assert [part.format(client[2]) for part in said if part.format(client[2]) not in answer] == []
        assert "\n" not in answer


def test_the_token_is_never_shown(client):
    done = client[0]
    assert "Traceback" in done.stderr and "DEBUG" in done.stderr  # all there is to see was shown
    assert TOKEN not in done.stdout and TOKEN not in done.stderr
