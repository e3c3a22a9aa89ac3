"""`python -m comfyui_tryon.weights.download`: fetches the published weight files, and locks their commits and hashes.

Needs nothing but the standard library and huggingface_hub, so that the image's download stage installs no more.
"""

import argparse
import errno
import glob
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .exclusive import alone
from .files import ATTENTION_FOLDERS, LICENCES, MODELS, SEGFORMER, Needed, folder_of, to_download
from .lock import DownloadError, file_entry, read_lock, reason, write_lock


def download(folder: Path, wanted: Mapping[str, Needed], revisions: Mapping[str, str]) -> None:
    """Fetches the files of `wanted` into each repository's folder in `folder`, and locks them.

    Files that the lock file records must have the same commit, size and sha256. A repository named in `revisions` moves
    to that branch, tag or commit instead, and a file seen for the first time is recorded.

    Raises:
        DownloadError: a file cannot be fetched or stored, or differs from the lock file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder, lambda: _say(f"Waiting for another download into {folder}")):
            lock = read_lock(folder)
            for repository, needed in wanted.items():
                _Fetch(folder, repository, lock).run(needed, revisions.get(repository))
    except OSError as error:
        raise DownloadError(_disk_message(error, folder)) from error


class _Fetch:
    """Fetches the files of one repository into `folder`."""

    def __init__(self, folder: Path, repository: str, lock: dict[str, dict[str, Any]]) -> None:
        self._folder = folder
        self._target = folder / folder_of(repository)
        self._repository = repository
        self._lock = lock

    def run(self, needed: Needed, revision: str | None) -> None:
        locked = self._lock.get(self._repository, {"files": {}})
        here = {name: file_entry(path) for names in needed for name in names if (path := self._target / name).is_file()}
        kept = {name for name, entry in here.items() if entry == locked["files"].get(name)}
        if revision is None and all(kept.intersection(names) for names in needed):
            _say(f"{self._repository}: complete, commit {locked['commit']}")
            return
        info = self._model_info(revision or locked.get("commit") or "main")
        if locked.get("commit") != info.sha:
            locked = {"revision": revision or "main", "commit": info.sha, "files": {}}
        published = {sibling.rfilename: sibling for sibling in info.siblings}
        names = [self._first_published(alternatives, published, info.sha) for alternatives in needed]
        expected = {
            name: locked["files"].get(name, {}).get("sha256") or getattr(published[name].lfs, "sha256", None)
            for name in names
        }
        absent = [name for name in names if name not in here or here[name]["sha256"] != expected[name]]
        self._check_space(sum(published[name].size or 0 for name in absent), absent)
        # Files that are here stay until all are there that take their places.
        parts = {name: self._fetch(name, info.sha, published[name].size, expected[name] or info.sha) for name in absent}
        for name, part in parts.items():
            here[name] = file_entry(part)
            if expected[name] not in (None, here[name]["sha256"]):
                part.unlink()
                source = "the lock file has" if name in locked["files"] else "the hub announces"
                raise DownloadError(
                    f"{self._repository}: {name} came with sha256 {here[name]['sha256']} where {source} "
                    f"{expected[name]}. It was deleted. Run the same command again; if that does not help, the "
                    "file was replaced or tampered with."
                )
        for name, part in parts.items():
            os.replace(part, self._target / name)
        locked["files"] |= {name: here[name] for name in names}
        self._lock[self._repository] = locked
        write_lock(self._folder, self._lock)
        for leftover in self._partial(names):
            leftover.unlink(missing_ok=True)
        _say(f"{self._repository}: complete, commit {info.sha}, licence {LICENCES[self._repository]}")

    def _model_info(self, revision: str) -> Any:
        from huggingface_hub import HfApi, constants

        try:
            return HfApi().model_info(self._repository, revision=revision, files_metadata=True)
        except Exception as error:
            message = self._hub_message(error, revision)
            raise DownloadError(
                message
                or f"{constants.ENDPOINT} cannot be reached ({reason(error)}). Check this machine's network, or copy "
                f"the folder {self._folder} from a machine that has it."
            ) from error

    def _first_published(self, alternatives: Sequence[str], published: Mapping[str, Any], commit: str) -> str:
        for name in alternatives:
            if name in published:
                return name
        raise DownloadError(f"{self._repository} has no file {alternatives[0]} at {commit}: choose another revision.")

    def _partial(self, names: Iterable[str]) -> list[Path]:
        """Returns what is left of downloads of these files that broke off; another repository may be in a subfolder."""
        paths = [self._target / name for name in names]
        return [part for path in paths for part in path.parent.glob(f"{glob.escape(path.name)}.*.part")]

    def _check_space(self, size: int, names: Iterable[str]) -> None:
        partial = sum(path.stat().st_size for path in self._partial(names))
        there = next(folder for folder in (self._target, *self._target.parents) if folder.is_dir())
        free = shutil.disk_usage(there).free
        if size - partial > free:
            raise DownloadError(
                f"The disk is full: {self._repository} needs {(size - partial) / 1e9:.2f} GB in {self._folder}, "
                f"{free / 1e9:.2f} GB are free. Free some space, or choose another folder with TRYON_MODELS_DIR."
            )

    def _fetch(self, name: str, commit: str, size: int, content: str) -> Path:
        """Downloads one file beside its place, resuming what an earlier try left of the same content."""
        part = self._target / f"{name}.{content[:16]}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        while True:
            before = part.stat().st_size if part.is_file() else 0
            try:
                self._append(part, name, commit, size)
                break
            except Exception as error:
                if getattr(error, "errno", None) in _DISK_MESSAGES:
                    raise
                if message := self._hub_message(error, commit):
                    raise DownloadError(message) from error
                if part.stat().st_size == before:
                    raise DownloadError(
                        f"{self._repository}: the connection broke off during {name} ({reason(error)}). Run the same "
                        "command again: it resumes where it stopped."
                    ) from error
        return part

    def _append(self, part: Path, name: str, commit: str, size: int) -> None:
        # hf_hub_download would start from zero in every new process
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        with open(part, "ab") as stream:
            if stream.tell() > size:
                stream.seek(0)
                stream.truncate()
            if stream.tell() < size:
                http_get(
                    hf_hub_url(self._repository, name, revision=commit),
                    stream,
                    resume_size=stream.tell(),
                    headers=build_hf_headers(),
                    expected_size=size,
                    displayed_filename=name,
                )

    def _hub_message(self, error: Exception, revision: str) -> str | None:
        """Explains the hub's refusal; None if it did not answer."""
        from huggingface_hub import constants, errors, get_token

        page, has_token = f"{constants.ENDPOINT}/{self._repository}", bool(get_token())
        if isinstance(error, errors.GatedRepoError):
            token = "the token in HF_TOKEN" if has_token else "HF_TOKEN, which is not set; set it to a token"
            return f"{self._repository} is gated: accept its terms at {page} with the account of {token}."
        if isinstance(error, errors.RepositoryNotFoundError):
            token = "the token in HF_TOKEN may not read it" if has_token else "it is private and HF_TOKEN is not set"
            return f"{constants.ENDPOINT} has no repository {self._repository}, or {token}."
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{self._repository} has no revision {revision}: name a branch, tag or commit of {page}."
        if isinstance(error, errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, which forbids downloads: unset it."
        response = getattr(error, "response", None)
        if response is None:
            return None
        if response.status_code == 401:
            return f"{constants.ENDPOINT} does not accept the token in HF_TOKEN: correct or unset it."
        return f"{constants.ENDPOINT} answers {response.status_code} for {self._repository}: retry later."


_DISK_MESSAGES = {
    errno.ENOSPC: "The disk is full: {} has no room left. Free some and run the same command again: it resumes there.",
    errno.EDQUOT: "The quota of {} is used up. Free some and run the same command again: it resumes there.",
    errno.EACCES: "{} is not writable: choose a writable folder with TRYON_MODELS_DIR.",
    errno.EPERM: "{} is not writable: choose a writable folder with TRYON_MODELS_DIR.",
    errno.EROFS: "{} is read-only: choose a writable folder with TRYON_MODELS_DIR.",
}


def _disk_message(error: OSError, folder: Path) -> str:
    known = _DISK_MESSAGES.get(error.errno or 0)
    return known.format(folder) if known else f"{folder} cannot be used ({reason(error)})."


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetches the weight files.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="MODEL,... | REPOSITORY[@REVISION]",
        help=f"models: {', '.join(MODELS)} (default: {MODELS[0]}); moves a repository to a branch, tag or "
        f"commit; {SEGFORMER} and {MODELS[-1]}, not for commercial use, are fetched only when named",
    )
    parser.add_argument(
        "--attention",
        default="mix",
        metavar="VERSION,...",
        help=f"CatVTON's attention versions: {', '.join(ATTENTION_FOLDERS)} (default: mix)",
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="default: TRYON_MODELS_DIR, else models/")
    options = parser.parse_args()
    attention = options.attention.split(",")
    if unknown := set(attention) - set(ATTENTION_FOLDERS):
        parser.error(f"unknown attention version {unknown.pop()!r}; choose from {', '.join(ATTENTION_FOLDERS)}")
    names = [name for listed in options.names for name in listed.split(",") if name]
    named = dict(name.partition("@")[::2] for name in names)
    models = [name for name in names if name in MODELS]
    wanted = to_download(attention, SEGFORMER in named, models or MODELS[:1])
    named = {name: revision for name, revision in named.items() if name not in models}
    if unknown := set(named) - set(wanted):
        choices = ", ".join([*MODELS, *wanted, SEGFORMER])
        parser.error(f"unknown model or repository {unknown.pop()!r}; choose from {choices}")
    try:
        folder = options.to or _default_folder()
        download(folder, wanted, {name: revision for name, revision in named.items() if revision})
    except DownloadError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command resumes where it stopped.")
    _say(f"The weights are in {folder}")


def _default_folder() -> Path:
    from ..settings import PROJECT, SettingsError, settings

    try:
        return settings().models_dir or PROJECT / "models"
    except SettingsError as error:
        raise DownloadError(str(error)) from None


if __name__ == "__main__":
    main()
