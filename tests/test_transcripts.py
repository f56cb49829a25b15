"""Text for recordings without, from a Whisper model with random weights that may only say certain syllables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from kills import die, killed
from tiny_models import qwen_tokenizer
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from data_prep import transcripts
from data_prep.transcripts import transcribe_corpus
from usdm.asr.recogniser import Heard
from usdm.asr.whisper import WhisperRecogniser
from usdm.cli.main import main
from usdm.data.speech_corpus import read_speech_corpora
from usdm.types import InputError, Waveform


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
    model.half().save_pretrained(folder)  # as many are published
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


def transcribe(
    source: Path, target: Path, recogniser: str, lowest: float = -100.0, **options: bool
) -> transcripts.TranscriptReport:
    return transcribe_corpus(
        str(source), str(target), asr=WhisperRecogniser(recogniser), lowest_confidence=lowest, **options
    )


def read_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def write_rows(folder: Path, rows: Iterable[dict]) -> None:
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_text_is_added_where_there_was_none(tmp_path: Path, recogniser: str) -> None:
    source = corpus(tmp_path / "in")
    report = transcribe(source, tmp_path / "out", recogniser)
    assert (report.transcribed, report.doubtful, report.with_text, report.failed) == (2, 0, 1, ())
    first, second, third = read_speech_corpora([tmp_path / "out"])
    assert first.text and second.text and set(first.text) <= set("hi. ")
    assert not first.phones and third.phones  # an aligner found them without the text
    assert third.text == "hello there."
    assert first.read(16_000).samples.shape == (12_800,)  # sound is found from the new folder
    confidences = [row["heard"]["confidence"] for row in read_rows(tmp_path / "out") if row["id"] != "c"]
    assert len(confidences) == 2 and all(
        -1.0 < value < 0 for value in confidences
    )  # of two syllables each has at least a fair chance


def test_doubtful_transcripts_are_counted_and_not_used(tmp_path: Path, recogniser: str) -> None:
    source = corpus(tmp_path / "in")
    report = transcribe(source, source, recogniser, lowest=0.0)
    assert (report.transcribed, report.doubtful) == (0, 2)
    assert [row.text for row in read_speech_corpora([source])] == [None, None, "hello there."]


def test_a_blank_text_is_none(tmp_path: Path, recogniser: str) -> None:
    source = corpus(tmp_path / "in")
    blanks = zip(read_rows(source), ("", " ", ""), strict=True)
    write_rows(source, [row | {"text": row["text"] or blank} for row, blank in blanks])
    report = transcribe(source, source, recogniser)
    assert (report.transcribed, report.doubtful, report.with_text) == (2, 0, 1)
    assert all(row.text and row.text.strip() for row in read_speech_corpora([source]))
    again = transcribe(source, source, recogniser)
    assert again == report


def test_what_was_heard_is_not_heard_again(tmp_path: Path, recogniser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = corpus(tmp_path / "in")
    first = transcribe(source, tmp_path / "whole", recogniser)
    hear, calls = WhisperRecogniser.hear, []

    def hear_or_die(whisper: WhisperRecogniser, sounds: Sequence[Waveform]) -> list[Heard]:
        calls.append(sounds)
        return hear(whisper, sounds) if len(calls) != 2 else die()

    monkeypatch.setattr(transcripts, "SHARD_UTTERANCES", 1)
    monkeypatch.setattr(WhisperRecogniser, "hear", hear_or_die)
    killed(lambda: transcribe(source, tmp_path / "cut", recogniser))
    assert transcribe(source, tmp_path / "cut", recogniser) == first
    assert len(calls) == 1  # in this process: the first was heard by the one that died
    assert (tmp_path / "cut/manifest.jsonl").read_bytes() == (tmp_path / "whole/manifest.jsonl").read_bytes()
    monkeypatch.setattr(WhisperRecogniser, "hear", lambda *_: pytest.fail("heard again"))
    assert transcribe(source, tmp_path / "cut", recogniser) == first


def test_a_corpus_grows_and_the_threshold_moves_in_place(tmp_path: Path, recogniser: str) -> None:
    source = corpus(tmp_path / "in")
    rows = read_rows(source)
    write_rows(source, [rows[0], rows[2]])
    assert transcribe(source, source, recogniser).transcribed == 1
    text = read_rows(source)[0]["text"]
    write_rows(source, [*read_rows(source), rows[1] | {"text": None}])
    report = transcribe(source, source, recogniser)
    assert (report.transcribed, report.doubtful, report.with_text) == (2, 0, 1)
    assert read_rows(source)[0]["text"] == text

    aligned = [row | {"words": [["x", 0.0, 0.1]]} for row in read_rows(source)]
    write_rows(source, aligned)
    transcribe(source, source, recogniser)
    assert read_rows(source) == aligned  # what an aligner found for these texts stays
    assert transcribe(source, source, recogniser, lowest=0.0).doubtful == 2
    assert [(row["text"], "words" in row) for row in read_rows(source)] == [
        (None, False), ("hello there.", True), (None, False),
    ]  # fmt: skip
    write_rows(source, [row | {"text": "by hand"} if row["id"] == "a" else row for row in aligned])
    assert transcribe(source, source, recogniser, lowest=0.0).with_text == 2
    assert read_rows(source)[0]["text"] == "by hand"


def test_another_recogniser_or_other_recordings_are_refused(tmp_path: Path, recogniser: str) -> None:
    source = corpus(tmp_path / "in")
    transcribe(source, source, recogniser)
    other = tmp_path / "other"
    shutil.copytree(recogniser, other)
    transcribe(source, source, str(other))  # the same model in another place
    config = json.loads((other / "generation_config.json").read_text())
    (other / "generation_config.json").write_text(json.dumps(config | {"max_length": 3}))
    with pytest.raises(InputError, match="asr: .*whisper .* then, .*whisper .* now"):
        transcribe(source, source, str(other))
    before = read_rows(source)[0]["text"]
    transcribe(source, source, str(other), overwrite=True)
    assert read_rows(source)[0]["text"] != before
    rows = read_rows(source)
    write_rows(source, [row | {"audio": "c.wav"} if row["id"] == "b" else row for row in rows])
    with pytest.raises(InputError, match="are others now: b;"):
        transcribe(source, source, str(other))


def test_the_verb_reports_what_it_could_not_hear(
    tmp_path: Path, recogniser: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = corpus(tmp_path / "in", longest=31.0)
    (source / "a.wav").write_bytes(b"no sound")
    assert main(["transcribe", f"corpus={source}", f"asr.name={recogniser}", "lowest_confidence=-100"]) == 1
    captured = capsys.readouterr()
    assert ": 0 utterances have the text that was heard" in captured.out
    assert "2 utterances were left without text; retry_errors=true" in captured.err
    assert "31.0 s are more than the 30 s" in captured.err and "a.wav" in captured.err


def test_another_model_is_refused(tmp_path: Path, recogniser: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="model_type 'bert': give a Whisper model"):
        WhisperRecogniser(str(tmp_path))
    (tmp_path / "config.json").write_text(Path(recogniser, "config.json").read_text())
    with pytest.raises(InputError, match="cannot be read"):
        WhisperRecogniser(str(tmp_path))


def test_the_same_model_is_a_judge(recogniser: str) -> None:
    judge = WhisperRecogniser(recogniser, batch=2)
    long, *short = (
        torch.from_numpy(np.random.default_rng(seed).normal(0, 0.1, n)).float()
        for seed, n in enumerate((16_000 * 31, 16_000, 8_000))
    )
    long[16_000 * 28 : 16_000 * 28 + 3_000] = 0  # where it is cut
    sounds = [Waveform(samples, 16_000) for samples in (*short, torch.zeros(16_000), long)]
    heard = judge(sounds)
    assert heard == [judge([sound])[0] for sound in sounds]
    assert set("".join(heard)) <= set("hi ") and heard[0] and heard[2] == ""
    halves = [Waveform(part, 16_000) for part in (long[: 16_000 * 28 + 1_500], long[16_000 * 28 + 1_500 :])]
    assert heard[3] == " ".join(judge(halves))


def test_a_recogniser_that_is_never_sure_is_taken_at_its_word_or_not_at_all(tmp_path: Path) -> None:
    class Hello:
        name = identity = "hello"

        def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
            return ["hello there"] * len(waveforms)

    source = corpus(tmp_path / "in")
    with pytest.raises(InputError, match="does not say how sure it is"):
        transcribe_corpus(str(source), str(source), asr=Hello(), lowest_confidence=-1.0)
    assert transcribe_corpus(str(source), str(source), asr=Hello(), lowest_confidence=None).transcribed == 2
