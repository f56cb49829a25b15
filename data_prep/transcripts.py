"""What recordings without text say, as a Whisper model hears it (arXiv 2212.04356): text that others can learn from."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, WhisperForConditionalGeneration, WhisperProcessor

from data_prep.spoken_text import spoken_text
from usdm.data.speech_corpus import (
    MANIFEST_FILE,
    Utterance,
    manifest_files,
    manifest_lines,
    manifest_row,
    parse_utterance,
)
from usdm.runs import RowsById, Shards, Task, claim, in_processes, publishing
from usdm.types import InputError
from usdm.units.hub import UNREADABLE, first_line, hub_config, quiet

SAMPLE_RATE = 16_000  # Hz
LONGEST = 30.0  # seconds that Whisper hears at once
SHARDS, SHARD_UTTERANCES = "transcripts", 20
HEARD = "heard"  # in the manifest, beside a text that was: what and how surely


@dataclass(frozen=True)
class TranscriptReport:
    """What became of the utterances without text."""

    transcribed: int
    doubtful: int  # heard, but not surely enough
    with_text: int  # had it before
    failed: tuple[str, ...]  # one message an utterance


@dataclass(frozen=True)
class Heard:
    """An utterance's transcript."""

    text: str  # as `spoken_text` writes it
    confidence: float  # mean natural logarithm of its tokens' probabilities


def transcribe_corpus(
    corpus: str,
    output_dir: str,
    *,
    recogniser: str,
    lowest_confidence: float,
    device: str,
    retry_errors: bool = False,
    overwrite: bool = False,
) -> TranscriptReport:
    """Write `output_dir/manifest.jsonl`: the corpus' lines, those without text with what the recogniser heard.

    `output_dir` may be the corpus itself, which may have grown since an earlier run. Beside the manifest lies what was
    heard, with its confidence, in `transcripts/`; it is not heard again. In the manifest such a text stands under
    `heard` too, so that another `lowest_confidence` can give or take it; one that was corrected by hand stays.

    Args:
        recogniser: an English Whisper model, on the hub or in a local folder.
        lowest_confidence: a transcript below it is not used.
        retry_errors: recordings that failed are tried again.
        overwrite: delete what another recogniser heard, or what was heard in recordings that are gone or changed.

    Raises:
        InputError: the corpus or the recogniser cannot be read, a recording occurs twice, or what another recogniser
            heard, or what was heard in recordings that are gone or changed, lies in `output_dir`.
    """
    folder = Path(output_dir)
    (manifest,) = manifest_files([corpus])
    if (kind := hub_config(recogniser).model_type) != "whisper":
        raise InputError(f"recogniser={recogniser} is of model_type '{kind}': give a Whisper model.")
    with claim(
        folder / SHARDS,
        {},
        {"corpus": corpus, "recogniser": recogniser},
        results=("*.jsonl", "rows/*"),
        grows=("corpus",),
        overwrite=overwrite,
    ) as claimed:
        shards = Shards(folder / SHARDS, ".jsonl", _key)
        share = shards.share([manifest], SHARD_UTTERANCES, overwrite=overwrite, retry_failed=retry_errors)
        made = in_processes(partial(_Worker, shards, recogniser, device), share.tasks, 1)
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
    if row.get("text") is not None and HEARD not in row:
        return None
    return json.dumps([row.get(name) for name in ("id", "audio", "start", "channel", "duration")]).encode()


class _Worker:
    """Hears shards."""

    def __init__(self, shards: Shards, recogniser: str, device: str, number: int) -> None:
        self.shards, self.whisper = shards, _Whisper(recogniser, device)

    def __call__(self, task: Task) -> None:
        with self.shards.making(task) as (part, failed), part.open("w", encoding="utf-8") as file:
            for path, line in task.rows:
                utterance = parse_utterance(path, line)
                try:
                    heard = self.whisper(_sound(utterance))
                except InputError as error:
                    failed[utterance.id] = str(error)
                else:
                    file.write(json.dumps({"id": utterance.id, **asdict(heard)}) + "\n")


def _merge(manifest: Path, target: Path, heard: RowsById, lowest_confidence: float) -> Counter[str]:
    """Write the manifest anew with what was heard, one line in memory at a time; counts."""
    counts: Counter[str] = Counter()
    with manifest.open("rb") as lines, target.open("w", encoding="utf-8") as file:
        for _, _, line in manifest_lines(lines):
            row = json.loads(line)
            known = None if _key(line) is None else heard.get(row["id"])
            if known is not None and row.get("text") in (None, row.get(HEARD, {}).get("text")):
                is_sure = bool(known["text"]) and known["confidence"] >= lowest_confidence
                counts["sure" if is_sure else "doubtful"] += 1
                text = known["text"] if is_sure else None
                if text != row.get("text"):
                    # Words and phones that an aligner found without text, or with another, are not those of this one.
                    row |= {"words": None, "phones": None, "pronunciation": None}
                del known["id"]
                row |= {"text": text, HEARD: known if is_sure else None}
            else:
                counts["with text"] += row.get("text") is not None
            if not Path(row["audio"]).is_absolute():
                row["audio"] = os.path.relpath(manifest.parent / row["audio"], target.parent)
            row = {name: value for name, value in row.items() if value is not None or name == "text"}
            file.write(json.dumps(row) + "\n")
    return counts


def _sound(utterance: Utterance) -> Tensor:
    """(T,) at `SAMPLE_RATE`. Raises InputError if it cannot be read or is too long."""
    if utterance.duration > LONGEST:
        raise InputError(
            f"{utterance.duration:.1f} s are more than the {LONGEST:g} s that Whisper hears at once: cut it before"
        )
    return utterance.read(SAMPLE_RATE).samples


class _Whisper:
    """Waveform in, transcript out; greedy."""

    def __init__(self, name: str, device: str) -> None:
        try:
            with quiet():
                self.processor = WhisperProcessor.from_pretrained(name)
                self.model: PreTrainedModel = WhisperForConditionalGeneration.from_pretrained(name, dtype=torch.float32)
        except UNREADABLE as error:
            raise InputError(f"recogniser={name} cannot be read ({first_line(error)}).") from error
        self.model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, sound: Tensor) -> Heard:
        features = self.processor(sound.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        with quiet():  # transformers warns of what its Whisper passes to itself
            output = self.model.generate(
                features.to(self.model.device), do_sample=False, return_dict_in_generate=True, output_scores=True
            )
        sure = self.model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        text = self.processor.batch_decode(output.sequences, skip_special_tokens=True)[0]
        return Heard(spoken_text(text), round(float(sure.mean()), 3))
