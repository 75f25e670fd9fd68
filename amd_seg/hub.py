"""Weights on the Hugging Face Hub: fetch a folder of them, and put one there.

The cache, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT are those of huggingface_hub, which
reads them when it is imported: so it is imported by the first call here and not before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amd_seg.errors import WeightsError


def fetch_snapshot(source: str, files: Sequence[str]) -> Path:
    """Return the cached folder of `files` of a repository, downloading what is not cached.

    Args:
        source: "org/name", or "org/name@revision" for a branch, a tag or a commit.
    """
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
            repo, revision=revision or None, allow_patterns=list(files), tqdm_class=TerminalBar
        )
    missing = [name for name in files if not Path(found, name).is_file()]
    if missing:
        raise WeightsError(
            f"{failed} {place} has no {' and no '.join(missing)}. Give a repository of AMD weights."
        )
    return Path(found)


def push_folder(folder: Path, repo: str, files: Sequence[str], *, private: bool = False) -> str:
    """Upload `files` of `folder` in one commit, to a repository that is made if need be.

    Returns its address; raises a WeightsError where the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    api, message = HfApi(), "Upload AMD weights"
    with _told(f"Cannot upload {folder} to {repo!r} on the Hub:", "its main branch"):
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(files), commit_message=message
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
    try:
        yield
    except known as cause:
        # The more special ones stand first.
        answers: dict[type[Exception], str] = {
            errors.HFValidationError: "that is no name of a repository. Give 'org/name'.",
            errors.GatedRepoError: "it asks for consent. Accept its terms on its page, set "
            "HF_TOKEN.",
            errors.RepositoryNotFoundError: "no such repository, or it is private. Check the name; "
            "set HF_TOKEN if private.",
            errors.RevisionNotFoundError: f"{place} does not exist. Give a branch, a tag or a "
            "commit.",
            errors.LocalEntryNotFoundError: "the Hub cannot be reached, or HF_HUB_OFFLINE is set, "
            f"and {place} is not in the cache. Check the network, or give a local folder.",
        }
        detail = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
        told = f"{detail}. Try again later, or give a local folder."
        told = next((text for kind, text in answers.items() if isinstance(cause, kind)), told)
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status in (401, 403) and type(cause) is errors.HfHubHTTPError:
            told = f"not allowed (status {status}). Set HF_TOKEN to one that may."
        raise WeightsError(f"{failed} {told}") from cause
