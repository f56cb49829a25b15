"""Text for recordings without, from a Whisper model with random weights that may only say certain syllables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_models import qwen_tokenizer
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from data_prep import transcripts
from data_prep.transcripts import HEARD_FILE, transcribe_corpus
from usdm.cli.main import main
from usdm.data.speech_corpus import read_speech_corpora
from usdm.types import InputError


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whisper")
    tokenizer = qwen_tokenizer()
    end = tokenizer.eos_token_id
    said = set(tokenizer.convert_tokens_to_ids(["h", "i"]))
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, decoder_layers=1,
            decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=len(tokenizer) + 1, pad_token_id=end,
            bos_token_id=end, eos_token_id=end, decoder_start_token_id=end,
        )
    )  # fmt: skip
    model.generation_config = GenerationConfig(
        decoder_start_token_id=end, eos_token_id=end, pad_token_id=end, max_length=6, is_multilingual=False,
        suppress_tokens=sorted(set(range(len(tokenizer) + 1)) - said), no_timestamps_token_id=len(tokenizer),
    )  # fmt: skip
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return str(folder)


def corpus(folder: Path, *, longest: float = 1.0) -> Path:
    """Two recordings without text, the second `longest` seconds, and one with."""
    folder.mkdir()
    rows = []
    for name, seconds, text in (("a", 0.8, None), ("b", longest, None), ("c", 0.5, "hello there.")):
        sound = np.random.default_rng(0).normal(0, 0.1, int(16_000 * seconds))
        soundfile.write(folder / f"{name}.wav", sound, 16_000)
        row = {"id": name, "audio": f"{name}.wav", "speaker": "s", "role": "user", "dialog": name, "turn": 0}
        row |= {"split": "train", "text": text, "duration": seconds, "sample_rate": 16_000, "phones": [["aa", 0, 0.2]]}
        rows.append(row)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def transcribe(source: Path, target: Path, recogniser: str, lowest: float = -100.0) -> transcripts.TranscriptReport:
    return transcribe_corpus(str(source), str(target), recogniser=recogniser, lowest_confidence=lowest, device="cpu")


def test_text_is_added_where_there_was_none(tmp_path: Path, recogniser: str) -> None:
    source = corpus(tmp_path / "in")
    report = transcribe(source, tmp_path / "out", recogniser)
    assert (report.transcribed, report.doubtful, report.with_text, report.failed) == (2, 0, 1, ())
    first, second, third = read_speech_corpora([tmp_path / "out"])
    assert first.text and second.text and set(first.text) <= set("hi. ")
    assert not first.phones and third.phones  # an aligner found them without the text
    assert third.text == "hello there."
    assert first.read(16_000).samples.shape == (12_800,)  # sound is found from the new folder
    confidences = [json.loads(line)["confidence"] for line in (tmp_path / "out" / HEARD_FILE).read_text().splitlines()]
    assert all(-1.0 < value < 0 for value in confidences)  # of two syllables each has at least a fair chance


def test_doubtful_transcripts_are_counted_and_not_used(tmp_path: Path, recogniser: str) -> None:
    source = corpus(tmp_path / "in")
    report = transcribe(source, source, recogniser, lowest=0.0)
    assert (report.transcribed, report.doubtful) == (0, 2)
    assert [row.text for row in read_speech_corpora([source])] == [None, None, "hello there."]


def test_what_was_heard_is_not_heard_again(tmp_path: Path, recogniser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = corpus(tmp_path / "in")
    first = transcribe(source, tmp_path / "out", recogniser)
    heard = tmp_path / "out" / HEARD_FILE
    with monkeypatch.context() as never:
        never.setattr(transcripts, "_Whisper", None)
        assert transcribe(source, tmp_path / "out", recogniser) == first
    whole = heard.read_text()
    heard.write_text(whole[:-20])  # killed while it wrote
    assert transcribe(source, tmp_path / "out", recogniser) == first
    assert heard.read_text() == whole


def test_the_verb_reports_what_it_could_not_hear(
    tmp_path: Path, recogniser: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = corpus(tmp_path / "in", longest=31.0)
    (source / "a.wav").write_bytes(b"no sound")
    assert main(["transcribe", f"corpus={source}", f"recogniser={recogniser}", "lowest_confidence=-100"]) == 1
    captured = capsys.readouterr()
    assert "0 utterances transcribed" in captured.out
    assert "2 utterances were left without text" in captured.err
    assert "31.0 s are more than the 30 s" in captured.err and "a.wav" in captured.err


def test_another_model_is_refused(tmp_path: Path, recogniser: str) -> None:
    source = corpus(tmp_path / "in")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="model_type 'bert': give a Whisper model"):
        transcribe(source, source, str(other))
    (Path(other) / "config.json").write_text(Path(recogniser, "config.json").read_text())
    with pytest.raises(InputError, match="cannot be read"):
        transcribe(source, source, str(other))
