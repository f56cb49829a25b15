"""Orders of a unit corpus, text without speech, and several corpora in set shares."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from test_data import SOURCE, make_utterance, write_corpus

from usdm.data import text_corpus
from usdm.data.mixture import MixedRows, MixtureMember, WeightedSource
from usdm.data.order import Interleaved, Order, Shuffled, SortedBy
from usdm.data.packing import PackedRow, PackedRows
from usdm.data.sequences import KIND_INDEX
from usdm.data.speech_text import SpeechTextSequences
from usdm.data.text_corpus import TextSequences
from usdm.data.unit_corpus import UnitCorpus
from usdm.interleave import PatternInterleaving
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.training.tokenizer import train_tokenizer
from usdm.types import InputError

SENTENCES = [f"a table for {name}" for name in ("two", "six", "ten", "me", "you", "them", "all of us")]


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    texts = [" ".join(make_utterance(i).words) for i in range(20)] + SENTENCES
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(train_tokenizer(texts, 340), SOURCE.num_units))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two corpora: 96 and 32 utterances."""
    found = []
    for name, first, last in (("a", 0, 96), ("b", 96, 128)):
        folder = tmp_path_factory.mktemp(name)
        write_corpus(folder / "0.parquet", [make_utterance(i) for i in range(first, last)], rows_per_group=8)
        found.append(folder)
    return found


def units_in_order(folders: list[Path], vocabulary: SpeechTextVocabulary, order: Order, epoch: int = 0) -> list[int]:
    """Numbers of units, utterance by utterance as they are read."""
    corpus = UnitCorpus(folders)
    source = SpeechTextSequences(
        corpus, vocabulary, 512, interleaving=PatternInterleaving("correspondence"), order=order, segment_units=10_000
    )
    first = vocabulary.layout.unit_offset
    return [
        int(((sequence.input_ids >= first) & (sequence.input_ids < first + SOURCE.num_units)).sum())
        for block in source.blocks(epoch)
        for sequence in source.sequences(epoch, block, 0)
    ]


@pytest.mark.parametrize("order", [Shuffled(), SortedBy("units"), Interleaved()])
def test_every_order_reads_each_utterance_once_an_epoch(
    folders: list[Path], vocabulary: SpeechTextVocabulary, order: Order
) -> None:
    expected = Counter(len(make_utterance(i).units) for i in range(128))
    first, second = (units_in_order(folders, vocabulary, order, epoch) for epoch in (0, 1))
    assert Counter(first) == Counter(second) == expected
    assert first == units_in_order(folders, vocabulary, order, 0)
    assert (first == second) == isinstance(order, SortedBy)


def test_sorting_goes_by_the_column(folders: list[Path], vocabulary: SpeechTextVocabulary) -> None:
    rising = units_in_order(folders, vocabulary, SortedBy("units"))
    assert rising == sorted(rising)  # the corpus is one block
    assert units_in_order(folders, vocabulary, SortedBy("units", descending=True)) == rising[::-1]
    with pytest.raises(InputError, match="column='speaker': a corpus can be sorted by turn, units, words, word_ends"):
        SortedBy("speaker")


def test_groups_are_sorted_by_their_mean(folders: list[Path]) -> None:
    corpus = UnitCorpus(folders)
    groups = SortedBy("units").groups(corpus, np.random.default_rng(0))
    assert sorted(groups, key=lambda group: group.units) == groups  # groups of equally many rows


def test_interleaving_alternates_between_corpora(folders: list[Path]) -> None:
    corpus = UnitCorpus(folders)
    files = [group.file for group in Interleaved().groups(corpus, np.random.default_rng(0))]
    assert files == [0, 1] * 4 + [0] * 8


# Text


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "a.txt").write_text("\n".join(SENTENCES[:4]) + "\n\n")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES[4:]))
    return folder


