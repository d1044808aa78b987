"""Checkpoints by name: a file, the only checkpoint in a folder, or a file on the Hugging Face Hub.

A file on the hub is named `hf:owner/name[/file][@revision]`. The package huggingface_hub fetches
it into its own cache and reads its own settings, among them HF_TOKEN, HF_HUB_OFFLINE, HF_ENDPOINT.
"""

import importlib
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from utils.errors import FieldError, UserError, named, one_line
from utils.not_a_checkpoint import ENDINGS, checkpoints_in

log = logging.getLogger(__name__)

PREFIX = "hf:"
SPELLINGS = "hf:owner/name, hf:owner/name/file or either with @revision"
NAME = re.compile(r"(?i:hf):([\w.-]+/[\w.-]+)(?:/([^@]*[^@/]))?(?:@([^@]+))?")
CACHED = re.compile(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})/(.+)$")
SECONDS = 10  # until the hub must have answered


def local_file(name: object) -> Path:
    """Find a checkpoint by its name, and fetch it from the hub if it is there.

    Args:
        name: a text or a Path; anything else is refused.

    Returns:
        The file. A folder without a checkpoint, or with several, is returned as it is.

    Raises:
        UserError: if it is not a name; or if the hub has no such file, does not give it, or cannot
            be reached.
    """
    if not isinstance(name, str | Path):
        raise FieldError("path", name, f"must be a file or folder, or {SPELLINGS}")
    if str(name).lower().startswith(PREFIX):
        return _fetched(str(name))
    path = Path(name)
    if str(name).startswith("~"):  # not "./~x", which Path shortens
        with suppress(RuntimeError):  # there is no such home folder
            path = path.expanduser()
    found = checkpoints_in(path)
    return found[0] if len(found) == 1 else path


def hub_name(path: str | Path) -> str | None:
    """Return the name on the hub, with the commit, of a file in its cache; None for others."""
    found = CACHED.search(str(path))
    return found and f"{PREFIX}{found[1]}/{found[2]}/{found[4]}@{found[3]}"


def _fetched(name: str) -> Path:
    """Fetch a file from the hub, or find it in the cache; errors as in `local_file`."""
    match = NAME.fullmatch(name)
    if match is None:
        raise UserError(f"{name!r} names no file on the hub: write {SPELLINGS}")
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(
            f"{name}: huggingface_hub is missing: pip install -r requirements-hub.txt"
        ) from error
    repository, file, revision = match.groups()
    try:
        with _quiet():
            at, files = _contents(hub, repository, file, revision)
            file = file or _only_checkpoint(files)
            if file not in files:
                raise UserError(f"it has no file {file}; {_contents_text(files)}")
            beside = str(PurePosixPath(file).with_name("config.json"))
            if beside in files:
                hub.hf_hub_download(repository, beside, revision=at)
            path = Path(hub.hf_hub_download(repository, file, revision=at))
    except Exception as error:  # the package also raises those of its HTTP client
        reason = _reason(hub.errors, error, f"{hub.constants.ENDPOINT}/{repository}")
        raise UserError(f"{name}: {reason}") from error
    log.info("%s: %s", name, path)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep other packages from logging every request and every retry in the block."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _contents(
    hub: Any, repository: str, file: str | None, revision: str | None
) -> tuple[str | None, list[str]]:
    """Return a revision and its files; without a connection its commit and files in the cache.

    Raises:
        UserError: without a connection, if the cache does not have the file.
        Exception: any other kind, if the hub refuses.
    """
    try:
        found = hub.HfApi().model_info(repository, revision=revision, timeout=SECONDS)
        return revision, [one.rfilename for one in found.siblings]
    except Exception as error:
        with suppress(hub.errors.LocalEntryNotFoundError):
            cached = Path(
                hub.snapshot_download(
                    repository, revision=revision, local_files_only=True, allow_patterns=[]
                )
            )
            inside = [one for one in cached.rglob("*") if one.is_file()]
            files = [one.relative_to(cached).as_posix() for one in inside]
            if file is None or file in files:
                return cached.name, files
        if isinstance(error, hub.errors.HfHubHTTPError):
            raise
        is_offline = isinstance(error, hub.errors.OfflineModeIsEnabled)
        reason = "HF_HUB_OFFLINE is set" if is_offline else one_line(error, 100)
        page = f"{hub.constants.ENDPOINT}/{repository}"
        wanted = hub.hf_hub_url(repository, file, revision=revision) if file else page
        raise UserError(
            f"no connection to the hub ({reason}), and it is not in the cache "
            f"{hub.constants.HF_HUB_CACHE}: download {wanted} elsewhere, and name that file"
        ) from error


def _only_checkpoint(files: Collection[str]) -> str:
    """Choose the file of a repository if it has one checkpoint."""
    checkpoints = [file for file in files if file.endswith(ENDINGS)]
    if len(checkpoints) == 1:
        return checkpoints[0]
    if not checkpoints:
        raise UserError(f"it has no checkpoint; {_contents_text(files)}")
    names = named(sorted(checkpoints))
    raise UserError(f"name one of its checkpoints, as hf:owner/name/file: {names}")


def _contents_text(files: Collection[str]) -> str:
    """Say which files a repository has."""
    return f"it has {named(sorted(files))}" if files else "it is empty"


def _reason(errors: Any, error: Exception, page: str) -> str:
    """Say in one line why the hub gave no file, and what would work."""
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: accept its terms at {page}, and set HF_TOKEN to a token of yours"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private: for that set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"there is no such revision; {page} lists the branches, tags and commits"
    return str(error) if isinstance(error, UserError) else one_line(error, 200)
