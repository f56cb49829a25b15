"""Likelihood pairs: the log-probabilities of what is there, the published layouts, and pairs made of any corpus."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from transformers import PreTrainedModel

from data_prep.likelihood_pairs import SAMPLE_RATE, cut_place, joined, make_pairs
from tests.lm_models import KINDS, random_model
from tests.tiny_models import llama_tokenizer
from usdm.cli.main import main
from usdm.lm import log_probabilities
from usdm.pairs.evaluation import _figures
from usdm.pairs.layouts import Pair, Salmon, SBlimp, StoryCloze, SWuggy
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.types import InputError

HELD_OUT = Path(__file__).resolve().parents[1] / "usdm" / "assets" / "held_out"


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(llama_tokenizer(), 40))


@torch.inference_mode()
def by_transformers(model: PreTrainedModel, ids: list[int], mask: torch.Tensor, first: int) -> torch.Tensor:
    """One sequence alone, by the model's own forward."""
    logits = model(torch.tensor([ids])).logits[0].masked_fill(~mask, -torch.inf)
    chosen = torch.tensor(ids[first:])
    return logits[first - 1 : -1].log_softmax(-1).gather(1, chosen[:, None])[:, 0]


@pytest.mark.parametrize("kind", list(KINDS))
def test_sequences_together_are_as_likely_as_each_alone(kind: str, vocabulary: SpeechTextVocabulary) -> None:
    model = random_model(vocabulary, kind).eval()
    start = list(vocabulary.start_ids)
    units = [torch.randint(40, (length,)) for length in (3, 21, 12, 2)]
    sequences = [[*start, *vocabulary.encode_units(each).tolist()] for each in units]
    first = len(start) + 1
    together = log_probabilities(model, sequences, vocabulary.unit_mask, first)
    for ids, scored in zip(sequences, together, strict=True):
        assert scored.shape == (len(ids) - first,)
        torch.testing.assert_close(
            scored, by_transformers(model, ids, vocabulary.unit_mask, first), atol=2e-4, rtol=1e-4
        )


def test_what_cannot_be_scored_is_told(vocabulary: SpeechTextVocabulary) -> None:
    model = random_model(vocabulary, "llama").eval()
    with pytest.raises(InputError, match="give more"):
        log_probabilities(model, [[1]], vocabulary.unit_mask)
    with pytest.raises(InputError, match="none of the allowed"):
        log_probabilities(model, [[1, 5]], vocabulary.unit_mask)


