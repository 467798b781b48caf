"""A small Hugging Face Hub on loopback, for tests: repositories in memory, with what the Hub client asks of the real one.

It takes commits (small files inside them, large ones by LFS) and serves them; a repository can be made gated, a file
damaged on its way out, and the server busy. It is its own proxy, too: what is asked of another host is answered as if it
were this one. Requests are kept. Nothing of it leaves this machine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.hub_files import LARGE, Files, blob, entry, flipped, model_info, sha256

TOKEN = "hf_made_up_for_tests"


class HubServer:
    """``with HubServer() as hub:`` serves at ``hub.address``."""

    def __init__(self) -> None:
        self.commits: dict[str, list[tuple[str, Files]]] = {}
        """by repository, oldest first: (commit, all files after it)"""
        self.objects: dict[str, bytes] = {}
        """uploaded by LFS, by sha256"""
        self.gated: set[str] = set()
        self.admitted: set[str] = set()
        """tokens of those who accepted the terms of what is gated"""
        self.read_only = False
        """nobody may write, whatever the token"""
        self.damaged: dict[tuple[str, str], int] = {}
        """by (repository, file): how many more times it is sent with one bit flipped, at the same size"""
        self.busy = 0
        """how many more requests are put off"""
        self.spoil_uploads = False
        """what is uploaded arrives with one bit flipped"""
        self.requests: list[str] = []
        self.proxied: list[str] = []
        """hosts that were asked for through this one"""
        server = self
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": server}))
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def commit(self, repository: str, files: Files) -> str:
        """Add ``files`` to what is there; the commit is returned."""
        history = self.commits.setdefault(repository, [])
        content = (history[-1][1] if history else {}) | files
        text = repository + str(len(history)) + "".join(name + sha256(data) for name, data in content.items())
        history.append((hashlib.sha1(text.encode()).hexdigest(), content))
        return history[-1][0]

    def at(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """(commit, files) of ``main`` or a commit."""
        history = self.commits.get(repository, [])
        if revision == "main":
            return history[-1] if history else None
        return next((each for each in history if each[0] == revision), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def do_CONNECT(self) -> None:
        """The start of TLS to another host: noted, and refused."""
        self.hub.proxied.append(self.path)
        self._refuse(502, "", "nothing beyond this proxy")

    def log_message(self, *args: object) -> None:
        """Silence."""

    def _route(self) -> None:
        self.body = self._read()  # also where it is refused: the connection is used again
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.hub.requests.append(f"{self.command} {path}")
        if address.netloc:
            self.hub.proxied.append(address.netloc)
        if self.hub.busy:
            self.hub.busy -= 1
            self._refuse(503, "", "busy")
            return
        parts = path.strip("/").split("/")
        if parts[0] == "lfs":
            self._receive_object(parts[1])
        elif parts[:2] == ["api", "validate-yaml"]:
            self._validate()
        elif parts[-4:] == ["info", "lfs", "objects", "batch"]:
            self._batch()
        elif parts[:3] == ["api", "repos", "create"]:
            self._create()
        elif parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._refuse(404, "EntryNotFound", "no such address")

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    # What is read.

    def _resolve(self, repository: str, revision: str, name: str) -> None:
        found = self._readable(repository, revision)
        if found is None:
            return
        commit, files = found
        if name not in files:
            self._refuse(404, "EntryNotFound", f"{name} is not in {repository}", {"X-Repo-Commit": commit})
            return
        data = files[name]
        large = name.endswith(LARGE)
        etag = sha256(data) if large else blob(data)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Content-Type": "application/octet-stream"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        left = self.hub.damaged.get((repository, name), 0)
        if left and self.command == "GET":
            self.hub.damaged[repository, name] = left - 1
            data = flipped(data)
        self._answer(200, data, headers)

    def _api(self, repository: str, rest: list[str]) -> None:
        action = rest[0] if rest else "revision"
        revision = rest[1] if len(rest) > 1 else "main"
        if action == "preupload":
            self._preupload(repository)
        elif action == "commit":
            self._commit(repository)
        elif (found := self._readable(repository, revision)) is not None:
            commit, files = found
            entries = [entry(name, data) for name, data in files.items()]
            if action == "tree":
                self._json(entries)
            elif action == "paths-info":
                wanted = parse_qs(self.body.decode())["paths"]
                self._json([each for each in entries if each["path"] in wanted])
            else:
                self._json(model_info(repository, commit, files))

    def _readable(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """What is there, or None once the refusal has been sent."""
        if repository not in self.hub.commits:
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif repository in self.hub.gated and self._token() not in self.hub.admitted:
            self._refuse(
                403 if self._token() else 401, "GatedRepo", f"Access to model {repository} is restricted"
            )
        elif (found := self.hub.at(repository, revision)) is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return found
        return None

    # What is written.

    def _token(self) -> str:
        return str(self.headers.get("Authorization", "")).removeprefix("Bearer ")

    def _may_write(self) -> bool:
        if self._token() != TOKEN:
            self._refuse(401, "", "Invalid username or password.")
        elif self.hub.read_only:
            self._refuse(403, "", "You don't have the rights to create a model under this namespace")
        else:
            return True
        return False

    def _create(self) -> None:
        if self._may_write():
            asked = json.loads(self.body)
            repository = f"{asked['organization']}/{asked['name']}"
            if repository in self.hub.commits:
                self._json({"url": f"{self.hub.address}/{repository}", "error": "it is there already"}, 409)
                return
            self.hub.commits[repository] = []
            self._json({"url": f"{self.hub.address}/{repository}"})

    def _validate(self) -> None:
        """The YAML is read, and its licence and model index have the form the Hub wants."""
        head = json.loads(self.body)["content"].split("---\n")[1]
        data, errors = yaml.safe_load(head), []
        if not isinstance(data.get("license"), str):
            errors.append({"message": '"license" is missing'})
        if data.get("license") == "other" and not {"license_name", "license_link"} <= data.keys():
            errors.append({"message": '"license: other" needs a name and a link'})
        for result in (data.get("model-index") or [{}])[0].get("results", []):
            if not {"task", "dataset", "metrics"} <= result.keys():
                errors.append({"message": '"model-index" has an incomplete result'})
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _preupload(self, repository: str) -> None:
        if self._may_write():
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(self.body)["files"]
            ]
            self._json({"files": files})

    def _batch(self) -> None:
        if self._may_write():
            objects: list[dict[str, Any]] = json.loads(self.body)["objects"]
            for each in objects:
                if each["oid"] not in self.hub.objects:
                    each["actions"] = {"upload": {"href": f"{self.hub.address}/lfs/{each['oid']}"}}
            self._json({"objects": objects, "transfer": "basic"})

    def _receive_object(self, oid: str) -> None:
        if sha256(self.body) != oid:
            self._refuse(400, "", "the content has another sha256")
            return
        self.hub.objects[oid] = flipped(self.body) if self.hub.spoil_uploads else self.body
        self._answer(200, b"", {})

    def _commit(self, repository: str) -> None:
        if not self._may_write():
            return
        files: Files = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = self.hub.commit(repository, files)
        self._json({"commitUrl": f"{self.hub.address}/{repository}/commit/{commit}", "commitOid": commit})

    def _json(self, content: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, text: str, headers: dict[str, str] | None = None) -> None:
        named = ({"X-Error-Code": code} if code else {}) | {"X-Error-Message": text} | (headers or {})
        self._answer(status, json.dumps({"error": text}).encode(), named)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
