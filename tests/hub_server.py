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
            parts = self._note().strip("/").split("/")
            is_api = parts[:2] == ["api", "models"]
            owner, name, action, revision, *rest = (parts[2:] if is_api else parts) + [""] * 3
            repo = hub.repos.get(f"{owner}/{name}")
            if repo is None or repo.token not in (None, self._token()):
                return self._send(401 if repo else 404, error="RepoNotFound")
            if repo.status != 200:
                return self._send(repo.status)
            if repo.gated:
                return self._send(403, error="GatedRepo")
            sha = repo.resolve(unquote(revision or "main"))
            if sha is None:
                return self._send(404, error="RevisionNotFound")
            files = repo.commits[sha]
            if action == "revision":
                return self._json({"id": f"{owner}/{name}", "sha": sha})
            if action == "tree":
                sizes = {path: {"size": len(d), "oid": _digest(d)} for path, d in files.items()}
                return self._json([{"type": "file", "path": p, **s} for p, s in sizes.items()])
            data = files.get("/".join(part for part in rest if part))
            if data is None:
                return self._send(404, error="EntryNotFound")
            told = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            return self._send(200, data, cut=repo.cut_short, **told)

        do_GET = do_HEAD

        def do_POST(self) -> None:
            path = self._note()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if hub.write_token not in (None, self._token()):
                return self._send(401)
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

        def _note(self) -> str:
            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            return path

        def _token(self) -> str:
            return self.headers.get("Authorization", "").removeprefix("Bearer ")

        def _json(self, content: object) -> None:
            self._send(200, json.dumps(content).encode(), **{"Content-Type": "application/json"})

        def _send(
            self, status: int, data: bytes = b"", *, error: str = "", cut: bool = False, **more: str
        ) -> None:
            self.send_response(status)
            told = {"X-Error-Code": error} if error else more
            for name, value in (told | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
                self.close_connection = self.close_connection or cut

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent: the tests read `requests`."""

    return Handler


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
