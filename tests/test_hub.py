"""Weights come from the Hub and go there: a real server on localhost, real processes.

huggingface_hub reads its environment when it is imported, so each case is a process of its own.
"""

import base64
import hashlib
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from amd_seg.errors import WeightsError
from amd_seg.model.appearance import SemanticNetwork
from amd_seg.model.config import SemanticConfig, SemanticWeightsConfig
from amd_seg.weights import push_to_hub, save_weights
from tests.processes import ENVIRONMENT, contents, python

# A server on localhost that answers as the Hub does.


@dataclass
class Repo:
    """A repository: its commits, oldest first, and how it treats those who ask."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    refusal: tuple[int, str] | None = None
    cut_short: bool = False

    def commit(self, files: dict[str, bytes], tag: str = "main") -> str:
        """Add a commit whose files are these, and return its name."""
        sha = _digest(repr((len(self.commits), sorted(files.items()))).encode())
        self.commits[sha] = dict(files)
        self.revisions |= dict.fromkeys(("main", tag, sha), sha)
        return sha


@dataclass
class Hub:
    """What the server has; `repos` may be changed while it runs, `requests` lists "METHOD path"."""

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    write_token: str | None = None
    url: str = ""

    def repo(self, name: str, files: dict[str, bytes], **settings: object) -> Repo:
        """Add a repository with one commit."""
        self.repos[name] = Repo(**settings)  # type: ignore[arg-type]
        self.repos[name].commit(files)
        return self.repos[name]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            parts = self._note().strip("/").split("/")
            is_api = parts[:2] == ["api", "models"]
            owner, name, action, revision, *rest = (parts[2:] if is_api else parts) + [""] * 3
            repo = hub.repos.get(f"{owner}/{name}")
            if repo is None or repo.token not in (None, self._token()):
                return self._send(401 if repo else 404, error="RepoNotFound")
            if repo.refusal:
                return self._send(repo.refusal[0], error=repo.refusal[1])
            sha = repo.revisions.get(unquote(revision or "main"))
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
            files = {file["path"]: base64.b64decode(file["content"]) for file in sent}
            sha = hub.repos[f"{owner}/{name}"].commit(files)
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


# Processes that ask it.

SCRIPT = """
import sys
from amd_seg.errors import WeightsError
from amd_seg.weights import fetch_snapshot, load_any_weights as load, push_to_hub as push
for source in sys.argv[1:]:
    try:
        print({result})
    except WeightsError as error:
        print("WeightsError:", error)
