"""What a result depends on, as digests: of settings, and of the contents of inputs. Never of a path or a date."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from usdm.types import InputError

Place = str | Path
Places = Place | Sequence[Place] | None

LENGTH = 16  # hexadecimal digits of a digest
# What a folder is, where it holds one of these: a speech corpus is its rows, a run of the training loop its last step.
WHOLE = ("manifest.jsonl", "checkpoint.pt")
# What a folder says about how it came about, which differs between two runs that made the same.
ACCOUNTS = ("training.json", "versions.json", "run.json", "run.lock")
SWEEP = "sweep"  # the jobs of a sweep, which are runs of their own (see `usdm.cli.job_folders`)
LARGE = 1 << 20  # bytes; the digest of a larger file is remembered
REMEMBERED = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "usdm" / "digests.jsonl"


def digest(value: Any) -> str:
    """Of anything that JSON can hold; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:LENGTH]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values under their full keys, dots between them."""
    pairs: dict[str, Any] = {}
    for key, value in values.items():
        pairs |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return pairs


def input_digests(inputs: Mapping[str, Places]) -> dict[str, str | None]:
    """A digest of each named input: a file, a folder, several of them in order, or nothing.

    Raises InputError that names an input that is not there.
    """
    digests = {}
    for name, places in inputs.items():
        try:
            digests[name] = _of_places(places)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    return digests


def _of_places(places: Places) -> str | None:
    if places is None or isinstance(places, str | Path):
        return None if places is None else content_digest(places)
    return digest([content_digest(place) for place in places])


def content_digest(place: Place) -> str:
    """Of what a file or a folder holds, wherever it lies.

    A speech corpus is its manifest, a unit corpus its Parquet files, a model its files without the account of its
    training, a name of the hub the commit in the hub's cache. A file in that cache is named by its content already. Of
    other large files the digest is remembered until the file changes, so that gigabytes are read once.

    Raises:
        InputError: there is nothing at `place`.
    """
    path = Path(place)
    if path.is_file():
        return _of_file(path)[:LENGTH]
    if not path.is_dir():
        if (commit := _cached_commit(str(place))) is not None:
            return commit[:LENGTH]
        raise InputError(f"{path}: no such file or folder; check the path, or make it first")
    return digest([[str(file.relative_to(path)), _of_file(file)] for file in _content(path)])


def _content(folder: Path) -> Iterable[Path]:
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
    return sorted(folder.glob("*.parquet")) or sorted(_files(folder))


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        left_out = parts[0] == SWEEP or any(part.startswith(".") for part in parts)
        if path.is_file() and not left_out and path.suffix not in (".md", ".log") and path.name not in ACCOUNTS:
            yield path


def hub_commit(folder: Path) -> str | None:
    """Of a snapshot in the hub's cache; None of another folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def split_revision(name: str | Path) -> tuple[str, str]:
    """A name of the hub and what of it is meant, a commit, tag or branch: OWNER/REPOSITORY@REVISION, or else "main".

    A folder is taken as it stands.
    """
    path = str(name)
    if "@" not in path or Path(path).exists():
        return path, "main"
    repository, _, revision = path.partition("@")
    return repository, revision


def _cached_commit(name: str) -> str | None:
    """Of a repository in the hub's cache; None if it is not there, or `name` is none of the hub's."""
    from huggingface_hub.constants import HF_HUB_CACHE  # slow, and seldom needed

    repository, revision = split_revision(name)
    cache = Path(HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
    named = cache / "refs" / revision
    if named.is_file():
        return named.read_text(encoding="utf-8").strip()
    return revision if (cache / "snapshots" / revision).is_dir() else None


def _of_file(path: Path) -> str:
    blob = path.resolve()
    if blob.parent.name == "blobs" and len(blob.name) == 2 * hashlib.sha256().digest_size:
        return blob.name  # a large file in the hub's cache, under the SHA-256 of its content
    facts = blob.stat()
    if facts.st_size < LARGE:
        return _sha256(blob)
    # Whatever changes a file's content changes one of these.
    state = json.dumps([str(blob), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino])
    known = _remembered(REMEMBERED)
    if state not in known:
        known[state] = _sha256(blob)
        _remember(state, known[state])
    return known[state]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _remembered(path: Path) -> dict[str, str]:
    """A line that was cut off, or that another version wrote, is as if it were not there."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    known = {}
    for line in lines:
        try:
            state, value = json.loads(line)
        except ValueError:
            continue
        known[json.dumps(state)] = value
    return known


def _remember(state: str, value: str) -> None:
    try:
        REMEMBERED.parent.mkdir(parents=True, exist_ok=True)
        with REMEMBERED.open("a", encoding="utf-8") as file:
            file.write(json.dumps([json.loads(state), value]) + "\n")
    except OSError:
        pass  # a home that cannot be written to: the file is read again next time
