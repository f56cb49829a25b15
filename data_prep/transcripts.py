"""What recordings without text say, as a Whisper model hears it (arXiv 2212.04356): text that others can learn from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, WhisperForConditionalGeneration, WhisperProcessor

from data_prep.files import write_atomically
from data_prep.spoken_text import spoken_text
from usdm.data.speech_corpus import MANIFEST_FILE, Utterance, read_speech_corpora
from usdm.types import InputError
from usdm.units.hub import UNREADABLE, first_line, hub_config, quiet

SAMPLE_RATE = 16_000  # Hz
LONGEST = 30.0  # seconds that Whisper hears at once
HEARD_FILE = "heard.jsonl"


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
    corpus: str, output_dir: str, *, recogniser: str, lowest_confidence: float, device: str
) -> TranscriptReport:
    """Write `output_dir/manifest.jsonl`: the corpus' lines, those without text with what the recogniser heard.

    `output_dir` may be the corpus itself. Beside the manifest lies `heard.jsonl`, with every transcript and its
    confidence; what it has is not heard again, so a killed run goes on from there.

    Args:
        recogniser: an English Whisper model, on the hub or in a local folder.
        lowest_confidence: a transcript below it is not used.

    Raises:
        InputError: the corpus or the recogniser cannot be read.
    """
    source, folder = Path(corpus), Path(output_dir)
    utterances = read_speech_corpora([source])
    wanted = [utterance for utterance in utterances if utterance.text is None]
    folder.mkdir(parents=True, exist_ok=True)
    heard, failed = _hear(wanted, folder / HEARD_FILE, recogniser, device)
    lines = []
    for row in map(json.loads, (source / MANIFEST_FILE).read_text(encoding="utf-8").splitlines()):
        known = heard.get(row["id"])
        if known is not None and known.text and known.confidence >= lowest_confidence:
            # Words and phones that an aligner found without text are not those of this text.
            row |= {"text": known.text, "words": None, "phones": None, "pronunciation": None}
        if not Path(row["audio"]).is_absolute():
            row["audio"] = os.path.relpath(source / row["audio"], folder)
        lines.append(json.dumps({name: value for name, value in row.items() if value is not None or name == "text"}))
    write_atomically(folder / MANIFEST_FILE, "\n".join(lines) + "\n")
    sure = sum(bool(each.text) and each.confidence >= lowest_confidence for each in heard.values())
    return TranscriptReport(sure, len(heard) - sure, len(utterances) - len(wanted), tuple(failed))


def _hear(wanted: list[Utterance], path: Path, recogniser: str, device: str) -> tuple[dict[str, Heard], list[str]]:
    """Transcripts by utterance, and a message for each that has none."""
    heard = _heard_before(path, recogniser, {utterance.id for utterance in wanted})
    left = [utterance for utterance in wanted if utterance.id not in heard]
    failed: list[str] = []
    if left:
        whisper = _Whisper(recogniser, device)
        # Without a line that a kill cut off: the next would be written on to it.
        write_atomically(path, "".join(_line(name, each, recogniser) for name, each in heard.items()))
        with path.open("a", encoding="utf-8") as notes:
            for utterance in tqdm(left, desc="transcribe", unit="utterance"):
                try:
                    heard[utterance.id] = each = whisper(_sound(utterance))
                except InputError as error:
                    failed.append(f"{utterance.id}: {error}")
                    continue
                notes.write(_line(utterance.id, each, recogniser))
                notes.flush()
    return heard, failed


def _line(name: str, heard: Heard, recogniser: str) -> str:
    row = {"id": name, "text": heard.text, "confidence": heard.confidence, "by": recogniser}
    return json.dumps(row) + "\n"


def _heard_before(path: Path, recogniser: str, wanted: set[str]) -> dict[str, Heard]:
    """What an earlier run with the same recogniser wrote, but for a line that a kill cut off."""
    heard: dict[str, Heard] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["by"] == recogniser and row["id"] in wanted:
            heard[row["id"]] = Heard(row["text"], row["confidence"])
    return heard


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
        if (kind := hub_config(name).model_type) != "whisper":
            raise InputError(f"recogniser={name} is of model_type '{kind}': give a Whisper model.")
        try:
            with quiet():
                self.processor = WhisperProcessor.from_pretrained(name)
                self.model: PreTrainedModel = WhisperForConditionalGeneration.from_pretrained(name)
        except UNREADABLE as error:
            raise InputError(f"recogniser={name} cannot be read ({first_line(error)}).") from error
        self.model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, sound: Tensor) -> Heard:
        features = self.processor(sound.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        output = self.model.generate(
            features.to(self.model.device), do_sample=False, return_dict_in_generate=True, output_scores=True
        )
        sure = self.model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        text = self.processor.batch_decode(output.sequences, skip_special_tokens=True)[0]
        return Heard(spoken_text(text), round(float(sure.mean()), 3))
