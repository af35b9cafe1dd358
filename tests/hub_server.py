"""A Hub in one folder: what the real client asks of huggingface.co when repositories are written and read."""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from xet_storage import chunks_of, files_of

_REPO = r"(?P<repo>((datasets|spaces)/)?[^/]+/[^/]+)"
_API = r"/api/(models/)?(?P<repo>((datasets|spaces)/)?[^/]+/[^/]+)"
_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_TEXT = (".json", ".jsonl", ".md", ".yaml", ".txt", ".py")
_MAX_REGULAR = 10 * 2**20
_PIECE = 2**16  # of a body that is read


class Fault:
    """
    What goes wrong, so many times, with requests whose `METHOD path` matches.

    Args:
        pattern (`str`): Searched in `"PUT /lfs/..."`, say.
        status (`int`, *optional*): Answer that instead of doing what was asked.
        headers (`dict`, *optional*): Of that answer.
        cut_after (`int`, *optional*): Read so many bytes of the body and close the connection.
        cut_answer_after (`int`, *optional*): Do it, send so many bytes of the answer's body and close the connection.
        silence (`float`, *optional*): Seconds in which nothing comes; then the connection is closed.
        times (`int`, *optional*, defaults to 1): How often.
    """

    def __init__(
        self, pattern, status=None, headers=None, cut_after=None, cut_answer_after=None, silence=None, times=1
    ):
        self.pattern, self.status, self.headers, self.times = re.compile(pattern), status, headers or {}, times
        self.cut_after, self.cut_answer_after, self.silence = cut_after, cut_answer_after, silence


