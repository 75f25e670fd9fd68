"""A server on localhost that answers as the Hugging Face Hub does.

Run as `with HubServer() as hub:`; set HF_ENDPOINT to `hub.url` before huggingface_hub is imported.
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repo:
    """A repository: its commits, oldest first, and how it treats those who ask."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    status: int = 200
    cut_short: bool = False

    def commit(self, files: dict[str, bytes], tag: str | None = None) -> str:
        """Add a commit whose files are these, and return its name."""
        sha = _digest(repr((len(self.commits), sorted(files.items()))).encode())
        self.commits[sha] = dict(files)
        if tag:
            self.tags[tag] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        if revision == "main":
            return list(self.commits)[-1] if self.commits else None
        sha = self.tags.get(revision, revision)
        return sha if sha in self.commits else None


class HubServer:
    """The server; `repos` may be changed while it runs, `requests` lists "METHOD path"."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self.write_token: str | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def repo(self, name: str, files: dict[str, bytes], **settings: object) -> Repo:
        """Add a repository with one commit."""
        self.repos[name] = Repo(**settings)  # type: ignore[arg-type]
        self.repos[name].commit(files)
        return self.repos[name]

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._read()

        def do_GET(self) -> None:
            self._read()

        def do_POST(self) -> None:
            path = self._note()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.write_token and self.headers.get("Authorization") != f"Bearer {hub.write_token}":
                return self._refuse(401, None)
            if path == "/api/validate-yaml":
                return self._json({"errors": [], "warnings": []})
            if path == "/api/repos/create":
                wanted = json.loads(body)
                name = "/".join(part for part in (wanted["organization"], wanted["name"]) if part)
                hub.repos.setdefault(name, Repo())
                return self._json({"url": f"{hub.url}/{name}"})
            owner, name, action = path.removeprefix("/api/models/").split("/")[:3]
            if action == "preupload":
                files = [file["path"] for file in json.loads(body)["files"]]
                modes = [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]
                return self._json({"files": modes})
            lines = [json.loads(line) for line in body.splitlines()]
            sent = [line["value"] for line in lines if line["key"] == "file"]
            sha = hub.repos[f"{owner}/{name}"].commit(
                {file["path"]: base64.b64decode(file["content"]) for file in sent}
            )
            url = f"{hub.url}/{owner}/{name}/commit/{sha}"
            return self._json({"success": True, "commitOid": sha, "commitUrl": url})

        def _read(self) -> None:
            parts = self._note().strip("/").split("/")
            is_api = parts[:2] == ["api", "models"]
            owner, name, action, revision, *rest = (parts[2:] if is_api else parts) + [""] * 3
            repo = hub.repos.get(f"{owner}/{name}")
            if repo is None or not self._may_read(repo):
                return self._refuse(401 if repo else 404, "RepoNotFound")
            if repo.status != 200:
                return self._refuse(repo.status, None)
            if repo.gated:
                return self._refuse(403, "GatedRepo")
            sha = repo.resolve(unquote(revision or "main"))
            if sha is None:
                return self._refuse(404, "RevisionNotFound")
            if action == "revision":
                return self._json({"id": f"{owner}/{name}", "sha": sha})
            if action == "tree":
                return self._json(
                    [
                        {"type": "file", "path": name, "size": len(data), "oid": _digest(data)}
                        for name, data in repo.commits[sha].items()
                    ]
                )
            return self._file(repo, sha, "/".join(part for part in rest if part))

        def _file(self, repo: Repo, sha: str, path: str) -> None:
            data = repo.commits[sha].get(path)
            if data is None:
                return self._refuse(404, "EntryNotFound")
            self.send_response(200)
            self.send_header("X-Repo-Commit", sha)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[: len(data) // 2] if repo.cut_short else data)
                self.close_connection = repo.cut_short
            return None

        def _may_read(self, repo: Repo) -> bool:
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            return repo.token in (None, given)

        def _note(self) -> str:
            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            return path

        def _json(self, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _refuse(self, status: int, code: str | None) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent: the tests read `requests`."""

    return Handler


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
