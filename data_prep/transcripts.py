"""What recordings without text say, as a recogniser hears it: text that others can learn from."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from usdm.asr.recogniser import ConfidentRecogniser, Recogniser
from usdm.data.speech_corpus import (
    MANIFEST_FILE,
    Utterance,
    manifest_files,
    manifest_lines,
    manifest_row,
    parse_utterance,
)
from usdm.runs import RowsById, Shards, Task, claim, in_processes, publishing
from usdm.tokens.language import English, Language, told_apart
from usdm.types import InputError, Waveform

SAMPLE_RATE = 16_000  # Hz
LONGEST = 30.0  # seconds; a longer recording is no utterance
SHARDS, SHARD_UTTERANCES = "transcripts", 20
HEARD = "heard"  # in the manifest, beside a text that was: what and how surely


@dataclass(frozen=True)
class TranscriptReport:
    """What became of the utterances without text."""

    transcribed: int
    doubtful: int  # heard, but no words, or not surely enough
    with_text: int  # had it before
    failed: tuple[str, ...]  # one message an utterance


@dataclass(frozen=True)
class Heard:
    """An utterance's transcript."""

    text: str  # in the language's spoken form
    confidence: float | None  # mean natural logarithm of the probabilities of what was written; None: not known


def transcribe_corpus(
    corpus: str,
    output_dir: str,
    *,
    asr: Recogniser,
    lowest_confidence: float | None,
    language: Language = English(),  # noqa: B008 (frozen)
    retry_errors: bool = False,
    overwrite: bool = False,
) -> TranscriptReport:
    """Write `output_dir/manifest.jsonl`: the corpus' lines, those without text with what the recogniser heard.

    `output_dir` may be the corpus itself, which may have grown since an earlier run. Beside the manifest lies what was
    heard, with its confidence, in `transcripts/`; it is not heard again. In the manifest such a text stands under
    `heard` too, so that another `lowest_confidence` can give or take it; one that was corrected by hand stays.

    Args:
        asr: the recogniser; it hears each recording alone.
        lowest_confidence: a transcript below it is not used; None uses all.
        language: how texts are written; what has no letter of it counts as nothing heard.
        retry_errors: recordings that failed are tried again.
        overwrite: delete what another recogniser heard, or what was heard in recordings that are gone or changed.

    Raises:
        InputError: the corpus cannot be read, a recording occurs twice, a confidence is asked of a recogniser that
            does not tell any, or what another recogniser heard, or what was heard in recordings that are gone or
            changed, lies in `output_dir`.
    """
    folder = Path(output_dir)
    (manifest,) = manifest_files([corpus])
    if lowest_confidence is not None and not isinstance(asr, ConfidentRecogniser):
        raise InputError(
            f"lowest_confidence={lowest_confidence}: {asr.name} does not say how sure it is; give null to use all that "
            "it hears, or choose asr=whisper or asr=ctc"
        )
    with claim(
        folder / SHARDS,
        {"asr": asr.identity, **told_apart(language)},
        {"corpus": corpus},
        results=("*.jsonl", "rows/*"),
        beside=(MANIFEST_FILE,),
        grows=("corpus",),
        overwrite=overwrite,
    ) as claimed:
        shards = Shards(folder / SHARDS, ".jsonl", _key)
        share = shards.share([manifest], SHARD_UTTERANCES, overwrite=overwrite, retry_failed=retry_errors)
        made = in_processes(partial(_Worker, shards, asr, language), share.tasks, 1)
        for _ in tqdm(made, total=len(share.tasks), unit="shard", desc="transcribe"):
            pass
        failed = tuple(f"{row.id}: {row.message}" for row in shards.outcome(share).failed)
        heard = RowsById([shard.path for shard in shards.done()])
        with publishing(folder / MANIFEST_FILE) as part:
            counts = _merge(manifest, part, heard, lowest_confidence)
        report = TranscriptReport(counts["sure"], counts["doubtful"], counts["with text"], failed)
        in_place = manifest.samefile(folder / MANIFEST_FILE)
        claimed.finish({**asdict(report), "failed": len(failed)}, rewritten=["corpus"] if in_place else [])
    return report


def _key(line: bytes) -> bytes | None:
    row = manifest_row(line)
    if _text(row) is not None and HEARD not in row:
        return None
    return json.dumps([row.get(name) for name in ("id", "audio", "start", "channel", "duration")]).encode()


def _text(row: Mapping[str, Any]) -> str | None:
    """A row's text; a blank one, as tables of recordings have it, is none."""
    text = row.get("text")
    return text if text and text.strip() else None


class _Worker:
    """Hears shards."""

    def __init__(self, shards: Shards, asr: Recogniser, language: Language, number: int) -> None:
        self.shards, self.asr, self.language = shards, asr, language

    def __call__(self, task: Task) -> None:
        with self.shards.making(task) as (part, failed), part.open("w", encoding="utf-8") as file:
            for path, line in task.rows:
                utterance = parse_utterance(path, line)
                try:
                    heard = _hear(self.asr, _sound(utterance), self.language)
                except InputError as error:
                    failed[utterance.id] = str(error)
                else:
                    file.write(json.dumps({"id": utterance.id, **asdict(heard)}) + "\n")


def _merge(manifest: Path, target: Path, heard: RowsById, lowest_confidence: float | None) -> Counter[str]:
    """Write the manifest anew with what was heard, one line in memory at a time; counts."""
    counts: Counter[str] = Counter()
    with manifest.open("rb") as lines, target.open("w", encoding="utf-8") as file:
        for _, _, line in manifest_lines(lines):
            row = json.loads(line)
            known = None if _key(line) is None else heard.get(row["id"])
            if known is not None and _text(row) in (None, row.get(HEARD, {}).get("text")):
                is_sure = bool(known["text"]) and (
                    lowest_confidence is None or known["confidence"] >= lowest_confidence
                )
                counts["sure" if is_sure else "doubtful"] += 1
                text = known["text"] if is_sure else None
                if text != row.get("text"):
                    # Words and phones that an aligner found without text, or with another, are not those of this one.
                    row |= {"words": None, "phones": None, "pronunciation": None}
                del known["id"]
                row |= {"text": text, HEARD: known if is_sure else None}
            else:
                counts["with text"] += _text(row) is not None
            if not Path(row["audio"]).is_absolute():
                row["audio"] = os.path.relpath(manifest.parent / row["audio"], target.parent)
            row = {name: value for name, value in row.items() if value is not None or name == "text"}
            file.write(json.dumps(row) + "\n")
    return counts


def _hear(asr: Recogniser, sound: Waveform, language: Language) -> Heard:
    if isinstance(asr, ConfidentRecogniser):
        (heard,) = asr.hear([sound])
        return Heard(language.spoken_text(heard.text), round(heard.confidence, 3))
    (text,) = asr([sound])
    return Heard(language.spoken_text(text), None)


def _sound(utterance: Utterance) -> Waveform:
    """Raises InputError if it cannot be read or is too long."""
    if utterance.duration > LONGEST:
        raise InputError(f"{utterance.duration:.1f} s are more than the {LONGEST:g} s of an utterance: cut it before")
    return utterance.read(SAMPLE_RATE)
