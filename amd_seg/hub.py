"""Weights on the Hugging Face Hub: fetch a folder of them, and put one there.

The cache, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT are those of huggingface_hub, which
reads them when it is imported: so it is imported by the first call here and not before.
"""

from collections.abc import Sequence
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
    try:
        found = snapshot_download(
            repo, revision=revision or None, allow_patterns=list(files), tqdm_class=TerminalBar
        )
    except _hub_errors() as cause:
        raise WeightsError(f"{failed} {_reason(cause, place)}") from cause
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

    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message="Upload AMD weights",
        )
    except _hub_errors() as cause:
        raise WeightsError(
            f"Cannot upload {folder} to {repo!r} on the Hub: {_reason(cause, 'its main branch')}"
        ) from cause
    return str(address)


def _hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises; a reply that is no JSON, and a bad name, are ValueErrors.

    Its HTTP library differs between releases: the root error of that is a base of HfHubHTTPError.
    """
    from huggingface_hub.errors import HfHubHTTPError

    roots = (base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
    return (ValueError, *roots)


def _reason(cause: BaseException, place: str) -> str:
    """Say in one line what the Hub answered about a revision, and what to do."""
    from huggingface_hub import errors

    if isinstance(cause, errors.LocalEntryNotFoundError):
        if isinstance(cause.__cause__, errors.OfflineModeIsEnabled):
            return (
                f"{place} is not in the cache, and HF_HUB_OFFLINE is set. "
                "Unset it, or give a local folder."
            )
        return (
            f"the Hub cannot be reached, and {place} is not in the cache. "
            "Check the network, or give a local folder."
        )
    # The more special ones stand first.
    answers: dict[type[Exception], str] = {
        errors.HFValidationError: "that is no name of a repository. Give 'org/name'.",
        errors.GatedRepoError: "it asks for consent. Accept its terms on its page, set HF_TOKEN.",
        errors.RepositoryNotFoundError: "no such repository, or it is private. Check the name; "
        "set HF_TOKEN if private.",
        errors.RevisionNotFoundError: f"{place} does not exist. Give a branch, a tag or a commit.",
        errors.EntryNotFoundError: f"a file of {place} is gone. Give another revision, or a "
        "local folder.",
    }
    for kind, answer in answers.items():
        if isinstance(cause, kind):
            return answer
    if isinstance(cause, errors.HfHubHTTPError) and cause.response.status_code in (401, 403):
        return f"not allowed (status {cause.response.status_code}). Set HF_TOKEN to one that may."
    detail = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
    return f"{detail}. Try again later, or give a local folder."
