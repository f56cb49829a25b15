"""Unit corpora, packing, and training sequences of both kinds."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from usdm.data.collation import collate_rows
from usdm.data.dialogs import DialogSequences
from usdm.data.packing import PackedRow, PackedRows, build_row, pack
from usdm.data.sequences import KINDS, TrainingSequence, cut
from usdm.data.speech_text import SpeechTextSequences
from usdm.data.splice_augmentation import SpliceAugmentation
from usdm.data.unit_corpus import UnitCorpus, UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.interleave import PatternInterleaving
from usdm.runs import claim
from usdm.tokens import (
    IGNORED,
    DialogTemplate,
    SpeechTextVocabulary,
    TemplateSettings,
    TurnContent,
    extend_tokenizer,
)
from usdm.training.corpus_units import UnitsById
from usdm.training.tokenizer import train_tokenizer
from usdm.types import InputError, Turn

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

SOURCE = UnitSource(num_units=40, unit_rate=25, centroid_hash="0123456789abcdef")
SENTENCE = "i'd like a table for two at the new thai place please what time would you have it then"
LEXICON = SENTENCE.split()


def make_utterance(number: int, *, split: str = "train", words: int | None = None) -> UnitUtterance:
    """Turn `number % 4` of dialog `number // 4`."""
    rng = np.random.default_rng(number)
    spoken = rng.choice(LEXICON, words or int(rng.integers(3, 9))).tolist()
    ends = np.cumsum(rng.integers(1, 12, len(spoken))).astype(np.int32)
    return UnitUtterance(
        id=f"u{number}",
        speaker="s",
        role="user" if number % 2 == 0 else "agent",
        dialog=f"d{number // 4:04d}",
        turn=number % 4,
        split=split,
        text=" ".join(spoken) + ".",
        units=rng.integers(0, SOURCE.num_units, ends[-1]).astype(np.uint16),
        words=tuple(spoken),
        word_ends=ends,
    )


def write_corpus(path: Path, utterances: list[UnitUtterance], rows_per_group: int = 16) -> Path:
    with UnitCorpusWriter(path, SOURCE, rows_per_group) as writer:
        for each in utterances:
            writer.write(each)
    return path


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    tokenizer = train_tokenizer([" ".join(LEXICON) + "?"] * 4, 340)
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, SOURCE.num_units))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> UnitCorpus:
    folder = tmp_path_factory.mktemp("corpus")
    utterances = [make_utterance(i, split="dev" if i >= 192 else "train") for i in range(216)]
    utterances[5] = make_utterance(5, words=2)
    write_corpus(folder / "a.parquet", utterances[:100])
    write_corpus(folder / "b.parquet", utterances[100:])
    return UnitCorpus(folder)


# Unit corpora


def test_a_corpus_gives_back_what_was_written(corpus: UnitCorpus) -> None:
    assert corpus.source == SOURCE
    read = list(corpus.utterances("train"))
    assert [each.id for each in read] == [f"u{i}" for i in range(192)]
    expected = make_utterance(7)
    assert read[7].words == expected.words and read[7].text == expected.text and read[7].turn == 3
    np.testing.assert_array_equal(read[7].units, expected.units)
    np.testing.assert_array_equal(read[7].word_ends, expected.word_ends)
    assert sum(group.units for group in corpus.groups) == sum(len(each.units) for each in corpus.utterances())


def test_utterances_without_units_or_words_survive(tmp_path: Path) -> None:
    empty = UnitUtterance("e", "s", "user", "d", 0, "train", "", np.empty(0, np.uint16))
    read = list(UnitCorpus(write_corpus(tmp_path / "c.parquet", [empty, make_utterance(1)])).utterances())
    assert len(read[0].units) == 0 and read[0].words == () and len(read[1].words) > 0


def test_nothing_stands_under_the_final_name_before_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    with pytest.raises(RuntimeError), UnitCorpusWriter(path, SOURCE, rows_per_group=1) as writer:
        writer.write(make_utterance(0))
        assert not path.exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": np.array([40], np.uint16), "words": (), "word_ends": np.array([])}, "unit 40 is outside 0..39"),
        ({"words": ("a",)}, "1 words but"),
        ({"word_ends": np.array([0, 1, 2])}, "do not partition"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    row = make_utterance(0, words=3).__dict__ | change
    with pytest.raises(InputError, match=message), UnitCorpusWriter(tmp_path / "c.parquet", SOURCE) as writer:
        writer.write(UnitUtterance(**row))


def test_corpora_of_different_units_do_not_mix(tmp_path: Path, corpus: UnitCorpus) -> None:
    other = UnitSource(40, 50, "fedcba9876543210")
    with UnitCorpusWriter(tmp_path / "other.parquet", other) as writer:
        writer.write(make_utterance(0))
    with pytest.raises(InputError, match="unit_rate 25 against 50, centroid_hash 0123456789abcdef against fedcba"):
        UnitCorpus([*corpus.files, tmp_path / "other.parquet"])


def test_a_model_says_which_units_it_knows(tmp_path: Path) -> None:
    assert UnitSource.load(tmp_path) is None
    SOURCE.save(tmp_path)
    assert UnitSource.load(tmp_path) == SOURCE


def test_a_corpus_that_is_still_being_made_is_not_read_as_if_it_were_whole(tmp_path: Path) -> None:
    with claim(tmp_path, {}, {}, results=("*.parquet",)) as run:
        write_corpus(tmp_path / "first.parquet", [make_utterance(0)])
        with pytest.raises(InputError, match="its units are not all there"):
            UnitCorpus(tmp_path)
        run.finish()
    assert len(list(UnitCorpus(tmp_path).utterances())) == 1


def test_files_that_are_no_unit_corpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no unit corpus there"):
        UnitCorpus(tmp_path)
    pq.write_table(pa.table({"units": [[1]]}), tmp_path / "plain.parquet")
    with pytest.raises(InputError, match=r"plain\.parquet: a Parquet file, but no unit corpus"):
        UnitCorpus(tmp_path / "plain.parquet")
    whole = write_corpus(tmp_path / "c.parquet", [make_utterance(0)]).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"cut\.parquet: damaged"):
        UnitCorpus(tmp_path / "cut.parquet")


# Packing


def sequence(length: int, value: int = 7) -> TrainingSequence:
    ids = np.full(length, value, np.int32)
    labels = ids.copy()
    labels[0] = IGNORED
    return TrainingSequence(ids, labels, np.ones(length, np.int8))


@given(st.lists(st.integers(1, 50), max_size=200), st.integers(1, 40))
def test_every_sequence_is_packed_once_and_no_row_overflows(lengths: list[int], waiting: int) -> None:
    rows = list(pack((sequence(n, i) for i, n in enumerate(lengths)), 50, waiting))
    assert all(sum(len(each.input_ids) for each in row) <= 50 for row in rows)
    assert sorted(int(each.input_ids[0]) for row in rows for each in row) == list(range(len(lengths)))


def test_rows_of_many_sequences_are_99_percent_full() -> None:
    lengths = np.clip(np.random.default_rng(0).gamma(4, 20, 20_000), 5, 1000).astype(int)
    rows = list(pack((sequence(n) for n in lengths), 1000))
    assert lengths.sum() / (1000 * len(rows)) > 0.99


def test_packing_reads_no_more_than_it_may_hold_and_leaves_no_one_waiting() -> None:
    read = 0

    def counted() -> Iterator[TrainingSequence]:
        nonlocal read
        for i in range(2000):
            read += 1
            yield sequence(30 if i % 100 else 9, i)

    taken = 0
    for row in pack(counted(), 100, waiting=50):
        taken += len(row)
        assert read - taken <= 50
        oldest_allowed = taken - 200
        assert all(int(each.input_ids[0]) > oldest_allowed for each in row)


def test_a_sequence_longer_than_a_row_is_refused() -> None:
    with pytest.raises(InputError, match="a sequence of 51 ids does not fit rows of 50"):
        next(pack([sequence(51)], 50))


def test_a_row_restarts_positions_and_scores_no_padding() -> None:
    row = build_row([sequence(3, 5), sequence(2, 6)], 8, pad_id=0)
    assert row.input_ids.tolist() == [5, 5, 5, 6, 6, 0, 0, 0]
    assert row.position_ids.tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert row.labels.tolist() == [IGNORED, 5, 5, IGNORED, 6, IGNORED, IGNORED, IGNORED]
    batch = collate_rows([row, row])
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "input_ids": (2, 8),
        "labels": (2, 8),
        "position_ids": (2, 8),
    }
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_cutting_keeps_every_id() -> None:
    long = sequence(10)._replace(input_ids=np.arange(10, dtype=np.int32), labels=np.arange(10, dtype=np.int32))
    pieces = cut(long, 4)
    assert np.concatenate([piece.input_ids for piece in pieces]).tolist() == list(range(10))
    assert [piece.labels.tolist() for piece in pieces] == [[IGNORED, 1, 2, 3], [IGNORED, 5, 6, 7], [IGNORED, 9]]
    assert cut(long, 10) == [long]


# Interleaved sequences


def all_sequences(source: SpeechTextSequences | DialogSequences, epoch: int = 0) -> list[TrainingSequence]:
    return [each for block in source.blocks(epoch) for each in source.sequences(epoch, block, 0)]


def test_one_segment_of_text_is_the_text_as_the_tokenizer_writes_it(
    corpus: UnitCorpus, vocabulary: SpeechTextVocabulary
) -> None:
    source = SpeechTextSequences(corpus, vocabulary, 512, interleaving=PatternInterleaving("correspondence"))
    texts = {
        vocabulary.tokenizer(" ".join(each.words))["input_ids"][1:].__repr__() for each in corpus.utterances("train")
    }
    units = {
        (each.units.astype(int) + vocabulary.layout.unit_offset).tolist().__repr__()
        for each in corpus.utterances("train")
    }
    sequences = all_sequences(source)
    assert len(sequences) == 191 and source.left_out == 1
    for each in sequences:
        ids = each.input_ids.tolist()
        middle = ids.index(vocabulary.correspond_id)
        assert (ids[0], ids[-1]) == (vocabulary.tokenizer.bos_token_id, vocabulary.tokenizer.eos_token_id)
        first, second = repr(ids[1:middle]), repr(ids[middle + 1 : -1])
        assert (first in texts and second in units) or (first in units and second in texts)


def test_kinds_name_what_a_token_is_predicted_from(corpus: UnitCorpus, vocabulary: SpeechTextVocabulary) -> None:
    seen: Counter[str] = Counter()
    offset = vocabulary.layout.unit_offset
    for each in all_sequences(SpeechTextSequences(corpus, vocabulary, 512, segment_units=15)):
        mark = None
        for id_, kind in zip(each.input_ids.tolist(), each.kinds.tolist(), strict=True):
            name = KINDS[kind]
            seen[name] += 1
            if id_ in (vocabulary.continue_id, vocabulary.correspond_id):
                mark = id_
                assert name == "tags"
            elif offset <= id_ < offset + vocabulary.num_units:
                assert name in {None: ("units",), vocabulary.continue_id: ("continue_units", "units")}.get(
                    mark, ("text_to_units", "units")
                )
            elif name != "tags":
                assert name in {None: ("text",), vocabulary.continue_id: ("continue_text", "text")}.get(
                    mark, ("units_to_text", "text")
                )
    assert all(seen[name] for name in KINDS[:7])


def test_words_joined_for_want_of_units_count_as_two(tmp_path: Path, vocabulary: SpeechTextVocabulary) -> None:
    units = np.arange(6, dtype=np.uint16)
    joined = UnitUtterance("j", "s", "user", "d", 0, "train", "", units, ("for two", "it"), np.array([2, 6], np.int32))
    source = SpeechTextSequences(UnitCorpus(write_corpus(tmp_path / "c.parquet", [joined])), vocabulary, 64)
    assert len(all_sequences(source)) == 1 and source.left_out == 0


def test_sequences_depend_on_seed_epoch_and_id_alone(corpus: UnitCorpus, vocabulary: SpeechTextVocabulary) -> None:
    def bodies(corpus: UnitCorpus, seed: int, epoch: int) -> list[bytes]:
        source = SpeechTextSequences(corpus, vocabulary, 512, seed=seed, segment_units=20)
        return [each.input_ids.tobytes() for each in all_sequences(source, epoch)]

    reference = bodies(corpus, 0, 0)
    assert bodies(corpus, 0, 0) == reference
    assert bodies(corpus, 0, 1) != reference and bodies(corpus, 1, 0) != reference
    part = bodies(UnitCorpus(corpus.files[0]), 0, 0)
    assert set(part) < set(reference)  # another corpus around it changes nothing in a sequence


def test_an_epoch_has_each_utterance_once_in_a_new_order(corpus: UnitCorpus, vocabulary: SpeechTextVocabulary) -> None:
    source = SpeechTextSequences(
        corpus, vocabulary, 512, interleaving=PatternInterleaving("correspondence"), segment_units=10_000
    )

    def units(epoch: int) -> list[bytes]:
        offset, count = vocabulary.layout.unit_offset, vocabulary.num_units
        ids = [each.input_ids for each in all_sequences(source, epoch)]
        return [each[(each >= offset) & (each < offset + count)].tobytes() for each in ids]

    assert units(0) != units(1)
    assert sorted(units(0)) == sorted(units(1))
    offset = vocabulary.layout.unit_offset
    written = [(each.units + offset).astype(np.int32).tobytes() for each in corpus.utterances("train")]
    assert set(units(0)) < set(written) and len(units(0)) == len(written) - 1  # one has two words


def test_a_curriculum_makes_segments_longer(corpus: UnitCorpus, vocabulary: SpeechTextVocabulary) -> None:
    source = SpeechTextSequences(corpus, vocabulary, 512, segment_units=[(0, 5), (100, 10_000)])
    block = source.blocks(0)[0]
    tags = [vocabulary.continue_id, vocabulary.correspond_id]

    def marks(rows_before: int) -> int:
        return sum(int(np.isin(each.input_ids, tags).sum()) for each in source.sequences(0, block, rows_before))

    assert marks(0) > 3 * marks(100)
    assert marks(99) == marks(0)


@pytest.mark.parametrize("curriculum", [[], [(1, 5)], [(0, 5), (0, 6)], [(0, 0)], 0])
def test_a_curriculum_out_of_order_is_refused(
    corpus: UnitCorpus, vocabulary: SpeechTextVocabulary, curriculum: list
) -> None:
    with pytest.raises(InputError, match="segment_units="):
        SpeechTextSequences(corpus, vocabulary, 512, segment_units=curriculum)


def test_corpus_and_vocabulary_must_have_the_same_units(corpus: UnitCorpus) -> None:
    tokenizer = train_tokenizer([" ".join(LEXICON)] * 4, 340)
    other = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, 41))
    with pytest.raises(InputError, match="has 40 units, the vocabulary 41"):
        SpeechTextSequences(corpus, other, 512)
    with pytest.raises(InputError, match="has 40 units, the vocabulary 41"):
        DialogSequences(corpus, DialogTemplate(other), 512)


# Rows


def stacked(rows: list[PackedRow]) -> list[np.ndarray]:
    return [np.concatenate([getattr(row, name) for row in rows]) for name in PackedRow._fields]


def test_reading_goes_on_exactly_where_it_stopped(corpus: UnitCorpus, vocabulary: SpeechTextVocabulary) -> None:
    def rows(start: int, count: int) -> list[PackedRow]:
        source = SpeechTextSequences(corpus, vocabulary, 128, segment_units=[(0, 10), (20, 30)])
        return list(islice(PackedRows(source, 128, vocabulary.pad_id, start_row=start), count))

    whole = rows(0, 220)  # more than three epochs
    for start in (1, 77, 200):
        for left, right in zip(stacked(whole[start:]), stacked(rows(start, 220 - start)), strict=True):
            np.testing.assert_array_equal(left, right)


def test_rows_are_read_by_one_worker_at_most(corpus: UnitCorpus, vocabulary: SpeechTextVocabulary) -> None:
    rows = PackedRows(SpeechTextSequences(corpus, vocabulary, 128), 128, vocabulary.pad_id, epochs=1)
    expected = [row.input_ids for row in rows]
    beside = DataLoader(rows, batch_size=None, num_workers=1, collate_fn=lambda row: row.input_ids)
    np.testing.assert_array_equal(np.stack(list(beside)), np.stack(expected))
    with pytest.raises(InputError, match="num_workers=2"):
        next(iter(DataLoader(rows, batch_size=None, num_workers=2, collate_fn=lambda row: row.input_ids)))


def test_a_corpus_that_leaves_nothing_is_an_error(corpus: UnitCorpus, vocabulary: SpeechTextVocabulary) -> None:
    source = SpeechTextSequences(corpus, vocabulary, 128, split="test")
    with pytest.raises(InputError, match="leaves no sequence to train on"):
        next(iter(PackedRows(source, 128, vocabulary.pad_id)))


# Dialogs


@pytest.fixture(scope="module")
def template(vocabulary: SpeechTextVocabulary) -> DialogTemplate:
    return DialogTemplate(vocabulary, TemplateSettings(preamble="", user_heading="u\n", agent_heading="a\n"))


def test_each_reply_of_the_agent_is_learnt_once(corpus: UnitCorpus, template: DialogTemplate) -> None:
    source = DialogSequences(corpus, template, 512)
    made = {each.input_ids.tobytes() for each in all_sequences(source)}
    assert len(source) == len(made) == 96 and source.left_out == source.incomplete == 0
    user, agent = make_utterance(10), make_utterance(11)
    content = TurnContent(
        torch.from_numpy(user.units.astype(np.int64)),
        user.text,
        agent.text,
        torch.from_numpy(agent.units.astype(np.int64)),
    )
    assert template.training_example(content).input_ids.numpy().astype(np.int32).tobytes() in made


def test_dialogs_of_the_same_name_are_not_mixed(tmp_path: Path, template: DialogTemplate) -> None:
    first, second = ([make_utterance(number) for number in range(4)] for _ in range(2))
    corpus = UnitCorpus([write_corpus(tmp_path / "a.parquet", first), write_corpus(tmp_path / "b.parquet", second)])
    with pytest.raises(InputError, match=r"4 turns are there a second time, such as 'u0'"):
        DialogSequences(corpus, template, 512)
    with pytest.raises(InputError, match="4 ids are there a second time"):
        UnitsById(corpus)


def test_history_is_the_turns_before_from_the_agents_side(corpus: UnitCorpus, template: DialogTemplate) -> None:
    user, agent = make_utterance(10), make_utterance(11)
    content = TurnContent(
        torch.from_numpy(user.units.astype(np.int64)),
        user.text,
        agent.text,
        torch.from_numpy(agent.units.astype(np.int64)),
    )
    history = [Turn("user", make_utterance(8).text), Turn("agent", make_utterance(9).text)]
    for turns in (1, 2, 5):
        expected = template.training_example(content, history[-turns:]).input_ids.numpy().astype(np.int32)
        made = {
            each.input_ids.tobytes()
            for each in all_sequences(DialogSequences(corpus, template, 512, history_turns=turns))
        }
        assert expected.tobytes() in made


def test_either_role_or_both_can_be_the_agent(corpus: UnitCorpus, template: DialogTemplate) -> None:
    as_agent = DialogSequences(corpus, template, 512, agent_roles=("user",), history_turns=1)
    assert len(as_agent) == 48  # a dialog's first turn answers nobody
    assert len(DialogSequences(corpus, template, 512, agent_roles=("user", "agent"))) == 96 + 48
    asked, replied = make_utterance(9), make_utterance(10)
    content = TurnContent(
        torch.from_numpy(asked.units.astype(np.int64)),
        asked.text,
        replied.text,
        torch.from_numpy(replied.units.astype(np.int64)),
    )
    expected = template.training_example(content, [Turn("agent", make_utterance(8).text)])
    made = {each.input_ids.tobytes() for each in all_sequences(as_agent)}
    assert expected.input_ids.numpy().astype(np.int32).tobytes() in made


def test_dialog_tokens_are_named_by_what_they_say(corpus: UnitCorpus, template: DialogTemplate) -> None:
    vocabulary = template.vocabulary
    example = all_sequences(DialogSequences(corpus, template, 512))[0]
    scored = example.labels != IGNORED
    np.testing.assert_array_equal(example.labels[scored], example.input_ids[scored])
    assert not example.kinds[~scored].any()
    by_kind = {name: example.labels[example.kinds == i].tolist() for i, name in enumerate(KINDS)}
    newline = vocabulary.encode_text("\n")[-1]
    assert by_kind["transcript"][-1] == newline and vocabulary.decode_text(by_kind["transcript"]).endswith(".")
    assert by_kind["agent_text"][-1] == vocabulary.correspond_id
    assert by_kind["agent_units"][-1] == template.stop_id("speak")
    assert vocabulary.decode_units(by_kind["agent_units"][:-1]).numel() > 0
    assert sum(map(len, by_kind.values())) - len(by_kind["tags"]) == scored.sum()


def test_layouts_come_in_their_shares(corpus: UnitCorpus, template: DialogTemplate) -> None:
    source = DialogSequences(corpus, template, 512, layouts={"multi_step": 3, "typed": 1})
    transcribed = [bool((each.kinds == KINDS.index("transcript")).any()) for each in all_sequences(source)]
    assert 0.6 < np.mean(transcribed) < 0.9
    assert transcribed != [bool((each.kinds == KINDS.index("transcript")).any()) for each in all_sequences(source, 1)]
    turned = DialogSequences(corpus, template, 512, layouts={"typed": 1, "multi_step": 3})
    assert transcribed == [bool((each.kinds == KINDS.index("transcript")).any()) for each in all_sequences(turned)]
    with pytest.raises(InputError, match="layout='spoken'"):
        DialogSequences(corpus, template, 512, layouts={"spoken": 1.0})
    with pytest.raises(InputError, match="none negative, not all zero"):
        DialogSequences(corpus, template, 512, layouts={"typed": 0.0})


def test_splices_say_what_their_pieces_say() -> None:
    turns = [make_utterance(number) for number in range(5)]
    random, lengths = np.random.default_rng(0), set()
    for _ in range(50):
        units, text = SpliceAugmentation(1.0, most_pieces=1, most_words=3).splice(turns, [], random)
        said = text.strip(".").split()
        lengths.add(len(said))
        places = [
            (turn, first)
            for turn in turns
            for first in range(len(turn.words) - len(said) + 1)
            if list(turn.words[first : first + len(said)]) == said
        ]
        cuts = [
            turn.units[turn.word_ends[first - 1] if first else 0 : turn.word_ends[first + len(said) - 1]]
            for turn, first in places
        ]
        assert any(np.array_equal(units, cut) for cut in cuts)
    assert lengths == {1, 2, 3}
    units, text = SpliceAugmentation(1.0, most_pieces=4).splice(turns, [], random)
    assert len(text.split()) <= 4 * 6 and units.dtype == np.int64
    alone = [replace(make_utterance(9), words=("alone",), word_ends=np.array([1], np.int32), text="alone")]
    drawn = [
        SpliceAugmentation(1.0, most_pieces=3, alone_share=0.3).splice(turns, alone, random)[1].split()
        for _ in range(300)
    ]
    pieces_alone = sum(words.count("alone") for words in drawn)
    assert 120 < pieces_alone < 240  # 600 pieces are expected, 180 of them alone


def test_pieces_are_whole_turns_as_often_as_asked_and_where_word_times_lack() -> None:
    timed, random = [make_utterance(number) for number in range(5)], np.random.default_rng(0)
    whole = {turn.text: turn.units.tolist() for turn in timed}
    splice_augmentation = SpliceAugmentation(1.0, most_pieces=1, most_words=1, whole_share=0.5)
    drawn = [splice_augmentation.splice(timed, [], random) for _ in range(200)]
    assert 70 < sum(text in whole for _, text in drawn) < 130
    assert all(units.tolist() == whole[text] for units, text in drawn if text in whole)
    untimed = [replace(turn, words=(), word_ends=np.empty(0, np.int32)) for turn in timed]
    cut_if_possible = SpliceAugmentation(1.0, most_pieces=2, alone_share=1.0)
    for _ in range(20):
        units, text = cut_if_possible.splice(timed, untimed, random)
        assert any(text == " ".join(turns) for turns in [*itertools.product(whole, repeat=2), *((t,) for t in whole)])
        assert len(units) == sum(len(whole[part + "."]) for part in text.rstrip(".").split(". "))


def test_spliced_turns_are_transcribed_and_not_answered(corpus: UnitCorpus, template: DialogTemplate) -> None:
    plain = {each.input_ids.tobytes() for each in all_sequences(DialogSequences(corpus, template, 512))}
    source = DialogSequences(corpus, template, 512, splice_augmentation=SpliceAugmentation(0.5))
    made = all_sequences(source)
    spliced = [each for each in made if each.input_ids.tobytes() not in plain]
    assert len(made) == 96 and 30 < len(spliced) < 66
    for each in spliced:
        assert set(each.kinds[each.labels != IGNORED].tolist()) == {KINDS.index("transcript")}
    again = [each.input_ids.tobytes() for each in all_sequences(source)]
    assert again == [each.input_ids.tobytes() for each in made]
    assert again != [each.input_ids.tobytes() for each in all_sequences(source, 1)]


def test_pieces_come_from_what_is_heard_and_from_turns_alone(tmp_path: Path, template: DialogTemplate) -> None:
    def saying(number: int, word: str) -> UnitUtterance:
        turn = make_utterance(number)
        return replace(turn, words=(word,), word_ends=np.array([len(turn.units)], np.int32), text=word)

    dialog = [saying(number, "said" if number % 2 else "asked") for number in range(8)]
    recording = replace(saying(8, "recorded"), id="r", dialog="r")
    untimed = replace(saying(10, "read"), id="u", dialog="u", words=(), word_ends=np.empty(0, np.int32))
    corpus = UnitCorpus(write_corpus(tmp_path / "c.parquet", [*dialog, recording, untimed]))
    source = DialogSequences(
        corpus, template, 512, splice_augmentation=SpliceAugmentation(1.0, most_pieces=1, alone_share=0.5)
    )
    heard = {
        template.vocabulary.decode_text(each.labels[each.labels != IGNORED].tolist()).strip()
        for epoch in range(4)
        for each in all_sequences(source, epoch)
    }
    assert heard == {"asked", "recorded", "read"}


def test_splices_need_word_times_and_sense(tmp_path: Path, template: DialogTemplate) -> None:
    untimed = [replace(make_utterance(i), words=(), word_ends=np.empty(0, np.int32)) for i in range(4)]
    corpus = UnitCorpus(write_corpus(tmp_path / "c.parquet", untimed))
    with pytest.raises(InputError, match="no answered turn of split 'train' has word times"):
        DialogSequences(corpus, template, 512, splice_augmentation=SpliceAugmentation(0.5))
    timed = UnitCorpus(write_corpus(tmp_path / "d.parquet", [make_utterance(i) for i in range(4)]))
    with pytest.raises(InputError, match="alone_share=0.5, but no turn stands alone"):
        DialogSequences(timed, template, 512, splice_augmentation=SpliceAugmentation(0.5, alone_share=0.5))
    for wrong, message in (({"share": 1.5}, "share=1.5"), ({"share": 0.5, "most_words": 0}, "most_words=0")):
        with pytest.raises(InputError, match=message):
            SpliceAugmentation(**wrong)  # type: ignore[arg-type]


def test_what_cannot_be_learnt_is_counted_and_told(
    tmp_path: Path, template: DialogTemplate, caplog: pytest.LogCaptureFixture
) -> None:
    utterances = [make_utterance(i) for i in range(8)]
    silent = UnitUtterance("e", "s", "user", "d0001", 2, "train", "hm.", np.empty(0, np.uint16))
    utterances[6] = silent
    source = DialogSequences(UnitCorpus(write_corpus(tmp_path / "c.parquet", utterances)), template, 512)
    assert len(source) == 3 and source.incomplete == 1
    source.max_length = min(len(each.input_ids) for each in all_sequences(source))
    caplog.clear()
    assert len(all_sequences(source)) == 1 and source.left_out == 2
    assert len(caplog.messages) == 1 and f"ids do not fit rows of {source.max_length}" in caplog.messages[0]


def test_a_split_without_replies_is_an_error(corpus: UnitCorpus, template: DialogTemplate) -> None:
    with pytest.raises(InputError, match="no turn of agent answers another speaker in split 'test'"):
        DialogSequences(corpus, template, 512, split="test")
