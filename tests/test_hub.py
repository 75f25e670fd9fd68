"""Weights come from the Hub and go there: a real server on localhost, real processes.

huggingface_hub reads its environment when it is imported, so each case is a process of its own.
"""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

from amd_seg.errors import WeightsError
from amd_seg.model.appearance import SemanticNetwork
from amd_seg.model.config import SemanticConfig, SemanticWeightsConfig
from amd_seg.weights import push_to_hub, save_weights
from tests.processes import ENVIRONMENT

SCRIPT = """
import sys
from amd_seg.errors import WeightsError
{imports}
for source in sys.argv[1:]:
    try:
        print({result})
    except WeightsError as error:
        print("WeightsError:", error)
"""
"""Prints a line for each source: what came of it, or the error."""

FETCH = SCRIPT.format(
    imports="from amd_seg.weights import fetch_snapshot", result="fetch_snapshot(source)"
)
LOAD = SCRIPT.format(
    imports="from amd_seg.weights import load_any_weights as load, push_to_hub as push",
    result="(found := load(source)).source, found.config.name",
)
PUSH = LOAD.replace(
    "(found := load(source)", "push(source, 'org/mine'), (found := load('org/mine')"
)

Run = Callable[..., list[str]]


@pytest.fixture(scope="module")
def files(weights: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in weights.iterdir()}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def run(hub: HubServer, tmp_path: Path) -> Run:
    """Run a script against the server; return the lines of its stdout."""
    inherited = {k: v for k, v in ENVIRONMENT.items() if not k.startswith(("HF_", "HUGGING"))}
    own = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url}
    own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def run(script: str, *args: object, **environment: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, args)],
            env=inherited | own | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    return run


def test_weights_are_fetched_once_and_then_cached(
    hub: HubServer, run: Run, files: dict[str, bytes], tmp_path: Path
) -> None:
    repo = hub.repo("org/tiny", files | {"README.md": b"# card", "optimizer.pth": b"large"})
    (fetched,) = run(FETCH, "org/tiny")
    assert Path(fetched).is_relative_to(tmp_path / "hf")
    assert {path.name: path.read_bytes() for path in Path(fetched).iterdir()} == files
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


def test_what_cannot_be_fetched_is_told(hub: HubServer, run: Run, files: dict[str, bytes]) -> None:
    hub.repo("org/sealed", files, token="let-me-in")
    hub.repo("org/gated", files, gated=True)
    hub.repo("org/other", {"model.safetensors": files["model.safetensors"]})
    hub.repo("org/broken", files, status=500)
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


def test_a_download_that_breaks_off_leaves_no_half_file(
    hub: HubServer, run: Run, files: dict[str, bytes], tmp_path: Path
) -> None:
    repo = hub.repo("org/tiny", files, cut_short=True)
    # The error of its HTTP library has no class of huggingface_hub; it logs its retries.
    (line,) = run(FETCH, "org/tiny", HF_HUB_VERBOSITY="critical")
    assert line.startswith("WeightsError: Cannot fetch weights of 'org/tiny' from the Hub: ")
    assert not list((tmp_path / "hf").rglob("snapshots/*/*"))
    repo.cut_short = False
    (fetched,) = run(FETCH, "org/tiny")
    assert {path.name: path.read_bytes() for path in Path(fetched).iterdir()} == files


def test_loading_looks_here_first_then_on_the_hub_and_checks_what_came(
    hub: HubServer, run: Run, files: dict[str, bytes], weights: Path, tmp_path: Path
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


def test_a_folder_is_one_commit_and_comes_back(hub: HubServer, run: Run, tmp_path: Path) -> None:
    hub.write_token = "may-write"
    model = SemanticNetwork(SemanticConfig(backbone="resnet18", stage_widths=(8,) * 4, classes=3))
    names, colours = ("ground", "cup", "tree"), ("#000000", "#800000", "#008000")
    named = {"name": "mine", "class_names": names, "class_colours": colours}
    config = SemanticWeightsConfig(model=model.config, **named)
    folder = save_weights(tmp_path / "run" / "weights", model, config)
    (folder / "README.md").write_bytes(b"# card")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
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
