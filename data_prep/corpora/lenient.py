"""Lhotse's recipes, run so that one bad file of a million is reported rather than the end of the run.

As they are, recipes stop at a sound file that cannot be opened or that transcripts name in vain, drop what does not
fit without a list, and look recordings up one by one (quadratic in the corpus). Here a recipe describes everything
that its transcripts name; what cannot be used is found afterwards, when each item is held against its file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from data_prep.corpora.checks import Sound, read_header
from usdm.types import InputError

if TYPE_CHECKING:
    from lhotse import Recording, RecordingSet, SupervisionSet

_UNKNOWN = Sound(seconds=1e6, sample_rate=1, channels=1)  # longer than any segment, so that none is cut to it


@contextmanager
def lenient(recipe: str) -> Iterator[Any]:
    """The module `lhotse.recipes.<recipe>`, lenient until the context ends.

    Raises:
        InputError: Lhotse is not installed, or the corpus is not laid out as the recipe expects.
    """
    try:
        module = importlib.import_module(f"lhotse.recipes.{recipe}")
        sets = importlib.import_module("lhotse.audio.recording_set")
    except ModuleNotFoundError as error:
        raise InputError(f"{error}: the recipes of corpora need pip install 'usdm[train]'.") from error
    with ExitStack() as stack:

        def replace(target: object, name: str, value: object) -> None:
            if hasattr(target, name):
                stack.enter_context(patch.object(target, name, value))

        replace(sets.Recording, "from_file", staticmethod(_describe))
        replace(sets.RecordingSet, "__getitem__", _look_up)
        replace(sets.RecordingSet, "__contains__", _knows)
        replace(sets, "ProcessPoolExecutor", _Threads)  # other processes would not be lenient
        replace(module, "ProcessPoolExecutor", _Threads)
        replace(module, "fix_manifests", lambda recordings, supervisions: (recordings, supervisions))
        replace(module, "validate_recordings_and_supervisions", lambda *_, **__: None)
        try:
            yield module
        except (LookupError, ValueError, AssertionError, OSError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"Lhotse's recipe {recipe!r} cannot read this corpus ({type(error).__name__}: {error}): check that "
                "the folder is laid out as it was distributed."
            ) from error


class _Threads(ThreadPoolExecutor):
    """Takes a process pool's arguments."""

    def __init__(self, max_workers: int | None = None, mp_context: object = None) -> None:
        super().__init__(max_workers)


def _describe(
    path: str | Path,
    recording_id: str | Callable[[Path], str] | None = None,
    relative_path_depth: int | None = None,
    force_opus_sampling_rate: int | None = None,
    force_read_audio: bool = False,
) -> Recording:
    """In place of `Recording.from_file`: a file that cannot be opened is described all the same."""
    path = Path(path)
    name = recording_id(path) if callable(recording_id) else recording_id or path.stem
    try:
        return _recording(name, str(path), read_header(path))
    except InputError:
        return _recording(name, str(path), _UNKNOWN)


def _recording(name: str, source: str, sound: Sound) -> Recording:
    from lhotse import Recording
    from lhotse.audio import AudioSource

    samples = round(sound.seconds * sound.sample_rate)
    sources = [AudioSource(type="file", channels=list(range(sound.channels)), source=source)]
    return Recording(name, sources, sound.sample_rate, samples, sound.seconds)


def _look_up(recordings: RecordingSet, key: int | str) -> Recording:
    """In place of `RecordingSet.__getitem__`: by hash, and a recording that transcripts name in vain is described."""
    if isinstance(key, int):
        return recordings.recordings[key]
    index = _index(recordings)
    if key not in index:
        index[key] = _recording(key, key, _UNKNOWN)
        recordings.recordings.append(index[key])
    return index[key]


def _knows(recordings: RecordingSet, other: str | Recording) -> bool:
    return (other if isinstance(other, str) else other.id) in _index(recordings)


def _index(recordings: RecordingSet) -> dict[str, Recording]:
    known = recordings.__dict__.setdefault("_by_id", {})
    if len(known) != len(recordings.recordings):
        known.update((recording.id, recording) for recording in recordings.recordings)
    return known


def segments(recordings: RecordingSet, supervisions: SupervisionSet) -> Iterable[tuple[Any, Recording | None]]:
    """Each supervision with its recording, None where there is none."""
    by_id = {recording.id: recording for recording in recordings}
    return ((segment, by_id.get(segment.recording_id)) for segment in supervisions)