class HubServer:
    """
    Serves models, datasets and Spaces on loopback until the block ends; what it stored stays in the folder for the
    next one. A dataset is called `datasets/user/name` here, a Space `spaces/user/name`.

    Args:
        folder (`Path`): The storage: `blobs/` and one JSON file a repository.
        port (`int`, *optional*, defaults to 0): A free one if 0.
        tokens (`dict[str, str]`, *optional*): Token -> user who may write to repositories under that name.
    """

    def __init__(self, folder: Path, port: int = 0, tokens: dict[str, str] | None = None):
        self.folder, self.tokens = Path(folder), tokens or {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.bytes_received = 0
        self.alarm: tuple[int, Callable[[], None]] | None = None  # called when that byte has arrived
        self.stop_behind: str | None = None  # the request after which the server is gone
        self.xorbs: dict[str, list[bytes]] = {}  # chunks by the name of what they arrived in
        self.lock = threading.RLock()
        (self.folder / "blobs").mkdir(parents=True, exist_ok=True)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self._server.hub = self
        # So that clients wait for what is not read yet, as behind a real line.
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients that went away
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """As a server that is switched off: no new connections; open ones are answered with none."""
        self.faults.append(Fault("", cut_after=0, times=10**9))
        self._server.shutdown()
        self._server.server_close()

    def until_alarm(self) -> int:
        """How many bytes may be read before somebody wants to know."""
        with self.lock:
            return _PIECE if self.alarm is None else max(1, min(_PIECE, self.alarm[0] - self.bytes_received))

    def count(self, number: int) -> None:
        with self.lock:
            self.bytes_received += number
            due = self.alarm is not None and self.bytes_received >= self.alarm[0]
            call, self.alarm = (self.alarm[1], None) if due else (None, self.alarm)
        if call is not None:
            call()

    # Storage

    def _path(self, repo: str) -> Path:
        return self.folder / f"{repo.replace('/', '--')}.json"

    def read(self, repo: str) -> dict | None:
        """A repository: `refs` (name -> commit) and `commits` (commit -> file -> blob)."""
        path = self._path(repo)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write(self, repo: str, content: dict) -> None:
        self._path(repo).write_text(json.dumps(content), encoding="utf-8")

    def create(self, repo: str, private: bool = False, gated: bool = False, let_in: tuple[str, ...] = ()) -> None:
        """A repository as the Hub makes it, with one commit; `let_in` are users who may read a gated one."""
        content = {"private": private, "gated": gated, "let_in": let_in, "refs": {}, "commits": {}, "parents": {}}
        self.commit(repo, content, "main", {".gitattributes": self.store(_ATTRIBUTES)})

    def commit(self, repo: str, content: dict, branch: str, files: dict[str, dict]) -> str:
        parent = content["refs"].get(branch)
        text = json.dumps([repo, branch, parent, files, len(content["commits"])])
        sha = hashlib.sha1(text.encode()).hexdigest()
        content["commits"][sha], content["refs"][branch], content["parents"][sha] = files, sha, parent
        self.write(repo, content)
        return sha

    def store(self, data: bytes, lfs: bool = False) -> dict:
        oid = hashlib.sha256(data).hexdigest()
        if not self.blob(oid).exists():
            self.blob(oid).write_bytes(data)
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return {"sha256": oid, "oid": oid if lfs else git, "size": len(data), "lfs": lfs}

    def put(self, repo: str, files: dict[str, bytes], revision: str = "main", on_top: bool = True) -> None:
        """
        Files of an existing repository, as their owner would push them; the branch is made if missing. With `on_top`
        False they replace all others, as on the branch `refs/convert/parquet`, which the Hub makes.
        """
        content = self.read(repo)
        before = content["commits"][content["refs"].get(revision, content["refs"]["main"])] if on_top else {}
        new = {name: self.store(data, lfs=not name.endswith(_TEXT)) for name, data in files.items()}
        self.commit(repo, content, revision, before | new)

    def blob(self, oid: str) -> Path:
        return self.folder / "blobs" / oid

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Name -> content, as somebody who clones would see it."""
        content = self.read(repo)
        files = content["commits"][content["refs"].get(revision, revision)]
        return {name: self.blob(file["sha256"]).read_bytes() for name, file in files.items()}


def name_of(repo: str) -> str:
    return repo.removeprefix("datasets/").removeprefix("spaces/")


def owner_of(repo: str) -> str:
    return name_of(repo).split("/")[0]


class _Cut(Exception):
    """The connection is to end here."""


class _Answered(Exception):
    """An error was answered already."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    ROUTES = [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", rf"{_API}/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", rf"{_API}/branch/(?P<branch>[^/]+)", "create_branch"),
        ("DELETE", rf"{_API}/branch/(?P<branch>[^/]+)", "delete_branch"),
        ("POST", rf"{_API}/tag/(?P<revision>[^/]+)", "create_tag"),
        ("GET", rf"{_API}/refs", "refs"),
        ("GET", rf"{_API}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", "tree"),
        ("POST", rf"{_API}/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("GET", rf"{_API}(/revision/(?P<revision>[^/]+))?", "info"),
        ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        ("GET", rf"{_API}/xet-write-token/(?P<revision>[^/]+)", "xet_token"),
        ("GET", r"/v1/chunks/.+", "xet_known_chunks"),
        ("POST", r"/v1/xorbs/default/(?P<name>[0-9a-f]{64})", "xet_xorb"),
        ("POST", r"(/v1)?/shards?", "xet_shard"),
        ("POST", r"/lfs/verify", "lfs_verify"),
        ("GET", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ]

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._route()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _route(self):
        self.hub: HubServer = self.server.hub
        self.cut_answer_after, self.body_read = None, False
        path = urlsplit(self.path).path
        try:
            fault = self._fault(f"{self.command} {path}")
            if fault is not None and fault.cut_after is not None:
                self._body(fault.cut_after)
                raise _Cut
            if fault is not None and fault.silence is not None:
                time.sleep(fault.silence)
                raise _Cut
            if fault is not None and fault.status is not None:
                return self._error(fault.status, "it was told to fail", headers=fault.headers)
            self.cut_answer_after = fault.cut_answer_after if fault is not None else None
            for method, pattern, name in self.ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method == ("GET" if self.command == "HEAD" else self.command):
                    found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    getattr(self, name)(**found)
                    break
            else:
                self._error(404, f"no route {self.command} {path}")
            if self.hub.stop_behind == f"{self.command} {path}":
                self.hub.stop_behind = None
                self.hub.stop()
            return None
        except _Answered:
            return None
        except (_Cut, ConnectionError):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(2)
            return None

    def _fault(self, request: str) -> Fault | None:
        with self.hub.lock:
            self.hub.requests.append(request)
            for fault in self.hub.faults:
                if fault.times > 0 and fault.pattern.search(request):
                    fault.times -= 1
                    return fault
        return None

    # Requests and answers

    def _body(self, limit: int | None = None) -> bytes:
        if self.body_read:
            return b""
        self.body_read = True
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while limit is None or len(data) < limit:
                size = int(self.rfile.readline(), 16)
                data += self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    break
        else:
            length = int(self.headers.get("Content-Length", 0))
            return self._read(length if limit is None else min(limit, length))
        self.hub.count(len(data))
        return data

    def _read(self, length: int) -> bytes:
        pieces, left = [], length
        while left and (piece := self.rfile.read(min(left, self.hub.until_alarm()))):
            self.hub.count(len(piece))
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _json(self):
        return json.loads(self._body() or b"{}")

    def _send(self, status: int, data: bytes, headers: dict | None = None):
        self._body()  # what was not read would be taken for the next request
        self.send_response(status)
        for name, value in ({"Content-Length": len(data)} | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if self.cut_answer_after is None else data[: self.cut_answer_after])
        if self.cut_answer_after is not None:
            self.wfile.flush()
            raise _Cut

    def _answer(self, content, status: int = 200):
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, message: str, code: str | None = None, headers: dict | None = None):
        headers = {"X-Error-Message": message, "Content-Type": "application/json"} | (headers or {})
        if code is not None:
            headers["X-Error-Code"] = code
        self._send(status, json.dumps({"error": message}).encode(), headers)

    # Who asks

    def _user(self) -> str | None:
        """Of the token; None without one. Answers by itself if there is a token that nobody has."""
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in self.hub.tokens:
            self._error(401, "Invalid credentials in Authorization header")
            raise _Answered
        return self.hub.tokens.get(given)

    def _readable(self, repo: str, revision: str | None = None) -> tuple[dict, str]:
        user, content = self._user(), self.hub.read(repo)
        if content is None or (content["private"] and user != owner_of(repo)):
            # The Hub does not say which: 401 to strangers, 404 to users.
            self._error(401 if user is None else 404, "Repository not found", "RepoNotFound")
            raise _Answered
        sha = content["refs"].get(revision or "main", revision)
        if sha not in content["commits"]:
            self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            raise _Answered
        return content, sha

    def _writable(self, repo: str, revision: str | None = None) -> tuple[dict, str]:
        user = self._user()
        found = self._readable(repo, revision)
        if user != owner_of(repo):
            if found[0]["gated"]:
                self._error(403, "Access to this model is restricted", "GatedRepo")
            elif user is None:
                self._error(401, "Unauthorized")
            else:
                self._error(403, "You have no write access to this repository")
            raise _Answered
        return found

    def whoami(self):
        user = self._user()
        if user is None:
            return self._error(401, "Unauthorized")
        return self._answer({"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    # Writing

    def create(self):
        user, asked = self._user(), self._json()
        if user is None:
            return self._error(401, "Unauthorized")
        owner = asked.get("organization") or user
        if owner != user:
            return self._error(403, f"You don't have the rights to create a model under the namespace {owner!r}")
        kind = asked.get("type", "model")
        if kind == "space" and asked.get("sdk") != "gradio":
            return self._error(400, "sdk: these Spaces are run by gradio")
        repo = ("" if kind == "model" else f"{kind}s/") + f"{owner}/{asked['name']}"
        with self.hub.lock:
            known = self.hub.read(repo) is not None
            if not known:
                self.hub.create(repo, asked.get("visibility") == "private" or bool(asked.get("private")))
        answer = {"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo}
        return self._answer(
            answer | ({"error": "You already created this model repo"} if known else {}), 409 * known or 200
        )

    def validate_yaml(self):
        content = self._json()["content"]
        valid = content.startswith("---\n") and "\n---\n" in content
        self._answer({"errors": [] if valid else [{"message": "no metadata"}], "warnings": []}, 200 if valid else 400)

    def preupload(self, repo: str, revision: str):
        content, sha = self._writable(repo, revision)
        files = []
        for asked in self._json()["files"]:
            known = content["commits"][sha].get(asked["path"])
            lfs = asked["size"] > _MAX_REGULAR or not asked["path"].endswith(_TEXT)
            file = {"path": asked["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            files.append(file | ({"oid": known["oid"]} if known else {}))
        self._answer({"files": files})

    def lfs_batch(self, repo: str):
        self._writable(repo)
        objects = []
        for asked in self._json()["objects"]:
            put = {"href": f"{self.hub.url}/lfs/{asked['oid']}"}
            actions = {"upload": put, "verify": {"href": f"{self.hub.url}/lfs/verify"}}
            objects.append(asked if self.hub.blob(asked["oid"]).exists() else asked | {"actions": actions})
        self._answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str):
        data = self._body()
        if len(data) < int(self.headers.get("Content-Length", 0)):
            raise _Cut  # the client went away
        if hashlib.sha256(data).hexdigest() != oid:
            return self._error(400, "The content has another hash")
        self.hub.store(data, lfs=True)
        return self._send(200, b"")

    def lfs_verify(self):
        asked = self._json()
        blob = self.hub.blob(asked["oid"])
        good = blob.exists() and blob.stat().st_size == asked["size"]
        self._answer({}) if good else self._error(404, "No such object")

    # Large files in chunks, the way of the client if nothing else is set

    def xet_token(self, repo: str, revision: str):
        self._writable(repo, revision)
        token = {"accessToken": "of-the-storage", "exp": int(time.time()) + 3600, "casUrl": self.hub.url}
        self._answer(token)

    def xet_known_chunks(self):
        self._error(404, "No such chunk")

    def xet_xorb(self, name: str):
        data = self._body()
        if len(data) < int(self.headers.get("Content-Length", 0)):
            raise _Cut  # the client went away
        with self.hub.lock:
            is_new = name not in self.hub.xorbs
            self.hub.xorbs[name] = chunks_of(data)
        self._answer({"was_inserted": is_new})

    def xet_shard(self):
        for content in files_of(self._body(), self.hub.xorbs.__getitem__):
            self.hub.store(content, lfs=True)
        self._answer({"result": 1})

    def commit(self, repo: str, revision: str):
        self._writable(repo, revision)
        lines = [json.loads(line) for line in self._body().splitlines()]
        with self.hub.lock:
            content = self.hub.read(repo)
            if revision not in content["refs"]:
                return self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            files = dict(content["commits"][content["refs"][revision]])
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
                elif line["key"] == "lfsFile":
                    if not self.hub.blob(value["oid"]).exists():
                        return self._error(400, f"{value['path']} was not uploaded")
                    files[value["path"]] = self.hub.store(self.hub.blob(value["oid"]).read_bytes(), lfs=True)
                elif line["key"] == "deletedFile" and files.pop(value["path"], None) is None:
                    return self._error(404, "A file with this name doesn't exist", "EntryNotFound")
            sha = self.hub.commit(repo, content, revision, files)
        url = f"{self.hub.url}/{repo}/commit/{sha}"
        return self._answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def create_branch(self, repo: str, branch: str):
        content, sha = self._writable(repo, self._json().get("startingPoint"))
        if branch in content["refs"]:
            return self._error(409, "Reference already exists")
        content["refs"][branch] = sha
        self.hub.write(repo, content)
        return self._answer({})

    def delete_branch(self, repo: str, branch: str):
        content, _ = self._writable(repo, branch)
        del content["refs"][branch]
        self.hub.write(repo, content)
        self._answer({})

    def create_tag(self, repo: str, revision: str):
        content, sha = self._writable(repo, revision)
        tag = self._json()["tag"]
        if tag in content["refs"]:
            return self._error(409, "Reference already exists")
        content["refs"][tag] = sha
        content.setdefault("tags", []).append(tag)
        self.hub.write(repo, content)
        return self._answer({})

    # Reading

    def refs(self, repo: str):
        content, _ = self._readable(repo)
        rows = {
            kind: [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}
                for name, sha in content["refs"].items()
                if (name in content.get("tags", [])) == (kind == "tags")
            ]
            for kind in ("heads", "tags")
        }
        self._answer({"branches": rows["heads"], "tags": rows["tags"], "converts": []})

    def info(self, repo: str, revision: str | None = None):
        content, sha = self._readable(repo, revision)
        siblings = [{"rfilename": name} for name in content["commits"][sha]]
        name = name_of(repo)
        facts = {"_id": "0", "id": name, "modelId": name, "author": owner_of(repo), "sha": sha, "tags": []}
        gated = "manual" if content["gated"] else False
        self._answer(facts | {"private": content["private"], "gated": gated, "disabled": False, "siblings": siblings})

    @staticmethod
    def _row(name: str, file: dict) -> dict:
        row = {"type": "file", "path": name, "oid": file["oid"], "size": file["size"]}
        lfs = {"oid": file["sha256"], "size": file["size"], "pointerSize": 130}
        return row | ({"lfs": lfs} if file["lfs"] else {})

    def tree(self, repo: str, revision: str, path: str = ""):
        content, sha = self._readable(repo, revision)
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        prefix, rows, folders = f"{path}/" if path else "", [], set()
        for name, file in sorted(content["commits"][sha].items()):
            if not name.startswith(prefix):
                continue
            parts = name[len(prefix) :].split("/")
            folders |= {
                prefix + "/".join(parts[:depth])
                for depth in range(1, len(parts) if recursive else 2)[: len(parts) - 1]
            }
            if recursive or len(parts) == 1:
                rows.append(self._row(name, file))
        if path and not rows and not folders:
            return self._error(404, "not found", "EntryNotFound", {"X-Repo-Commit": sha})
        rows += [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(folders)]
        return self._answer(rows)

    def paths_info(self, repo: str, revision: str):
        content, sha = self._readable(repo, revision)
        body = self._body().decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        files = content["commits"][sha]
        self._answer([self._row(name, files[name]) for name in asked if name in files])

    def resolve(self, repo: str, revision: str, path: str):
        content, sha = self._readable(repo, revision)
        if content["gated"] and self._user() not in (owner_of(repo), *content["let_in"]):
            return self._error(403, "Access to this model is restricted", "GatedRepo", {"X-Repo-Commit": sha})
        file = content["commits"][sha].get(path)
        if file is None:
            return self._error(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": sha})
        data = self.hub.blob(file["sha256"]).read_bytes()
        headers = {"ETag": f'"{file["oid"]}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self._send(200, data, headers)
        size = len(data)
        first = int(asked[1]) if asked[1] else size - int(asked[2])
        last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
        if first >= size:
            return self._send(416, b"", headers | {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return self._send(206, data[first : last + 1], headers)