"""
"""Prints a line for each source: what came of it, or the error."""

FETCH = SCRIPT.format(result="fetch_snapshot(source)")
LOAD = SCRIPT.format(result="(found := load(source)).source, found.config.name")
PUSH = LOAD.replace("(found := load(source", "push(source, 'org/mine'), (found := load('org/mine'")

Run = Callable[..., list[str]]


@pytest.fixture(scope="module")
def files(weights: Path) -> dict[str, bytes]:
    return contents(weights)


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub)) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """Run a script against the server; return the lines of its stdout."""
    inherited = {k: v for k, v in ENVIRONMENT.items() if not k.startswith(("HF_", "HUGGING"))}
    own = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url}
    own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def run(script: str, *args: object, **environment: str) -> list[str]:
        settings = inherited | own | environment
        done = python("-c", script, *args, env=settings, cwd=tmp_path)
        assert done.stderr == ""
        return done.stdout.splitlines()

    return run


@pytest.mark.slow
def test_weights_are_fetched_once_and_then_cached(
    hub: Hub, run: Run, files: dict[str, bytes], tmp_path: Path
) -> None:
    repo = hub.repo("org/tiny", files | {"README.md": b"# card", "optimizer.pth": b"large"})
    (fetched,) = run(FETCH, "org/tiny")
    assert Path(fetched).is_relative_to(tmp_path / "hf")
    assert contents(Path(fetched)) == files
    hub.requests.clear()
    assert run(FETCH, "org/tiny") == [fetched]
    assert not [line for line in hub.requests if "/resolve/" in line]
    hub.requests.clear()
    assert run(FETCH, "org/tiny", HF_HUB_OFFLINE="1") == [fetched]
    assert hub.requests == []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert run(FETCH, "org/tiny", HF_ENDPOINT=nobody) == [fetched]
    # A revision is a branch, a tag or a commit.
    old = repo.commit(files | {"config.json": b"{}"}, tag="v0")
    new = repo.commit(files)
    *found, absent = run(FETCH, *(f"org/tiny@{revision}" for revision in ("v0", old, "main", "v9")))
    assert [Path(folder).name for folder in found] == [old, old, new]
    assert "revision 'v9' does not exist" in absent


def test_what_cannot_be_fetched_is_told(hub: Hub, run: Run, files: dict[str, bytes]) -> None:
    hub.repo("org/sealed", files, token="let-me-in")
    hub.repo("org/gated", files, refusal=(403, "GatedRepo"))
    hub.repo("org/other", {"model.safetensors": files["model.safetensors"]})
    hub.repo("org/broken", files, refusal=(500, ""))
    expected = {
        "org/sealed": "set HF_TOKEN if private",
        "org/gated": "Accept its terms on its page",
        "org/other": "its main branch has no config.json",
        "org/broken": "the Hub cannot be reached",
        "org/nowhere": "no such repository",
        "../etc": "that is no name of a repository",
        "a/b/c": "that is no name of a repository",
        "org/..%2f": "that is no name of a repository",
    }
    (offline,) = run(FETCH, "org/tiny", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set, and its main branch is not in the cache" in offline
    assert hub.requests == []
    for (repo, reason), line in zip(expected.items(), run(FETCH, *expected), strict=True):
        assert line.startswith(f"WeightsError: Cannot fetch weights of {repo!r}")
        assert reason in line
    assert "WeightsError" not in run(FETCH, "org/sealed", HF_TOKEN="let-me-in")[0]


@pytest.mark.slow
def test_a_download_that_breaks_off_leaves_no_half_file(
    hub: Hub, run: Run, files: dict[str, bytes], tmp_path: Path
) -> None:
    repo = hub.repo("org/tiny", files, cut_short=True)
    # The error of its HTTP library has no class of huggingface_hub; it logs its retries.
    (line,) = run(FETCH, "org/tiny", HF_HUB_VERBOSITY="critical")
    assert line.startswith("WeightsError: Cannot fetch weights of 'org/tiny' from the Hub: ")
    assert not list((tmp_path / "hf").rglob("snapshots/*/*"))
    repo.cut_short = False
    (fetched,) = run(FETCH, "org/tiny")
    assert contents(Path(fetched)) == files


def test_loading_looks_here_first_then_on_the_hub_and_checks_what_came(
    hub: Hub, run: Run, files: dict[str, bytes], weights: Path, tmp_path: Path
) -> None:
    (sha,) = hub.repo("org/tiny", files).commits
    flipped = files["model.safetensors"][:-1] + bytes([files["model.safetensors"][-1] ^ 1])
    hub.repo("org/damaged", files | {"model.safetensors": flipped})
    shutil.copytree(weights, tmp_path / "local" / "tiny")
    sources = ("org/tiny", f"org/tiny@{sha}", "local/tiny", "org/damaged", "org/nowhere")
    fetched, at_commit, local, damaged, nowhere = run(LOAD, *sources)
    assert fetched == at_commit == f"org/tiny@{sha} "
    assert local == "local/tiny "
    assert "sha256" in damaged
    assert "Looked before for bundled weights and for a folder 'org/nowhere'" in nowhere


def test_a_folder_is_one_commit_and_comes_back(hub: Hub, run: Run, tmp_path: Path) -> None:
    hub.write_token = "may-write"
    model = SemanticNetwork(SemanticConfig(backbone="resnet18", stage_widths=(8,) * 4, classes=3))
    names, colours = ("ground", "cup", "tree"), ("#000000", "#800000", "#008000")
    named = {"name": "mine", "class_names": names, "class_colours": colours}
    config = SemanticWeightsConfig(model=model.config, **named)
    folder = save_weights(tmp_path / "run" / "weights", model, config)
    (folder / "README.md").write_bytes(b"# card")
    files = contents(folder)
    (folder / "notes.txt").write_bytes(b"private")
    (told,) = run(PUSH, folder, HF_TOKEN="may-write")
    ((sha, pushed),) = hub.repos["org/mine"].commits.items()
    assert pushed == files
    assert told == f"{hub.url}/org/mine org/mine@{sha} mine"
    assert "Set HF_TOKEN" in run(PUSH, folder, HF_TOKEN="may-not")[0]
    # What is not valid is refused before the Hub is asked.
    (folder / "config.json").write_bytes(b"{}")
    with pytest.raises(WeightsError, match="format_version"):
        push_to_hub(folder, "org/mine")
