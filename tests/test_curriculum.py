"""Orders after a human curriculum: what they promise, that packing and resuming keep it, and what packing costs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_data import LEXICON, SOURCE, make_utterance, sequence, write_corpus

from usdm.data.curriculum import LEVELS, Blocking, Curriculum, Interleaving, Lesson, Spiral, levels_by_length
from usdm.data.dialogs import DialogSequences
from usdm.data.order import Shuffled, SortedBy
from usdm.data.packing import PackedRows, pack, pack_in_order
from usdm.data.sequences import KIND_INDEX, SequenceSource, TrainingSequence
from usdm.data.speech_text import SpeechTextSequences
from usdm.data.splice_augmentation import SpliceAugmentation
from usdm.data.unit_corpus import UnitCorpus
from usdm.interleave import PatternInterleaving
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings, extend_tokenizer
from usdm.training.tokenizer import train_tokenizer
from usdm.types import InputError

NOWHERE = Path("labels.jsonl")
ORDERS = [Blocking(NOWHERE), Spiral(NOWHERE), Interleaving(NOWHERE), Interleaving(NOWHERE, descending=True)]
SUBJECTS = ("hotels", "music", "trains")
LAYOUTS = {"transcribe": 1.0, "typed": 1.0, "multi_step": 1.0}
NUM_DIALOGS = 48

lessons = st.lists(
    st.builds(Lesson, st.sampled_from(SUBJECTS), st.sampled_from(("a", "b")), st.integers(0, 2)), max_size=60
)


@given(lessons, st.integers(0, 5))
def test_every_order_is_a_permutation_that_the_generator_fixes(lessons: list[Lesson], seed: int) -> None:
    for order in ORDERS:
        arranged = order.arrange(lessons, np.random.default_rng(seed))
        assert sorted(arranged) == list(range(len(lessons)))
        assert arranged == order.arrange(lessons, np.random.default_rng(seed))


@given(lessons, st.integers(0, 5))
def test_orders_rise_where_they_say(lessons: list[Lesson], seed: int) -> None:
    def arranged(order: Curriculum) -> list[Lesson]:
        return [lessons[index] for index in order.arrange(lessons, np.random.default_rng(seed))]

    def runs(values: list) -> int:
        return 1 + sum(left != right for left, right in zip(values, values[1:], strict=False)) if values else 0

    blocks = arranged(Blocking(NOWHERE))
    assert runs([each.subject for each in blocks]) == len({each.subject for each in lessons})
    for subject in SUBJECTS:
        levels = [each.level for each in blocks if each.subject == subject]
        assert levels == sorted(levels)
    spiral = arranged(Spiral(NOWHERE))
    assert [each.level for each in spiral] == sorted(each.level for each in lessons)
    met = [(each.level, each.subject) for each in spiral]
    assert runs(met) == len(set(met))
    rising, falling = (arranged(Interleaving(NOWHERE, descending=down)) for down in (False, True))
    assert [each.level for each in rising] == sorted(each.level for each in lessons)
    assert [each.level for each in falling] == sorted((each.level for each in lessons), reverse=True)


@given(lessons)
def test_interleaving_takes_subjects_in_turn(lessons: list[Lesson]) -> None:
    """Against `zip_longest` over the subjects, and again over the concepts of each."""
    arranged = [lessons[index] for index in Interleaving(NOWHERE).arrange(lessons, np.random.default_rng(0))]
    for level in range(3):
        here = [each for each in arranged if each.level == level]
        subjects = list(dict.fromkeys(each.subject for each in here))
        columns = [[each.subject for each in here if each.subject == subject] for subject in subjects]
        turns = [each for turn in zip_longest(*columns) for each in turn if each is not None]
        assert [each.subject for each in here] == turns
        for subject in subjects:
            concepts = [each.concept for each in here if each.subject == subject]
            columns = [[each for each in concepts if each == name] for name in dict.fromkeys(concepts)]
            assert concepts == [each for turn in zip_longest(*columns) for each in turn if each is not None]


def test_a_level_is_a_third_by_length() -> None:
    assert levels_by_length([9, 1, 5, 3, 7, 2]) == [2, 0, 1, 1, 2, 0]
    assert levels_by_length([]) == []


# Read from a corpus


@pytest.fixture(scope="module")
def vocabulary() -> SpeechTextVocabulary:
    tokenizer = train_tokenizer([" ".join(LEXICON) + "?"] * 4, 340)
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, SOURCE.num_units))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> UnitCorpus:
    utterances = [make_utterance(number) for number in range(4 * NUM_DIALOGS)]
    return UnitCorpus(write_corpus(tmp_path_factory.mktemp("corpus") / "c.parquet", utterances))


def subject_of(dialog: str) -> str:
    return SUBJECTS[int(dialog[1:]) % 3]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    rows = [
        {"id": name, "label": subject_of(name), "fine": f"{subject_of(name)}_{number % 2}"}
        for number, name in enumerate(dialog_names())
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dialog_names() -> list[str]:
    return [f"d{number:04d}" for number in range(NUM_DIALOGS)]


def dialogs(corpus: UnitCorpus, vocabulary: SpeechTextVocabulary, order: Curriculum | Shuffled) -> DialogSequences:
    template = DialogTemplate(vocabulary, TemplateSettings(preamble="", user_heading="u\n", agent_heading="a\n"))
    splices = SpliceAugmentation(0.3)
    return DialogSequences(corpus, template, 512, layouts=LAYOUTS, splice_augmentation=splices, order=order)


def speech_text(
    corpus: UnitCorpus, vocabulary: SpeechTextVocabulary, order: Curriculum | Shuffled
) -> SpeechTextSequences:
    interleaving = PatternInterleaving("correspondence")
    return SpeechTextSequences(
        corpus, vocabulary, 512, interleaving=interleaving, order=order, segment_units=[(0, 5), (20, 10_000)]
    )


def sequences(source: SequenceSource, epoch: int = 0) -> Iterator[TrainingSequence]:
    for block in source.blocks(epoch):
        yield from source.sequences(epoch, block, 0)


def level_of(sequence: TrainingSequence) -> int:
    """By what is scored: the transcript alone, or the reply alone, or both."""
    scored = set(sequence.kinds.tolist())
    if KIND_INDEX["agent_units"] not in scored:
        return 0
    return 2 if KIND_INDEX["transcript"] in scored else 1


@pytest.mark.parametrize("make", [dialogs, speech_text])
@pytest.mark.parametrize("kind", [Blocking, Spiral, Interleaving])
def test_an_epoch_has_the_same_sequences_in_every_order(
    make: type, kind: type[Curriculum], corpus: UnitCorpus, vocabulary: SpeechTextVocabulary, labels: Path
) -> None:
    ordered, shuffled = make(corpus, vocabulary, kind(labels)), make(corpus, vocabulary, Shuffled())
    for epoch in (0, 1):
        one, other = ([each.input_ids.tobytes() for each in sequences(source, epoch)] for source in (ordered, shuffled))
        assert Counter(one) == Counter(other) and one != other
        assert one == [each.input_ids.tobytes() for each in sequences(make(corpus, vocabulary, kind(labels)), epoch)]


@pytest.mark.parametrize("make", [dialogs, speech_text])
def test_packed_rows_keep_the_order_and_a_resumed_reading_goes_on(
    make: type, corpus: UnitCorpus, vocabulary: SpeechTextVocabulary, labels: Path
) -> None:
    source = make(corpus, vocabulary, Interleaving(labels))
    rows = list(islice(PackedRows(source, 512, vocabulary.pad_id), 60))  # more than an epoch
    if make is dialogs:  # the segments of pretraining depend on the rows read before
        one_epoch = list(PackedRows(source, 512, vocabulary.pad_id, epochs=1))
        read = np.concatenate([row.input_ids[row.input_ids != vocabulary.pad_id] for row in one_epoch])
        np.testing.assert_array_equal(read, np.concatenate([each.input_ids for each in sequences(source)]))
        assert [level_of(each) for each in sequences(source)] == sorted(level_of(each) for each in sequences(source))
    for start in (1, 7, 33):
        rest = islice(PackedRows(make(corpus, vocabulary, Interleaving(labels)), 512, vocabulary.pad_id, start), 5)
        for row, expected in zip(rest, rows[start:], strict=False):
            np.testing.assert_array_equal(row.input_ids, expected.input_ids)


def test_pretraining_reads_a_curriculum_over_many_blocks(
    corpus: UnitCorpus, vocabulary: SpeechTextVocabulary, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [each.input_ids.tobytes() for each in sequences(speech_text(corpus, vocabulary, Blocking(labels)))]
    monkeypatch.setattr("usdm.data.speech_text._ROWS_PER_BLOCK", 2)
    source = speech_text(corpus, vocabulary, Blocking(labels))
    assert len(source.blocks(0)) > 5
    assert [each.input_ids.tobytes() for each in sequences(source)] == whole


def test_shuffled_rows_can_be_packed_like_a_curriculum(corpus: UnitCorpus, vocabulary: SpeechTextVocabulary) -> None:
    kept, windowed = (dialogs(corpus, vocabulary, Shuffled(exact)) for exact in (True, False))
    one, other = (list(PackedRows(source, 512, vocabulary.pad_id, epochs=1)) for source in (kept, windowed))
    assert len(one) >= len(other)
    assert [each.input_ids.tobytes() for each in sequences(kept)] == [
        each.input_ids.tobytes() for each in sequences(windowed)
    ]


@given(st.lists(st.integers(1, 50), max_size=100))
def test_rows_in_order_are_the_sequences_one_after_another(lengths: list[int]) -> None:
    rows = list(pack_in_order((sequence(n, i) for i, n in enumerate(lengths)), 50))
    assert [int(each.input_ids[0]) for row in rows for each in row] == list(range(len(lengths)))
    sizes = [sum(len(each.input_ids) for each in row) for row in rows]
    assert all(size <= 50 for size in sizes)
    first = [len(row[0].input_ids) for row in rows]
    assert all(size + after > 50 for size, after in zip(sizes, first[1:], strict=False))  # none could hold one more


def test_a_sequence_longer_than_a_row_in_order_is_refused() -> None:
    with pytest.raises(InputError, match="a sequence of 51 ids does not fit rows of 50"):
        list(pack_in_order([sequence(3), sequence(51)], 50))


def test_order_costs_less_than_a_tenth_of_a_row_of_ten_sequences() -> None:
    lengths = np.clip(np.random.default_rng(0).gamma(4, 25, 5_000), 5, 1000).astype(int)
    ordered, windowed = (len(list(fill((sequence(n) for n in lengths), 1000))) for fill in (pack_in_order, pack))
    assert 1.02 < ordered / windowed < 1.1


# Bad input


def refused(path: Path, rows: list[dict], corpus: UnitCorpus, vocabulary: SpeechTextVocabulary, message: str) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for make in (dialogs, speech_text):
        with pytest.raises(InputError, match=message):
            make(corpus, vocabulary, Blocking(path))


def test_labels_that_cannot_order_are_refused_before_anything_is_read(
    tmp_path: Path, corpus: UnitCorpus, vocabulary: SpeechTextVocabulary
) -> None:
    path = tmp_path / "labels.jsonl"
    rows = [{"id": name, "label": subject_of(name), "level": "apply"} for name in dialog_names()]
    refused(path, rows[:-1], corpus, vocabulary, r"labels.jsonl: \d of \d+ utterances have no label, .* dialog d0047")
    of_one = [{**row, "label": "all"} for row in rows]
    refused(path, [*of_one, {"id": "x", "label": "y"}], corpus, vocabulary, "one subject alone .all.")
    with pytest.raises(InputError, match=r"1 of 49 labels are of ids that are in no corpus \(x\)"):
        Blocking(path).check_known([corpus])
    refused(path, [*rows, {"id": "x", "label": "y", "level": "create"}], corpus, vocabulary, "line 49: .*apply")
    refused(path, [*rows, {"label": "y"}], corpus, vocabulary, "line 49: not a label")
    for wrong in ({"label": None}, {"label": ["y"]}, {"label": "y", "fine": 3}):
        refused(path, [*rows, {"id": "x", **wrong}], corpus, vocabulary, "line 49: .*id, label and fine are texts")
    refused(path, [*rows, rows[0]], corpus, vocabulary, "line 49: d0000 was labelled before")
    with pytest.raises(InputError, match="Blocking goes by what is taught: give labels=FILE"):
        Blocking()
    with pytest.raises(InputError, match="no such file"):
        dialogs(corpus, vocabulary, Blocking(tmp_path / "nowhere.jsonl"))
    with pytest.raises(InputError, match="SortedBy is for pretraining"):
        dialogs(corpus, vocabulary, SortedBy("units"))  # type: ignore[arg-type]


def test_labels_of_an_utterance_and_their_level_win(
    tmp_path: Path, corpus: UnitCorpus, vocabulary: SpeechTextVocabulary
) -> None:
    path = tmp_path / "labels.jsonl"
    rows = [{"id": name, "label": subject_of(name)} for name in dialog_names()]
    rows += [
        {"id": "u190", "label": "x", "level": LEVELS[0]},
        {"id": "u191", "label": "x", "level": LEVELS[2]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = speech_text(corpus, vocabulary, Interleaving(path))
    (block,) = source.blocks(0)
    read = [each.input_ids.tobytes() for each in source.sequences(0, block, 20)]  # whole utterances
    first, last = (
        (make_utterance(number).units.astype(np.int32) + vocabulary.layout.unit_offset).tobytes()
        for number in (190, 191)
    )
    third = len(read) // 3 + 2  # of each level by length, but for the two that say their own
    assert any(first in ids for ids in read[:third]) and any(last in ids for ids in read[-third:])
