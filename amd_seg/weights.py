"""Find and load weights: bundled, in a folder, or on the Hugging Face Hub.

The Hub's cache, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT are those of huggingface_hub,
which reads them when it is imported: by the first call here, and not before.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from amd_seg.device import one_thread, own_numerics
from amd_seg.errors import WeightsError
from amd_seg.model.amd import AMD
from amd_seg.model.appearance import SemanticNetwork
from amd_seg.model.config import SemanticWeightsConfig, WeightsConfig
from amd_seg.weights_files import CONFIG_FILE, FILES, WEIGHTS_FILE, NetworkConfig, read_weights
from amd_seg.weights_files import Network as Network
from amd_seg.weights_files import save_weights as save_weights

logger = logging.getLogger(__name__)

DEFAULT_WEIGHTS = "amd-resnet18"

# In the wheel; in a source checkout the same folders lie in weights/.
BUNDLED_IN_WHEEL = Path(__file__).parent / "_pretrained"
BUNDLED_IN_SOURCE = Path(__file__).parents[1] / "weights"

Model = TypeVar("Model", bound=Network)
Config = TypeVar("Config", bound=NetworkConfig)


@dataclass(frozen=True)
class Pretrained(Generic[Model, Config]):
    """A model with its weights and what is known of them."""

    model: Model  # in eval mode, float32, on the CPU
    config: Config
    source: str  # where they came from, for people: a name, a path, or org/name@commit


def load_weights(source: str | os.PathLike[str] | None = None) -> Pretrained[AMD, WeightsConfig]:
    """Load the weights of a model that finds objects, strictly.

    Args:
        source: looked for in this order: a bundled name (None is the default one), a local
            folder or .safetensors file with config.json beside it, the folder of a training run,
            a repository on the Hub: "org/name", or "org/name@revision" for a branch, tag or
            commit. Write "./name" for a local folder that is called like bundled weights.

    Raises:
        WeightsError: they cannot be had, are not valid, or are fine-tuned ones with classes.
    """
    found = load_any_weights(source)
    if not isinstance(found.model, AMD):
        raise WeightsError(
            f"The weights {found.source} are fine-tuned: they tell classes, not the object. Use "
            "them with amd-seg image --output labels, or as SemanticSegmenter.from_pretrained(...)."
        )
    return found


def load_semantic_weights(
    source: str | os.PathLike[str],
) -> Pretrained[SemanticNetwork, SemanticWeightsConfig]:
    """Load the weights of a fine-tuned model with classes; see `load_weights`."""
    found = load_any_weights(source)
    if not isinstance(found.model, SemanticNetwork):
        raise WeightsError(
            f"The weights {found.source} know no classes: they find the object. Give the folder of "
            "a run of amd-seg finetune, or use them with amd-seg image --output mask."
        )
    return found


def load_any_weights(source: str | os.PathLike[str] | None = None) -> Pretrained[Any, Any]:
    """Load weights of either kind; see `load_weights`."""
    path, label = _locate(source)
    # A parent may fork when it has loaded, and a caller may have set anything in torch.
    with one_thread(), own_numerics(learning=True):
        model, config = read_weights(path)
    return Pretrained(model, config, label)


def digest_of_weights(source: str | os.PathLike[str] | None = None) -> str:
    """Return the sha256 of the files of some weights, found as by `load_weights` but not loaded."""
    path, _ = _locate(source)
    file = path / WEIGHTS_FILE if path.is_dir() else path
    both = (file, file.with_name(CONFIG_FILE))
    # What lacks is told by loading.
    return hashlib.sha256(b"".join(f.read_bytes() for f in both if f.is_file())).hexdigest()


def _locate(source: str | os.PathLike[str] | None) -> tuple[Path, str]:
    """Return where the files are, fetched if need be, and `Pretrained.source`."""
    name = DEFAULT_WEIGHTS if source is None else os.fspath(source)
    local = os.path.expanduser(name)
    bundled = bundled_weights()
    if source is None or (isinstance(source, str) and name in bundled):
        if name not in bundled:
            raise WeightsError(
                f"The weights {name!r} did not come with this installation. "
                "Install amd-seg again, or give a folder or a repository on the Hub."
            )
        if source is not None and os.path.exists(local):
            logger.warning("%r is taken as bundled weights; write ./%s for the folder", name, name)
        return bundled[name], name
    if name.lower().endswith(".onnx"):
        raise WeightsError(
            f"Cannot load {name}: an .onnx file is for other programs. Give the weights that it "
            "was made of; its metadata names them."
        )
    if os.path.exists(local):
        in_run = Path(local, "weights")
        is_run = not Path(local, WEIGHTS_FILE).exists() and (in_run / WEIGHTS_FILE).is_file()
        return in_run if is_run else Path(local), name
    if isinstance(source, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@.+)?", name):
        try:
            folder = fetch_snapshot(name)
        except WeightsError as cause:
            raise WeightsError(
                f"{cause} (Looked before for bundled weights and for a folder {name!r} here.)"
            ) from cause
        return folder, f"{name.partition('@')[0]}@{folder.name}"
    raise WeightsError(
        f"No weights at {name!r}: no bundled weights have that name (there are "
        f"{', '.join(bundled) or 'none'}), {os.path.abspath(local)} does not exist, and it "
        "is no repository 'org/name' of the Hub. Give one of these."
    )


def bundled_weights() -> dict[str, Path]:
    """Names and folders of the weights that came with this installation, sorted."""
    root = BUNDLED_IN_WHEEL if BUNDLED_IN_WHEEL.is_dir() else BUNDLED_IN_SOURCE
    folders = sorted(root.glob("*"))
    return {f.name: f for f in folders if all((f / name).is_file() for name in FILES)}


# The Hub


def fetch_snapshot(source: str) -> Path:
    """Return the cached folder of "org/name[@revision]", downloading what is not cached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class TerminalBar(tqdm):
        """Without this, None as `disable`, huggingface_hub's bar shows elsewhere too."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = kwargs.get("disable") or None
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    repo, _, revision = source.partition("@")
    place = f"revision {revision!r}" if revision else "its main branch"
    failed = f"Cannot fetch weights of {repo!r} from the Hub:"
    with _told(failed, place):
        found = snapshot_download(
            repo, revision=revision or None, allow_patterns=list(FILES), tqdm_class=TerminalBar
        )
    if missing := [name for name in FILES if not Path(found, name).is_file()]:
        raise WeightsError(
            f"{failed} {place} has no {' and no '.join(missing)}. Give a repository of AMD weights."
        )
    return Path(found)


def push_to_hub(folder: str | os.PathLike[str], repo: str, *, private: bool = False) -> str:
    """Check weights and upload them with their README.md, in one commit; return the address."""
    folder = Path(folder)
    read_weights(folder)
    from huggingface_hub import HfApi

    api = HfApi()
    with _told(f"Cannot upload {folder} to {repo!r} on the Hub:", "its main branch"):
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[*FILES, "README.md"],
            commit_message="Upload AMD weights",
        )
    return str(address)


@contextmanager
def _told(failed: str, place: str) -> Iterator[None]:
    """Raise a WeightsError that says in one line what the Hub answered, and what to do."""
    from huggingface_hub import errors

    # Its HTTP library differs between releases: the root error of that is a base of this one.
    # A reply that is no JSON, and a bad name, are ValueErrors.
    bases = (ValueError, *errors.HfHubHTTPError.__bases__)
    known: tuple[type[Exception], ...] = tuple(b for b in bases if issubclass(b, Exception))
    # The more special ones stand first.
    answers: dict[type[Exception], str] = {
        errors.HFValidationError: "that is no name of a repository. Give 'org/name'.",
        errors.GatedRepoError: "it asks for consent. Accept its terms on its page, set HF_TOKEN.",
        errors.RepositoryNotFoundError: "no such repository, or it is private. Check the name; "
        "set HF_TOKEN if private.",
        errors.RevisionNotFoundError: f"{place} does not exist. Give a branch, a tag or a commit.",
        errors.LocalEntryNotFoundError: "the Hub cannot be reached, or HF_HUB_OFFLINE is set, "
        f"and {place} is not in the cache. Check the network, or give a local folder.",
    }
    try:
        yield
    except known as cause:
        detail = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
        told = f"{detail}. Try again later, or give a local folder."
        told = next((text for kind, text in answers.items() if isinstance(cause, kind)), told)
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status in (401, 403) and type(cause) is errors.HfHubHTTPError:
            told = f"not allowed (status {status}). Set HF_TOKEN to one that may."
        raise WeightsError(f"{failed} {told}") from cause
