"""Transcripts of any recordings with text: how well the model hears real people."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from usdm.audio import read_audio
from usdm.chain import SpokenDialogPipeline
from usdm.evaluation.facts import surroundings
from usdm.evaluation.intervals import WordErrorRate, word_error_rate
from usdm.evaluation.ledger import Progress, complete, write_atomically
from usdm.evaluation.recogniser import Recogniser
from usdm.evaluation.table import markdown_table, rate_cell
from usdm.evaluation.text import word_errors
from usdm.types import InputError, Sampling

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.jsonl"
TRANSCRIBING = ("units", "transcribe")  # the stages that lead to a transcript
NO_REPLY = Sampling(max_new_tokens=1)  # the stage after them, cut short


@dataclass(frozen=True)
class Recording:
    """One line of a manifest: `id`, `audio`, `text`, `duration`, and `speaker` where it is known."""

    id: str
    audio: Path
    text: str
    speaker: str
    duration: float  # seconds


@dataclass(frozen=True)
class Transcript:
    """What the model and the recogniser heard in one recording."""

    key: str  # of all that it depends on
    id: str
    speaker: str
    text: str  # what is said
    duration: float  # seconds
    transcript: str = ""
    recognised: str = ""
    seconds: float = 0.0  # that the model took
    error: str | None = None

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"transcript_errors": asdict(word_errors(self.text, self.transcript))}


@dataclass(frozen=True)
class TranscriptScore:
    """Word error rates over one folder of recordings."""

    folder: str
    items: int  # scored
    failed: int
    without_text: int  # left out: there is nothing to score them by
    transcript: WordErrorRate | None
    recogniser: WordErrorRate | None  # an independent recogniser on the same recordings
    real_time_factor: float | None  # seconds of work per second of recording
    facts: dict[str, Any]


def read_recordings(folder: str | Path) -> tuple[list[Recording], int]:
    """The recordings with text of a folder with `manifest.jsonl`, and how many lines have none.

    Raises:
        InputError: the manifest is missing or wrong, or no line has text.
    """
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a folder of recordings with a {MANIFEST_FILE}")
    recordings, without_text = [], 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            recording = Recording(
                id=row["id"],
                audio=path.parent / row["audio"],
                text=row.get("text") or "",
                speaker=str(row.get("speaker", row["id"])),
                duration=float(row["duration"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}, line {number}: not a recording ({error!r}); it needs id, audio and duration"
            ) from error
        if recording.text.strip():
            recordings.append(recording)
        else:
            without_text += 1
    if not recordings:
        raise InputError(f"{path}: none of its {without_text} recordings has a text to compare with; add `text`")
    return recordings, without_text


def evaluate_recordings(
    pipeline: SpokenDialogPipeline,
    folder: str | Path,
    recogniser: Recogniser,
    output_dir: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> TranscriptScore:
    """Transcribe recordings and score the words; nothing is replied.

    Writes `<name of the folder>.jsonl` (a row a recording, reused by a later run of the same model and
    recogniser) and `<name of the folder>.json`. `limit` takes so many at even distances.

    Raises:
        InputError: as `read_recordings`, or a limit below 1. A failing recording does not raise: see
            `TranscriptScore.failed`.
    """
    recordings, without_text = read_recordings(folder)
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit}: at least one recording must be left; give 1 or more")
    if limit is not None and limit < len(recordings):
        recordings = [recordings[place * len(recordings) // limit] for place in range(limit)]
    output_dir, name = Path(output_dir), Path(folder).resolve().name
    output_dir.mkdir(parents=True, exist_ok=True)
    system = [pipeline.fingerprint, asdict(pipeline.settings), seed, recogniser.name]
    work = {}
    for recording in recordings:
        key = _key(recording, system)
        work[key] = partial(_transcribe, pipeline, recording, recogniser, key, seed)
    transcripts = complete(output_dir / f"{name}.jsonl", Transcript, work, progress)
    facts = {"model": pipeline.fingerprint, "recogniser": recogniser.name, "seed": seed, **surroundings()}
    score = _score(name, transcripts, without_text, seed, facts)
    write_atomically(output_dir / f"{name}.json", json.dumps(asdict(score), indent=2, ensure_ascii=False) + "\n")
    return score


def transcript_table(scores: Sequence[TranscriptScore]) -> str:
    """Markdown, a row a folder."""
    rows = [
        [
            score.folder,
            rate_cell(score.transcript),
            rate_cell(score.recogniser),
            str(score.items),
            f"{score.without_text} without text, {score.failed} failed",
        ]
        for score in scores
    ]
    return markdown_table(["recordings", "transcript WER", "recogniser's WER", "items", "left out"], rows) + "\n"


def _transcribe(
    pipeline: SpokenDialogPipeline, recording: Recording, recogniser: Recogniser, key: str, seed: int
) -> Transcript:
    transcript = Transcript(key, recording.id, recording.speaker, recording.text, recording.duration)
    try:
        sound = read_audio(recording.audio)
        heard = pipeline.respond(
            sound.samples, sound.sample_rate, speak=False, sampling={"respond": NO_REPLY}, seed=seed
        )
        return replace(
            transcript,
            transcript=heard.user_text or "",
            recognised=recogniser(sound),
            seconds=sum(heard.timings[stage] for stage in TRANSCRIBING),
        )
    except Exception as error:  # one bad recording must not end a long run; it is counted and makes the run fail
        logger.exception("%s failed", recording.id)
        return replace(transcript, error=f"{type(error).__name__}: {error}")


def _score(
    folder: str, transcripts: Sequence[Transcript], without_text: int, seed: int, facts: dict[str, Any]
) -> TranscriptScore:
    """Intervals redraw speakers, as those of dialogs redraw dialogs."""
    scored = [t for t in transcripts if t.error is None]
    duration = sum(t.duration for t in scored)
    return TranscriptScore(
        folder=folder,
        items=len(scored),
        failed=len(transcripts) - len(scored),
        without_text=without_text,
        transcript=word_error_rate([(t.speaker, word_errors(t.text, t.transcript)) for t in scored], seed),
        recogniser=word_error_rate([(t.speaker, word_errors(t.text, t.recognised)) for t in scored], seed),
        real_time_factor=sum(t.seconds for t in scored) / duration if duration else None,
        facts=facts,
    )


def _key(recording: Recording, system: Sequence[Any]) -> str:
    """Digest of everything that a transcript depends on."""
    digest = hashlib.sha256(json.dumps([recording.id, recording.text, *system], sort_keys=True).encode())
    if recording.audio.is_file():
        digest.update(recording.audio.read_bytes())
    return digest.hexdigest()