def test_a_pair_in_several_voices_counts_once() -> None:
    def pair(name: str, cluster: str) -> Pair:
        return Pair(name, Path(name), Path(name), ("all",), cluster)

    (figure,) = _figures([(pair("a1", "a"), 1.0), (pair("a2", "a"), 0.5), (pair("b", "b"), 0.0)], {}, 0)
    assert (figure.accuracy.mean, figure.accuracy.items, figure.ties) == (0.375, 3, 1)
    assert (figure.accuracy.low, figure.accuracy.high) == (0.0, 0.75)  # whole clusters are drawn


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def gold(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    with (folder / "gold.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        touch(folder / f"{row['filename']}.wav")


def test_swuggy_pairs_a_word_with_its_like_in_the_same_voice(tmp_path: Path) -> None:
    rows = [
        {"id": id_, "filename": f"{voice}{id_}{correct}", "voice": voice, "frequency": frequency, "word": "x",
         "phones": "", "length": 3, "correct": correct}
        for id_, frequency in ((1, 12), (2, 0))
        for voice in "ab"
        for correct in (0, 1)
    ]  # fmt: skip
    gold(tmp_path / "lexical" / "dev", rows)
    pairs = SWuggy(str(tmp_path)).read()
    assert [(pair.better.stem, pair.worse.stem, pair.cluster) for pair in pairs][:2] == [
        ("a11", "a10", "1"),
        ("b11", "b10", "1"),
    ]
    assert [pair.subsets for pair in pairs[1:3]] == [("all", "in vocabulary"), ("all", "out of vocabulary")]
    gold_file = tmp_path / "lexical" / "dev" / "gold.csv"
    gold_file.write_text("\n".join(gold_file.read_text().splitlines()[:-1]), encoding="utf-8")
    with pytest.raises(InputError, match="0 right rows and 1 wrong"):
        SWuggy(str(tmp_path)).read()


def test_sblimp_counts_by_type(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "filename": f"{kind}{correct}", "voice": "v", "type": kind, "subtype": "s", "transcription": "t",
         "correct": correct}
        for kind in ("agreement", "ellipsis")
        for correct in (1, 0)
    ]  # fmt: skip
    gold(tmp_path / "syntactic" / "test", rows)
    pairs = SBlimp(str(tmp_path), split="test").read()
    assert [pair.subsets for pair in pairs] == [("all", "agreement"), ("all", "ellipsis")]
    with pytest.raises(InputError, match=r"gold\.csv: no such file"):
        SBlimp(str(tmp_path)).read()


def test_stories_are_paired_by_name_and_not_by_the_order_of_the_disk(tmp_path: Path) -> None:
    for name in ("10_incorrect", "10_correct", "9_correct", "9_incorrect"):
        touch(tmp_path / "voice" / f"{name}.wav")
    pairs = StoryCloze(str(tmp_path)).read()
    assert [(pair.id, pair.worse.name) for pair in pairs] == [
        ("voice/10", "10_incorrect.wav"),
        ("voice/9", "9_incorrect.wav"),
    ]
    touch(tmp_path / "voice" / "9_mutual.wav")
    with pytest.raises(InputError, match="beginnings lie apart"):
        StoryCloze(str(tmp_path)).read()
    (tmp_path / "voice" / "10_incorrect.wav").unlink()
    with pytest.raises(InputError, match="no such file"):
        StoryCloze(str(tmp_path)).read()


def test_salmon_has_a_figure_for_each_part_and_none_over_them(tmp_path: Path) -> None:
    for part in ("speaker_consistency", "bg_alignment"):
        for number in (2, 10):
            for side in (0, 1):
                touch(tmp_path / part / f"sample_{number}_{side}.wav")
    pairs = Salmon(str(tmp_path)).read()
    assert [pair.id for pair in pairs] == [
        "speaker_consistency/2", "speaker_consistency/10", "bg_alignment/2", "bg_alignment/10",
    ]  # fmt: skip
    assert isinstance(pairs[0], Pair) and pairs[0].better.name == "sample_2_0.wav"
    assert {pair.subsets for pair in pairs} == {("speaker_consistency",), ("bg_alignment",)}
    touch(tmp_path / "bg_alignment" / "sample_2_2.wav")
    with pytest.raises(InputError, match="3 files of sample 2"):
        Salmon(str(tmp_path)).read()


def test_an_utterance_is_cut_between_words_or_where_it_is_quiet() -> None:
    samples = torch.ones(3 * SAMPLE_RATE)
    assert cut_place(samples, [0.2, 1.4, 2.8]) == round(1.4 * SAMPLE_RATE)
    samples[SAMPLE_RATE + 8_000 : SAMPLE_RATE + 9_000] = 0
    assert SAMPLE_RATE + 8_000 <= cut_place(samples, []) <= SAMPLE_RATE + 9_000
    whole = joined(0.1 * torch.ones(1000), 0.5 * torch.ones(1000))
    assert len(whole) == 1840 and whole.max() < 0.11  # the second half as loud as the first


def test_pairs_of_a_corpus_are_scored_and_what_cannot_be_scored_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_pairs([str(HELD_OUT)], str(tmp_path / "made"), pairs=3, split=None, seed=1) == {
        "continuation": 3,
        "speaker_consistency": 3,
    }
    soundfile.write(tmp_path / "made" / "continuation" / "sample_1_1.wav", [0.0] * 20, SAMPLE_RATE)  # no unit
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate_pairs", "pairs=salmon", "pairs.folder=made", "output_dir=out"]
    assert main(arguments) == 1
    assert "1 of 6 pairs could not be scored" in capsys.readouterr().err
    table = json.loads((tmp_path / "out" / "pairs.json").read_text(encoding="utf-8"))
    counts = {each["subset"]: (each["accuracy"]["items"], each["failed"]) for each in table["figures"]}
    assert counts == {"speaker_consistency": (3, 0), "continuation": (2, 1)}
    kept = (tmp_path / "out" / "likelihoods.jsonl").read_text(encoding="utf-8")
    assert main([*arguments, "scoring=sum"]) == 1  # scored anew from what is kept
    assert (tmp_path / "out" / "likelihoods.jsonl").read_text(encoding="utf-8") == kept
    assert main([*arguments, "dtype=bfloat16"]) == 1  # the same weights, in another precision
    again = (tmp_path / "out" / "likelihoods.jsonl").read_text(encoding="utf-8")
    assert again.startswith(kept) and len(again) > len(kept)
    assert main(["evaluate_pairs", "pairs=salmon", "pairs.folder=nowhere"]) == 2