def documents(source: TextSequences, epoch: int = 0) -> list[str]:
    sequences = [each for block in source.blocks(epoch) for each in source.sequences(epoch, block, 0)]
    for sequence in sequences:
        assert tuple(sequence.input_ids[:1]) == source.vocabulary.start_ids
        assert sequence.input_ids[-1] == source.vocabulary.tokenizer.eos_token_id
        assert set(sequence.kinds) == {KIND_INDEX["text"]}
    return [source.vocabulary.decode_text(sequence.input_ids[1:-1]) for sequence in sequences]


def test_each_document_is_read_once_whatever_the_size_of_a_block(
    texts: Path, vocabulary: SpeechTextVocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (5, 17, 40, 1 << 20):
        monkeypatch.setattr(text_corpus, "BLOCK_BYTES", size)
        source = TextSequences([texts], vocabulary, 64)
        first = documents(source)
        assert sorted(first) == sorted(SENTENCES)
        assert source.left_out == 1  # the empty line
        assert first == documents(source) != documents(source, epoch=1)


def test_text_cannot_pretend_to_be_speech(tmp_path: Path, vocabulary: SpeechTextVocabulary) -> None:
    (tmp_path / "a.txt").write_text("a <|unit3|>table<|correspond|> for two</s>\n")
    source = TextSequences([tmp_path / "a.txt"], vocabulary, 64)
    assert [text.split() for text in documents(source)] == [["a", "table", "for", "two"]]


def test_what_is_no_text_is_refused(tmp_path: Path, vocabulary: SpeechTextVocabulary) -> None:
    with pytest.raises(InputError, match=r"no text there.*\.txt, \.jsonl"):
        TextSequences([tmp_path], vocabulary, 64)
    (tmp_path / "a.jsonl").write_text('{"txt": "a"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl: a line is no JSON with a \"text\""):
        documents(TextSequences([tmp_path], vocabulary, 64))


# Mixtures


def kinds_of(row: PackedRow) -> set[int]:
    return set(row.kinds[row.labels >= 0].tolist())


def test_a_mixture_keeps_its_shares_and_goes_on_where_it_stopped(
    folders: list[Path], texts: Path, vocabulary: SpeechTextVocabulary
) -> None:
    def rows(count: int, start: int = 0) -> list[PackedRow]:
        speech = SpeechTextSequences(
            UnitCorpus(folders), vocabulary, 64, interleaving=PatternInterleaving("correspondence")
        )
        text = TextSequences([texts], vocabulary, 64)
        mixed = MixedRows([WeightedSource(speech, 1.0), WeightedSource(text, 0.25)], 64, vocabulary.pad_id, start)
        return list(islice(mixed, count))

    whole = rows(100)
    is_text = [kinds_of(row) == {KIND_INDEX["text"]} for row in whole]
    for end in (10, 50, 100):
        assert abs(sum(is_text[:end]) - end / 5) <= 1
    for ours, theirs in zip(rows(60, 40), whole[40:], strict=True):
        np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)


def test_a_member_leaves_after_its_repeats(folders: list[Path], texts: Path, vocabulary: SpeechTextVocabulary) -> None:
    speech = SpeechTextSequences(
        UnitCorpus(folders), vocabulary, 64, interleaving=PatternInterleaving("correspondence")
    )
    text = TextSequences([texts], vocabulary, 64)
    once = len(list(PackedRows(text, 64, vocabulary.pad_id, epochs=1)))
    mixed = MixedRows([WeightedSource(speech, 1.0), WeightedSource(text, 1.0, repeats=3)], 64, vocabulary.pad_id)
    is_text = [kinds_of(row) == {KIND_INDEX["text"]} for row in islice(mixed, 10 * once)]
    assert sum(is_text) == 3 * once and not any(is_text[6 * once + 1 :])
    with pytest.raises(InputError, match="every corpus of the mixture has a limit"):
        MixedRows([WeightedSource(text, 1.0, repeats=1)], 64, vocabulary.pad_id)


def test_members_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"either units=\[...\] or text=\[...\]"):
        MixtureMember()
    with pytest.raises(InputError, match="weight=0"):
        MixtureMember(text=["a.txt"], weight=0)
