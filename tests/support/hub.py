"""A stand-in for the Hugging Face Hub: the paths that a download of single files uses, and ways to misbehave."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """The repositories it serves, by name and file name, and what goes wrong.

    Attributes:
        commits: the commit of each revision name; every revision holds the same files.
        gated: repositories that no token opens.
        private: repositories that only `token` opens.
        cuts: bytes after which the connection closes, for each of the next GETs of a file of a megabyte or more.
        broken: whether it answers everything with 500.
        sizes: sizes announced for files by name, where they shall differ from the real ones.
        requests: "METHOD path" of all that was asked for; with " from N" for a range.
    """

    repositories: Mapping[str, dict[str, bytes]]
    commits: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40})
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    token: str = "hf_good"
    cuts: list[int] = field(default_factory=list)
    broken: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def fetched(self) -> list[str]:
        """The names of the files whose content was asked for."""
        asked = [request.partition("/resolve/")[2] for request in self.requests if request.startswith("GET")]
        return [name.split("/", 1)[1] for name in asked if name]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    handler = type("HubHandler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        start = int(re.sub(r"\D", "", self.headers.get("Range", "").partition("-")[0]) or 0)
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}" + (f" from {start}" if start else ""))
        if self.hub.broken:
            self._refuse(500, "")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._model(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], start)
        else:
            self._refuse(404, "EntryNotFound")

    def _model(self, repository: str, revision: str) -> None:
        commit = self._commit(repository, revision)
        if commit is None:
            return
        siblings = []
        for name, data in self.hub.repositories[repository].items():
            size = self.hub.sizes.get(name, len(data))
            entry = {"rfilename": name, "size": size, "blobId": "0" * 40}
            if not name.endswith(".json"):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
            siblings.append(entry)
        self._send(
            200, json.dumps({"id": repository, "modelId": repository, "sha": commit, "siblings": siblings}).encode()
        )

    def _file(self, repository: str, revision: str, name: str, start: int) -> None:
        commit = self._commit(repository, revision)
        if commit is None:
            return
        data = self.hub.repositories[repository].get(name)
        if data is None:
            return self._refuse(404, "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.hub.cuts.pop(0) if self.command == "GET" and self.hub.cuts and len(data) > 1_000_000 else None
        self._send(206 if start else 200, data[start:], headers, cut)

    def _commit(self, repository: str, revision: str) -> str | None:
        """Returns the commit that is asked for; None if the request has been refused."""
        commit = self.hub.commits.get(revision, revision if revision in self.hub.commits.values() else None)
        given = self.headers.get("Authorization")
        hidden = repository in self.hub.private and given != f"Bearer {self.hub.token}"
        if repository not in self.hub.repositories or hidden:
            self._refuse(404 if given else 401, "RepoNotFound")
        elif repository in self.hub.gated:
            self._refuse(403 if given else 401, "GatedRepo")
        elif commit:
            return commit
        else:
            self._refuse(404, "RevisionNotFound")
        return None

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] = {}, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut is not None:
            self.wfile.write(data[:cut])
            self.close_connection = True
            return
        self.wfile.write(data)
