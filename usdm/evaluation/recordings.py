"""Transcripts of any recordings with text: how well the model hears real people."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from usdm.asr.recogniser import Recogniser
from usdm.audio import read_audio
from usdm.chain import SpokenDialogPipeline
from usdm.evaluation.result_lines import Progress, complete, finished
from usdm.metrics.facts import surroundings
from usdm.metrics.intervals import Judged, WordErrorRate, word_error_rate
from usdm.metrics.table import false_alarms_cell, markdown_table, rate_cell
from usdm.metrics.text import FalseAlarms, false_alarms, word_errors
from usdm.runs import content_digest, write_text
from usdm.types import InputError, Sampling, Waveform

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.jsonl"
TRANSCRIBING = ("units", "transcribe")  # the stages that lead to a transcript
NO_REPLY = Sampling(max_new_tokens=1)  # the stage after them, cut short


@dataclass(frozen=True)
class Recording:
    """One line of a manifest: `id`, `audio`, `text`, `duration`, and `speaker` where it is known.

    A speech corpus may give `dialog`, and of a longer file `start` (s) and `channel`.
    """

    id: str
    audio: Path
    text: str
    speaker: str
    duration: float  # seconds
    fields: Mapping[str, Any]  # the whole line

    @property
    def drawn_with(self) -> str:
        """Names what intervals redraw as one: the dialog, or where there is none the speaker."""
        return str(self.fields.get("dialog") or self.speaker)

    def read(self) -> Waveform:
        start, channel = self.fields.get("start"), self.fields.get("channel")
        seconds = None if start is None else self.duration
        return read_audio(self.audio, start=start or 0.0, seconds=seconds, channel=channel)


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
class GroupScore:
    """Word error rates over the recordings that have one value of a field."""

    items: int
    transcript: WordErrorRate | None
    recogniser: WordErrorRate | None


@dataclass(frozen=True)
class TranscriptScore:
    """Word error rates over one folder of recordings."""

    folder: str
    items: int  # scored
    failed: int
    without_text: int  # left out: there is nothing to score them by
    unfinished: int  # not transcribed yet
    transcript: WordErrorRate | None
    recogniser: WordErrorRate | None  # an independent recogniser on the same recordings
    false_alarms: FalseAlarms | None  # of the model, in recordings whose text has no words
    groups: Mapping[str, GroupScore]  # by the value of the field that was asked for
    real_time_factor: float | None  # seconds of work per second of recording
    facts: dict[str, Any]


def read_recordings(
    folder: str | Path, where: Mapping[str, str] | None = None, by: str | None = None
) -> tuple[list[Recording], int]:
    """The recordings with text of a folder with `manifest.jsonl`, and how many lines have none.

    `where` keeps the lines that have these values, `{"split": "test", "role": "user"}` of a speech corpus, say.
    All of them must have the field `by`.

    Raises:
        InputError: the manifest is missing or wrong, no line is kept, none of those has text, or one has no `by`.
    """
    where = where or {}
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a folder of recordings with a {MANIFEST_FILE}")
    recordings, without_text = [], 0
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            if any(str(row.get(field)) != value for field, value in where.items()):
                continue
            recording = Recording(
                id=row["id"],
                audio=path.parent / row["audio"],
                text=row.get("text") or "",
                speaker=str(row.get("speaker", row["id"])),
                duration=float(row["duration"]),
                fields=row,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}, line {number}: not a recording ({error!r}); it needs id, audio and duration"
            ) from error
        if by is not None and row.get(by) is None:
            raise InputError(f"by={by}: {path}, line {number} has no such field, only {', '.join(row)}")
        if recording.text.strip():
            recordings.append(recording)
        else:
            without_text += 1
    if where and not recordings and not without_text:
        wanted = ", ".join(f"{field}={value}" for field, value in where.items())
        raise InputError(f"{path}: no line has {wanted}; check the fields of the manifest")
    if not recordings:
        raise InputError(f"{path}: none of its {without_text} recordings has a text to compare with; add `text`")
    return recordings, without_text


def evaluate_recordings(
    pipeline: SpokenDialogPipeline,
    folder: str | Path,
    recogniser: Recogniser,
    output_dir: str | Path,
    *,
    where: Mapping[str, str] | None = None,
    by: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    so_far: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> TranscriptScore:
    """Transcribe recordings and score the words; nothing is replied.

    Writes `<name of the folder>.jsonl` (a row a recording, reused by a later run of the same model and
    recogniser) and `<name of the folder>.json`. `where` and `by` as for `read_recordings`: which recordings, and the
    field whose values are scored one by one too. `limit` takes so many at even distances.
    `so_far` scores what an earlier run of the same settings has, or one that is still at work, and transcribes nothing.
    `overwrite` replaces the figures of another model, recogniser or seed, or of other recordings.

    Raises:
        InputError: as `read_recordings`, a limit below 1, nothing there to score `so_far`, or such other figures. A
            failing recording does not raise: see `TranscriptScore.failed`.
    """
    recordings, without_text = read_recordings(folder, where, by)
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit}: at least one recording must be left; give 1 or more")
    if limit is not None and limit < len(recordings):
        recordings = [recordings[place * len(recordings) // limit] for place in range(limit)]
    output_dir, name = Path(output_dir), Path(folder).resolve().name
    output_dir.mkdir(parents=True, exist_ok=True)
    system = [pipeline.fingerprint, pipeline.precision, asdict(pipeline.settings), seed, recogniser.identity]
    asked: dict[str, Any] = {
        "recordings": content_digest(folder),
        "model": pipeline.fingerprint,
        "recogniser": recogniser.name,
        "where": dict(where or {}),
        "seed": seed,
    }
    if not overwrite:
        _check_same(output_dir / f"{name}.json", asked)
    by_key = {_key(recording, system): recording for recording in recordings}
    work = {key: partial(_transcribe, pipeline, recording, recogniser, key, seed) for key, recording in by_key.items()}
    path = output_dir / f"{name}.jsonl"
    transcripts = finished(path, Transcript, work) if so_far else complete(path, Transcript, work, progress)
    recordings = [by_key[transcript.key] for transcript in transcripts]
    left = len(work) - len(transcripts)
    facts = {**asked, "by": by, **surroundings()}
    score = _score(name, recordings, transcripts, without_text, left, by, seed, facts)
    write_text(output_dir / f"{name}.json", json.dumps(asdict(score), indent=2, ensure_ascii=False) + "\n")
    return score


def _check_same(path: Path, asked: Mapping[str, Any]) -> None:
    """Raises InputError if there are figures of something else."""
    if not path.is_file():
        return
    try:
        facts = json.loads(path.read_bytes())["facts"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no figures of recordings ({error!r}); choose another output_dir") from error
    if told := [
        f"  {name}: {facts.get(name)} then, {now} now" for name, now in asked.items() if facts.get(name) != now
    ]:
        lines = "\n".join(told)
        raise InputError(f"{path} has other figures:\n{lines}\nchoose another output_dir, or overwrite=true")


def transcript_table(scores: Sequence[TranscriptScore]) -> str:
    """Markdown: a row a folder, then a table for each whose recordings were grouped."""
    rows = [
        [
            score.folder,
            rate_cell(score.transcript),
            rate_cell(score.recogniser),
            _words(score.transcript),
            str(score.items),
            false_alarms_cell(score.false_alarms),
            f"{score.without_text} without text, {score.failed} failed"
            + (f", {score.unfinished} not done yet" if score.unfinished else ""),
        ]
        for score in scores
    ]
    header = ["recordings", "transcript WER", "recogniser's WER", "words", "items"]
    header += ["heard where nothing is said", "left out"]
    tables = [markdown_table(header, rows)] + [_group_table(score) for score in scores if score.groups]
    return "\n\n".join(tables) + "\n"


def _group_table(score: TranscriptScore) -> str:
    rows = [
        [value, rate_cell(group.transcript), rate_cell(group.recogniser), _words(group.transcript), str(group.items)]
        for value, group in score.groups.items()
    ]
    header = [f"{score.folder}, {score.facts['by']}", "transcript WER", "recogniser's WER", "words", "items"]
    return markdown_table(header, rows)


def _words(rate: WordErrorRate | None) -> str:
    return "0" if rate is None else str(rate.counts.words)


def _transcribe(
    pipeline: SpokenDialogPipeline, recording: Recording, recogniser: Recogniser, key: str, seed: int
) -> Transcript:
    transcript = Transcript(key, recording.id, recording.speaker, recording.text, recording.duration)
    try:
        sound = recording.read()
        heard = pipeline.respond(
            sound.samples, sound.sample_rate, speak=False, sampling={"respond": NO_REPLY}, seed=seed
        )
        return replace(
            transcript,
            transcript=heard.user_text or "",
            recognised=recogniser([sound])[0],
            seconds=sum(heard.timings[stage] for stage in TRANSCRIBING),
        )
    except Exception as error:  # one bad recording must not end a long run; it is counted and makes the run fail
        logger.error("%s failed: %s", recording.id, error, exc_info=not isinstance(error, InputError))
        return replace(transcript, error=f"{type(error).__name__}: {error}")


def _score(
    folder: str,
    recordings: Sequence[Recording],
    transcripts: Sequence[Transcript],
    without_text: int,
    unfinished: int,
    by: str | None,
    seed: int,
    facts: dict[str, Any],
) -> TranscriptScore:
    pairs = [(r, t) for r, t in zip(recordings, transcripts, strict=True) if t.error is None]
    groups: dict[str, list[tuple[Recording, Transcript]]] = {}
    if by is not None:
        for recording, transcript in pairs:
            groups.setdefault(str(recording.fields[by]), []).append((recording, transcript))
    duration = sum(transcript.duration for _, transcript in pairs)
    whole = _group_score(pairs, seed)
    return TranscriptScore(
        folder=folder,
        items=len(pairs),
        failed=len(transcripts) - len(pairs),
        without_text=without_text,
        unfinished=unfinished,
        transcript=whole.transcript,
        recogniser=whole.recogniser,
        false_alarms=false_alarms([word_errors(t.text, t.transcript) for _, t in pairs]),
        groups={value: _group_score(groups[value], seed) for value in sorted(groups)},
        real_time_factor=sum(t.seconds for _, t in pairs) / duration if duration else None,
        facts=facts,
    )


def _group_score(pairs: Sequence[tuple[Recording, Transcript]], seed: int) -> GroupScore:
    """Intervals redraw dialogs or speakers, and the recordings of one speaker where there is no other."""
    drawn = [recording.drawn_with for recording, _ in pairs]
    if len(set(drawn)) == 1:
        drawn = [recording.id for recording, _ in pairs]
    transcript: list[Judged] = []
    recogniser: list[Judged] = []
    for name, (_, heard) in zip(drawn, pairs, strict=True):
        transcript.append((name, word_errors(heard.text, heard.transcript)))
        recogniser.append((name, word_errors(heard.text, heard.recognised)))
    return GroupScore(len(pairs), word_error_rate(transcript, seed), word_error_rate(recogniser, seed))


def _key(recording: Recording, system: Sequence[Any]) -> str:
    """Digest of everything that a transcript depends on."""
    part = [recording.fields.get("start"), recording.duration, recording.fields.get("channel")]
    digest = hashlib.sha256(json.dumps([recording.id, recording.text, part, *system], sort_keys=True).encode())
    if recording.audio.is_file():
        digest.update(recording.audio.read_bytes())
    return digest.hexdigest()
