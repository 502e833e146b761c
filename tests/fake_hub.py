"""A hub of our own: an HTTP server that answers what huggingface_hub (2.4) and datasets (5.2) ask, from folders.

It follows what their code sends and reads; it has not been compared with the real hub. No Xet, no redirects to a CDN.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from fake_hub_uploads import Uploads

_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")


@dataclass
class Repository:
    """Its files at each commit, and what its branches and tags stand for."""

    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeHub:
    """The repositories, what was asked for, and how the server misbehaves."""

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(method, path) of every request, and ("TOKEN", ...) for those that came with one."""
    tokens: dict[str, str] = field(default_factory=dict)
    """What each token may do: read or write."""
    large: dict[str, bytes] = field(default_factory=dict)
    """Files that were uploaded by the LFS protocol, by their sha256."""
    held: threading.Event = field(default_factory=threading.Event)
    """Half of the file that is held back has been sent."""
    _held_file: str = ""
    _go_on: threading.Event = field(default_factory=threading.Event)

    def add(self, kind: str, name: str, files: Path | dict[str, bytes], *, revision="main", gated=False) -> str:
        """Publish a folder's files as a commit, which `revision` then stands for; its hash."""
        if isinstance(files, Path):
            found = [path for path in sorted(files.rglob("*")) if path.is_file()]
            files = {str(path.relative_to(files)): path.read_bytes() for path in found}
        commit = hashlib.sha1(repr([kind, name, sorted(files.items())]).encode()).hexdigest()
        repository = self.repositories.setdefault((kind, name), Repository(gated))
        repository.commits[commit] = files
        repository.refs[revision] = commit
        return commit

    def files_sent(self) -> list[str]:
        """The files that were downloaded, or begun."""
        found = [_RESOLVE.fullmatch(path) for method, path in self.asked if method == "GET"]
        return [match[4] for match in found if match]

    @contextmanager
    def holding(self, file: str) -> Iterator[None]:
        """Send half of `file` and no more while the block runs."""
        self.held.clear()
        self._go_on.clear()
        self._held_file = file
        try:
            yield
        finally:
            self._held_file = ""
            self._go_on.set()

    def environment(self, home: Path) -> dict[str, str]:
        """What a process needs to talk to this hub, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }  # fmt: skip


@contextmanager
def serving(hub: FakeHub | None = None) -> Iterator[FakeHub]:
    """A hub while the block runs; afterwards nobody answers at its address."""
    hub = hub or FakeHub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(Uploads, http.server.BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        if "Authorization" in self.headers:
            self.hub.asked.append(("TOKEN", path))
        body = self._body()
        if self.takes(self.command, path, body):
            return
        body = body.decode()
        if match := _RESOLVE.fullmatch(path):
            self._file("dataset" if match[1] else "model", *match.groups()[1:])
        elif match := _API.fullmatch(path):
            self._api(*match.groups(), body)
        else:
            self._refuse(404, "EntryNotFound")

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _find(self, kind: str, name: str, revision: str) -> tuple[Repository, str] | None:
        """The repository and the commit; what is wrong is answered here."""
        repository = self.hub.repositories.get((kind, name))
        if repository is None:
            return self._refuse(401, "RepoNotFound")  # so the hub says: it may be private
        commit = revision if revision in repository.commits else repository.refs.get(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        return repository, commit

    def _api(self, kind: str, name: str, what: str | None, revision: str | None, under: str | None, body: str) -> None:
        found = self._find(kind, name, revision or "main")
        if found is None:
            return
        repository, commit = found
        files = repository.commits[commit]
        if what in (None, "revision"):
            siblings = [{"rfilename": file, "size": len(data), "blobId": _etag(data)} for file, data in files.items()]
            self._json({"id": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "likes": 0,
                        "gated": "auto" if repository.gated else False, "siblings": siblings}, commit)  # fmt: skip
        elif what == "paths-info":
            paths = parse_qs(body).get("paths", []) if not body.startswith("{") else json.loads(body)["paths"]
            self._json([entry for path in paths for entry in _entries(files) if entry["path"] == path], commit)
        else:
            recursive = "recursive=true" in self.path.lower()
            entries = [entry for entry in _entries(files) if _is_under(entry["path"], under or "", recursive)]
            self._json(entries, commit) if entries or not under else self._refuse(404, "EntryNotFound", commit)

    def _file(self, kind: str, name: str, revision: str, file: str) -> None:
        found = self._find(kind, name, revision)
        if found is None:
            return
        repository, commit = found
        if repository.gated and file not in ("README.md", ".gitattributes"):
            self._refuse(401 if "Authorization" not in self.headers else 403, "GatedRepo", commit)
        elif (data := repository.commits[commit].get(file)) is None:
            self._refuse(404, "EntryNotFound", commit)
        else:
            self._send(data, file, commit)

    def _send(self, data: bytes, file: str, commit: str) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        for header, value in (("ETag", f'"{_etag(data)}"'), ("X-Repo-Commit", commit), ("Accept-Ranges", "bytes")):
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        if file == self.hub._held_file:
            self.wfile.write(data[first : len(data) // 2])
            self.wfile.flush()
            self.hub.held.set()
            self.hub._go_on.wait(60)
            first = len(data) // 2
        self.wfile.write(data[first:])

    def _json(self, document: object, commit: str) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments) -> None:
        pass


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _entries(files: dict[str, bytes]) -> list[dict]:
    """Files and folders, as the hub lists them."""
    found = [{"type": "file", "path": file, "size": len(data), "oid": _etag(data)} for file, data in files.items()]
    folders = {str(parent) for file in files for parent in Path(file).parents if str(parent) != "."}
    return found + [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in sorted(folders)]


def _is_under(path: str, folder: str, recursive: bool) -> bool:
    rest = path.removeprefix(f"{folder}/") if folder else path
    return (not folder or rest != path) and (recursive or "/" not in rest)
