"""Scores, the independent recogniser, held-out sets, and the scorecard of a random model."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_models import build_random_bundle

from usdm.asr.pocketsphinx import PocketSphinxRecogniser
from usdm.audio import read_audio, write_audio
from usdm.chain import DecoderSampling, GenerationSettings, SpokenDialogPipeline
from usdm.evaluation import (
    Cascade,
    ChainSystem,
    compare_results,
    evaluate_recordings,
    predict,
    read_held_out,
    score,
    transcript_table,
)
from usdm.evaluation.baselines import MOST_FREQUENT, RANDOM
from usdm.evaluation.cascade import Resaid
from usdm.evaluation.held_out import spread
from usdm.evaluation.predictions import read_predictions
from usdm.evaluation.recordings import read_recordings
from usdm.metrics.figures import ItemValues, Metric, Prediction, Ratio, Reference, Value, figure_of, gap_of
from usdm.metrics.intervals import mean_of, word_error_gap, word_error_rate
from usdm.metrics.meteor import Meteor, MeteorExactStem
from usdm.metrics.meteor import meteor_exact_stem as meteor
from usdm.metrics.refusals import Refusals
from usdm.metrics.rouge_l import RougeL, rouge_l
from usdm.metrics.speed import AnswerTime
from usdm.metrics.text import FalseAlarms, WordErrors, false_alarms, most_frequent, says, scored_words, word_errors
from usdm.metrics.wer import FalseAlarms as FalseAlarmsMetric
from usdm.metrics.wer import WordErrorRates
from usdm.types import InputError, Sampling, Turn, Waveform

HELD_OUT = Path(__file__).resolve().parents[1] / "usdm" / "assets" / "held_out"


# Text


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("At 6:30 P.M., it's $20 - OKAY?", "at six thirty pm it's twenty dollars ok"),
        ("It’s “the 21st”", "it's the twenty first"),
        ("1,250 at 4.5% & more", "one thousand two hundred fifty at four point five percent and more"),
        ("call 415-555", "call four one five five five five"),
        ("$1.50 by 12:05 a m", "one dollar fifty by twelve oh five am"),
        ("Mr. Café's twenty-one dogs'", "mister cafe's twenty one dogs"),
        ("I am the 3rd", "i am the third"),
        ("...", ""),
    ],
)
def test_both_spellings_are_the_same_words(written: str, spoken: str) -> None:
    assert scored_words(written) == spoken.split()
    assert scored_words(spoken) == spoken.split()


def test_word_errors_are_those_of_whispers_normaliser() -> None:
    assert word_errors("it's twenty dollars, mister.", "It is $20 Mr.") == WordErrors(hits=4)
    assert word_errors("Mister Smith's favourite colour", "mr. smith's favorite color") == WordErrors(hits=5)


def test_word_errors_are_counted_and_add_up() -> None:
    first = word_errors("Book a table for two.", "please book the table two")
    assert first == WordErrors(hits=3, substitutions=1, deletions=1, insertions=1)
    assert (first.words, first.errors) == (5, 3)
    assert word_errors("", "hello there") == WordErrors(insertions=2)
    assert word_errors("two words", "") == WordErrors(deletions=2)
    assert first + word_errors("yes", "yes") == WordErrors(4, 1, 1, 1)


def test_meteor_counts_stems_and_order_but_no_synonyms() -> None:
    assert meteor("cats", "cat") == meteor("cat", "cat") == 0.5  # a single match is one chunk of one: penalty 1/2
    same = meteor("the cats sat on the mat", "The cats sat on the mat.")
    assert same == pytest.approx(1 - 0.5 / 6**3)
    assert meteor("the cats sat on the mat", "mat the on sat cats the") < same
    assert meteor("a car", "an automobile") == meteor("anything", "") == 0


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    # 3 common words in order of 4 and 3: precision 1, recall 3/4
    assert rouge_l("it's a good dog", "It's a dog!") == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert rouge_l("yes", "no") == rouge_l("yes", "") == 0


def test_the_most_frequent_text_is_found_whatever_its_punctuation() -> None:
    assert most_frequent(["No.", "Anything else?", "anything else"]) == "Anything else?"
    with pytest.raises(ValueError, match="no texts"):
        most_frequent([])


def test_words_where_nothing_is_said_are_false_alarms() -> None:
    errors = [word_errors("...", "..."), word_errors("...", "book a table"), word_errors("yes", "yes no")]
    assert false_alarms(errors) == FalseAlarms(turns=2, with_words=1, words=3)
    assert false_alarms(errors[2:]) is None


def test_a_phrase_is_found_in_whole_words() -> None:
    assert says("Sorry, I did NOT understand that.", "did not understand")
    assert not says("i did not, understanding you", "did not understand")
    assert not says("", "did not understand")


# Intervals


def judged(*pairs: tuple[int, int]) -> list[tuple[str, WordErrors]]:
    """Items of a dialog each: (errors, words)."""
    return [(str(i), WordErrors(words - errors, errors)) for i, (errors, words) in enumerate(pairs)]


def test_a_rate_weighs_words_and_its_interval_holds_it() -> None:
    rate = word_error_rate(judged((1, 1), (0, 9), (2, 5), (1, 5)), seed=1)
    assert rate is not None
    assert rate.rate == 4 / 20 and rate.items == 4
    assert rate.low < rate.rate < rate.high
    assert rate == word_error_rate(judged((1, 1), (0, 9), (2, 5), (1, 5)), seed=1)


def test_an_interval_redraws_dialogs_not_items() -> None:
    items = judged(*[(1, 2)] * 20, *[(0, 2)] * 20)
    one_dialog = [("same", errors) for _, errors in items]
    rate = word_error_rate(one_dialog, seed=0)
    assert rate is not None and rate.low == rate.high == 0.25


def test_a_gap_is_paired() -> None:
    worse, better = judged((2, 10), (6, 10), (3, 10)), judged((1, 10), (5, 10), (2, 10))
    gap = word_error_gap(worse, better, seed=0)
    assert gap is not None
    # Each dialog is worse by the same tenth, so redrawing them changes nothing.
    assert (gap.gap, gap.low, gap.high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="pair them up"):
        word_error_gap(worse, better[:2], seed=0)


def test_without_words_there_is_no_rate() -> None:
    assert word_error_rate([], seed=0) is None
    assert word_error_rate([("a", WordErrors(insertions=2))], seed=0) is None
    assert word_error_gap([], [], seed=0) is None


def test_a_mean_redraws_dialogs() -> None:
    mean = mean_of([0.0, 1.0, 0.0, 1.0], ["a", "a", "b", "b"], seed=0)
    assert mean is not None and (mean.mean, mean.low, mean.high, mean.items) == (0.5, 0.5, 0.5, 4)
    apart = mean_of([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"], seed=0)
    assert apart is not None and (apart.low, apart.high) == (0, 1)
    assert mean_of([], [], seed=0) is None


# The recogniser


@pytest.fixture(scope="module")
def recogniser() -> PocketSphinxRecogniser:
    return PocketSphinxRecogniser()


def test_the_recogniser_hears_no_word_where_there_is_none(recogniser: PocketSphinxRecogniser) -> None:
    sounds = [torch.zeros(16_000), torch.zeros(1), torch.ones(300)]
    assert recogniser([Waveform(sound, 16_000) for sound in sounds]) == ["", "", ""]


def test_the_recogniser_reads_the_shipped_agent_recordings_in_any_order(recogniser: PocketSphinxRecogniser) -> None:
    items = read_held_out(HELD_OUT)[:2]
    sounds = [read_audio(item.agent.audio) for item in items]
    forwards = recogniser(sounds)
    backwards = recogniser(sounds[::-1])
    assert forwards == backwards[::-1]
    errors = sum(
        (word_errors(item.agent.text or "", heard) for item, heard in zip(items, forwards, strict=True)),
        WordErrors(),
    )
    assert errors.errors < 0.4 * errors.words


def test_the_recogniser_resamples(recogniser: PocketSphinxRecogniser) -> None:
    item = read_held_out(HELD_OUT)[0]
    text = item.agent.text or ""
    (heard,) = recogniser([read_audio(item.agent.audio, sample_rate=22_050)])
    assert word_errors(text, heard).errors < 0.5 * len(scored_words(text))


# Held-out sets


def sound(seconds: float, seed: int) -> torch.Tensor:
    """A hum whose loudness comes and goes, with noise."""
    time = torch.arange(int(seconds * 16_000)) / 16_000
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    return 0.3 * torch.sin(2 * math.pi * (150 + 20 * seed) * time) * torch.sin(9 * time).abs() + 0.02 * noise


DIALOGS = {
    "d1": ["hello there", "how can i help you?", "find me a table for 2", "for how many people?"],
    "d2": ["what time is it?", "how can i help you?"],
}


def write_corpus(folder: Path, **changes: dict) -> Path:
    """The dialogs above, a second of sound a turn, rows of the two dialogs mixed; `changes` by utterance id."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for dialog, texts in DIALOGS.items():
        for turn, text in enumerate(texts):
            name = f"{dialog}_{turn}"
            write_audio(folder / f"{name}.wav", sound(1.0 + 0.1 * turn, turn), 16_000)
            row = {
                "id": name,
                "audio": f"{name}.wav",
                "speaker": "agent" if turn % 2 else f"voice-{dialog}",
                "role": "agent" if turn % 2 else "user",
                "dialog": dialog,
                "turn": turn,
                "split": "test",
                "text": text,
                "duration": 1.0 + 0.1 * turn,
                "sample_rate": 16_000,
            }
            rows.append(row | changes.get(name, {}))
    rows.sort(key=lambda row: row["turn"])
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_items_are_exchanges_with_what_came_before(tmp_path: Path) -> None:
    items = read_held_out(write_corpus(tmp_path))
    assert [item.id for item in items] == ["d1_0", "d1_2", "d2_0"]
    assert items[1].references == ("find me a table for 2", "for how many people?")
    assert items[1].history == (Turn("user", "hello there"), Turn("agent", "how can i help you?"))
    assert items[2].history == ()


def test_a_held_out_set_without_text_sound_or_dialogs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.jsonl: no such file"):
        read_held_out(tmp_path)
    with pytest.raises(InputError, match="d1_2: .*without text"):
        read_held_out(write_corpus(tmp_path, d1_2={"text": None}))
    with pytest.raises(InputError, match=r"gone\.wav: no such file"):
        read_held_out(write_corpus(tmp_path, d2_1={"audio": "gone.wav"}))
    with pytest.raises(InputError, match="no user turn"):
        read_held_out(write_corpus(tmp_path, **{f"d{d}_{t}": {"role": "user"} for d in (1, 2) for t in range(4)}))


def test_a_limit_takes_whole_dialogs_from_all_over_the_set(tmp_path: Path) -> None:
    items = read_held_out(write_corpus(tmp_path))
    item = items[0]
    many = [dataclasses.replace(item, user=dataclasses.replace(item.user, dialog=str(n // 2))) for n in range(20)]
    assert [item.dialog for item in spread(many, 2)] == ["0", "0", "5", "5"]
    assert spread(items, None) == spread(items, 9) == items
    with pytest.raises(InputError, match="limit=0"):
        spread(items, 0)


# Metrics


REFERENCE = Reference("1", "d", "s", "oak elm", "pine birch", 1.0, user_recognised="oak", agent_recognised="pine birch")


def test_word_error_rates_say_who_errs() -> None:
    whole = Prediction("1", user_text="oak elm ash", agent_text="pine", recognised="fir")
    values = WordErrorRates()(whole, REFERENCE)
    assert values == {
        "transcript_wer": (1, 2), "spoken_reply_wer": (1, 1), "user_recordings_wer": (1, 2),
        "agent_recordings_wer": (0, 2),
    }  # fmt: skip
    silent = WordErrorRates()(Prediction("1", agent_text="pine", recognised=""), REFERENCE)
    assert silent["spoken_reply_wer"] == (1, 1) and "transcript_wer" not in silent
    unheard = WordErrorRates()(Prediction("1", agent_text="pine", recognised=None), REFERENCE)
    assert unheard["spoken_reply_wer"] is None


def test_words_heard_in_silence_are_false_alarms() -> None:
    noise = dataclasses.replace(REFERENCE, user_text="...", user_recognised="oak")
    heard = FalseAlarmsMetric()(Prediction("1", user_text="oak elm"), noise)
    assert heard == {"transcript_false_alarms": 2, "user_recordings_false_alarms": 1}
    assert FalseAlarmsMetric()(Prediction("1", user_text="oak elm"), REFERENCE) == {}


def test_replies_are_held_against_references_as_written_and_as_heard() -> None:
    prediction = Prediction("1", agent_text="Pine, birch!", recognised="pine")
    assert RougeL()(prediction, REFERENCE) == {"reply_rouge_l": 1.0, "heard_reply_rouge_l": pytest.approx(2 / 3)}
    assert set(RougeL()(Prediction("1", recognised="pine"), REFERENCE)) == {"heard_reply_rouge_l"}
    assert Refusals("did not understand")(Prediction("1", agent_text="I did NOT understand."), REFERENCE) == {
        "refused": 1.0, "refused_references": 0.0,
    }  # fmt: skip
    assert AnswerTime()(Prediction("1", seconds=2.0, timings={"a": 1.0, "b": 3.0}), REFERENCE) == {
        "answer_seconds": 4.0, "real_time_factor": (4.0, 2.0),
    }  # fmt: skip


def write_wordnet(folder: Path) -> Path:
    """NLTK data: WordNet's files with one synset, car and auto."""
    root, folder = folder, folder / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    synset = "00000000 06 n 02 car 0 auto 0 000 | a vehicle  \n"
    (folder / "data.noun").write_text(synset)
    (folder / "index.noun").write_text("".join(f"{word} n 1 0 1 0 00000000  \n" for word in ("auto", "car")))
    for name in ("data.adj", "data.adv", "data.verb", "index.adj", "index.adv", "index.verb", "index.sense"):
        (folder / name).write_text("")
    for name in ("adj", "adv", "noun", "verb"):
        (folder / f"{name}.exc").write_text("")
    (folder / "lexnames").write_text("".join(f"{place:02}\tname\t1\n" for place in range(7)))
    (folder / "cntlist.rev").write_text("")
    return root


def test_meteor_knows_synonyms_where_wordnet_is_and_says_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = dataclasses.replace(REFERENCE, agent_text="the car")
    said = Prediction("1", agent_text="the auto")
    values = Meteor(str(write_wordnet(tmp_path / "data")))(said, reference)
    without = MeteorExactStem()(said, reference)
    assert values["reply_meteor"] > 0.9 > 0.6 > without["reply_meteor_exact_stem"] > 0  # type: ignore[operator]
    monkeypatch.setattr("nltk.data.path", [])
    with pytest.raises(InputError, match="nltk.downloader wordnet.*metric=meteor_exact_stem"):
        Meteor(str(tmp_path))


def test_a_figure_counts_what_could_not_be_judged_and_pools_what_has_parts() -> None:
    values: list[dict[str, Value]] = [{"x": Ratio(1, 10), "y": 1.0}, {"x": Ratio(9, 90), "y": None}, {"y": 0.0}]
    items = [ItemValues(str(place), str(place), each) for place, each in enumerate(values)]
    pooled = figure_of("x", items, 4, WordErrorRates(), seed=0)
    assert (pooled.value, pooled.items, pooled.unjudged, pooled.failed) == (0.1, 2, 0, 4)
    assert pooled.low == pooled.high == 0.1 and pooled.lower_is_better and "whisper-normalizer" in pooled.about
    mean = figure_of("y", items, 0, RougeL(), seed=0)
    assert (mean.value, mean.items, mean.unjudged, mean.lower_is_better) == (0.5, 2, 1, False)


def test_a_difference_is_of_the_items_that_both_have() -> None:
    ours = [ItemValues(name, name, {"x": value}) for name, value in (("a", 1.0), ("b", 0.5), ("c", None))]
    theirs = [ItemValues(name, name, {"x": value}) for name, value in (("b", 0.25), ("c", 0.0), ("a", 0.75))]
    gap = gap_of("x", ours, theirs, lower_is_better=True, seed=0)
    assert gap is not None and (gap.gap, gap.low, gap.high, gap.items, gap.left_out) == (0.25, 0.25, 0.25, 2, 1)
    assert gap.is_worse and not dataclasses.replace(gap, lower_is_better=False).is_worse
    assert gap_of("z", ours, theirs, lower_is_better=True, seed=0) is None


# Predictions and scores


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> SpokenDialogPipeline:
    pipeline = SpokenDialogPipeline.from_pretrained(build_random_bundle(tmp_path_factory.mktemp("bundle")))
    stages = ("transcribe", "respond", "speak")
    pipeline.settings = GenerationSettings(
        {stage: Sampling(max_new_tokens=20) for stage in stages}, DecoderSampling(steps=2)
    )
    return pipeline


class Counting:
    """A recogniser that says how much it heard."""

    name = identity = "counting 1"

    def __init__(self) -> None:
        self.heard = 0

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        self.heard += len(waveforms)
        return [f"{waveform.samples.numel()}" for waveform in waveforms]


METRICS: dict[str, Metric] = {"wer": WordErrorRates(), "rouge_l": RougeL()}


def test_predictions_are_the_chain_s_and_scores_those_of_their_sounds(
    tmp_path: Path, pipeline: SpokenDialogPipeline
) -> None:
    corpus, folder = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    items, judge = read_held_out(corpus), Counting()
    predict(ChainSystem(pipeline), items, folder)
    card = score(folder, judge, METRICS, by="speaker")
    assert (card.items, card.failed, card.missing) == (3, 0, 0) and set(card.groups) == {"voice-d1", "voice-d2"}
    found = read_predictions(folder)
    question = read_audio(corpus / "d1_2.wav")
    expected = pipeline.respond(question.samples, question.sample_rate, history=items[1].history)
    assert (found["d1_2"].user_text, found["d1_2"].agent_text) == (expected.user_text, expected.agent_text)
    errors = sum((word_errors(item.references[0], found[item.id].user_text or "") for item in items), WordErrors())
    assert card.figures["transcript_wer"].value == errors.errors / errors.words
    written = json.loads((folder / "scorecard.json").read_text())
    assert written["transcript_wer"] == card.figures["transcript_wer"].value
    assert written["details"]["facts"]["system"]["settings"]["model"] == pipeline.fingerprint
    assert (folder / "scorecard.md").read_text() == card.to_markdown() and "counting 1" in card.to_markdown()
    rows = {row["id"]: row for row in map(json.loads, (folder / "items.jsonl").read_text().splitlines())}
    reply = found["d1_2"].audio
    heard = "" if reply is None else str(read_audio(reply).samples.numel())
    assert rows["d1_2"]["heard"] == heard
    assert set(card.baselines) == {MOST_FREQUENT, RANDOM}
    assert set(card.baselines[RANDOM]) == {"reply_rouge_l"}  # nobody speaks them

    before = judge.heard
    assert score(folder, judge, {"rouge_l": RougeL()}).figures == {
        name: figure for name, figure in card.figures.items() if name.endswith("rouge_l")
    }
    assert judge.heard == before  # other metrics on the same sounds

    predict(ChainSystem(pipeline), items, tmp_path / "again")
    assert score(tmp_path / "again", judge, METRICS).figures == card.figures
    assert judge.heard == before  # the same sounds in a folder beside it


def test_what_is_there_is_scored_and_what_is_missing_counted(tmp_path: Path, pipeline: SpokenDialogPipeline) -> None:
    corpus, folder = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    items = read_held_out(corpus)
    predict(ChainSystem(pipeline, capacity=1), items, folder)
    whole = (folder / "results.jsonl").read_text()
    first, *_ = whole.splitlines(keepends=True)
    (folder / "results.jsonl").write_text(first + '{"id": "cut o')  # as a kill leaves it
    card = score(folder, Counting(), METRICS)
    assert (card.items, card.missing) == (1, 2) and "2 items are not there yet" in card.to_markdown()
    predict(ChainSystem(pipeline, capacity=1), items, folder)
    texts = [sorted((r["id"], r["agent_text"]) for r in map(json.loads, text.splitlines())) for text in
             (whole, (folder / "results.jsonl").read_text())]  # fmt: skip
    assert texts[0] == texts[1]
    assert score(folder, Counting(), METRICS).missing == 0


def test_other_items_are_refused_and_failing_ones_counted(tmp_path: Path, pipeline: SpokenDialogPipeline) -> None:
    corpus, folder = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    good = (corpus / "d1_2.wav").read_bytes()
    (corpus / "d1_2.wav").write_bytes(good[:60])  # cut off
    predict(ChainSystem(pipeline), read_held_out(corpus), folder)
    card = score(folder, Counting(), METRICS)
    assert (card.items, card.failed) == (2, 1) and card.figures["transcript_wer"].failed == 1
    (corpus / "d1_2.wav").write_bytes(good)
    with pytest.raises(InputError, match="1 items that are others now.*d1_2"):
        predict(ChainSystem(pipeline), read_held_out(corpus), folder)
    predict(ChainSystem(pipeline), read_held_out(corpus), folder, overwrite=True)
    with pytest.raises(InputError, match="seed"):
        predict(ChainSystem(pipeline, seed=1), read_held_out(corpus), folder)
    with pytest.raises(InputError, match=r"references.jsonl: no such file"):
        score(tmp_path, Counting(), METRICS)
    with pytest.raises(InputError, match="metric.b and metric.a both give reply_rouge_l"):
        score(folder, Counting(), {"a": RougeL(), "b": RougeL()})


def test_folders_are_compared_on_the_same_items_by_the_same_judge(
    tmp_path: Path, pipeline: SpokenDialogPipeline
) -> None:
    items, judge = read_held_out(write_corpus(tmp_path / "corpus")), Counting()
    folders = {name: tmp_path / name for name in ("whole", "cascade", "part")}
    predict(ChainSystem(pipeline), items, folders["whole"])
    predict(Cascade(pipeline, Saying("hello there")), items, folders["cascade"])
    predict(ChainSystem(pipeline, "units_text_units"), items[:2], folders["part"])
    cards = {name: score(folder, judge, METRICS) for name, folder in folders.items()}
    assert cards["cascade"].figures["transcript_wer"].value == pytest.approx(10 / 12)  # "hello there" three times
    comparison = compare_results(folders)
    whole, cascade, part = comparison.rows
    assert (cascade.same_items, part.same_items) == (3, 2) and not whole.gaps
    gap = cascade.gaps["transcript_wer"]
    ours, theirs = (cards[name].figures["transcript_wer"].value for name in ("cascade", "whole"))
    assert gap is not None and gap.gap == pytest.approx(ours - theirs)  # type: ignore[operator]
    assert "transcript_wer" not in part.figures and part.gaps["heard_reply_rouge_l"] is not None
    assert "| part - whole" in comparison.to_markdown()
    score(folders["part"], Saying("hello"), METRICS)
    with pytest.raises(InputError, match="score both with the same asr"):
        compare_results(folders)


def test_a_cascade_hears_thinks_and_speaks_by_parts_of_its_own(tmp_path: Path, pipeline: SpokenDialogPipeline) -> None:
    items, ears, model, voice = read_held_out(write_corpus(tmp_path / "corpus")), Saying("hello"), Echo(), Hum()
    cascade = Cascade(pipeline, ears, model, voice)
    predict(cascade, items, tmp_path / "out")
    found = read_predictions(tmp_path / "out")
    assert found["d1_2"].user_text == "hello" and found["d1_2"].agent_text == "hello there|how can i help you?|hello"
    assert found["d1_2"].seconds == 0.5 and set(found["d1_2"].timings) == {"heard", "replies", "voice"}
    predict(cascade, items, tmp_path / "out")
    assert (ears.heard, model.asked, voice.said) == (3, 3, 3)  # once
    predict(Cascade(pipeline, ears, model), items, tmp_path / "units")
    assert read_predictions(tmp_path / "units")["d1_2"].agent_text == found["d1_2"].agent_text
    predict(Resaid(pipeline, str(tmp_path / "units"), voice), items, tmp_path / "again")
    again = read_predictions(tmp_path / "again")
    assert again["d1_2"].agent_text == found["d1_2"].agent_text and again["d1_2"].seconds == 0.5 and voice.said == 6
    assert found["d1_2"].user_text is not None and again["d1_2"].user_text is None  # nobody listened
    with pytest.raises(InputError, match="a cascade hears its questions"):
        predict(cascade, items, tmp_path / "given", given="transcript")


class Saying(Counting):
    """A recogniser that always hears the same."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = self.name = self.identity = text

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        self.heard += len(waveforms)
        return [self.text] * len(waveforms)


class Echo:
    """A text model that says the dialog again."""

    identity, asked = "echo", 0

    def __call__(self, dialogs: Sequence[Sequence[Turn]]) -> list[str]:
        self.asked += len(dialogs)
        return ["|".join(turn.text for turn in dialog) for dialog in dialogs]


class Hum:
    """A voice of one tone."""

    identity, sample_rate, said = "hum", 16_000, 0

    def __call__(self, text: str) -> Waveform:
        self.said += 1
        return Waveform(sound(0.5, 0), self.sample_rate)


# Recordings


def test_recordings_are_transcribed_and_those_without_text_counted(
    tmp_path: Path, pipeline: SpokenDialogPipeline
) -> None:
    rows = [
        {"id": "a", "audio": "a.wav", "text": "HELLO THERE", "speaker": "1", "duration": 1.0, "sample_rate": 16000},
        {"id": "b", "audio": "b.wav", "speaker": "2", "duration": 1.0, "sample_rate": 16000},
        {"id": "c", "audio": "c.wav", "text": "yes", "duration": 1.0, "sample_rate": 16000},
        {"id": "d", "audio": "gone.wav", "text": "no", "duration": 1.0, "sample_rate": 16000},
    ]
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in "abc":
        write_audio(folder / f"{name}.wav", sound(1.0, ord(name) % 5), 16_000)
    score = evaluate_recordings(pipeline, folder, Counting(), tmp_path / "out")
    assert (score.folder, score.items, score.failed, score.without_text) == ("real", 2, 1, 1)
    assert score.transcript is not None and score.transcript.counts.words == 3
    heard = read_audio(folder / "a.wav")
    expected = pipeline.respond(heard.samples, heard.sample_rate, speak=False).user_text
    lines = [json.loads(line) for line in (tmp_path / "out" / "real.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "c", "d"]
    assert lines[0]["transcript"] == expected and lines[0]["recognised"] == "16000"
    assert json.loads((tmp_path / "out" / "real.json").read_text())["failed"] == 1
    assert "1 without text, 1 failed" in transcript_table([score])
    with pytest.raises(InputError, match="limit=0"):
        evaluate_recordings(pipeline, folder, Counting(), tmp_path / "out", limit=0)
    assert evaluate_recordings(pipeline, folder, Counting(), tmp_path / "limited", limit=1).items == 1
    again = Counting()
    evaluate_recordings(pipeline, folder, again, tmp_path / "out")
    assert again.heard == 0
    with pytest.raises(InputError, match="real.json has other figures:\n  seed: 0 then, 1 now\n.*overwrite=true"):
        evaluate_recordings(pipeline, folder, again, tmp_path / "out", seed=1)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    with pytest.raises(InputError, match="recordings: .* then, .* now"):
        evaluate_recordings(pipeline, folder, again, tmp_path / "out")
    assert evaluate_recordings(pipeline, folder, again, tmp_path / "out", overwrite=True).items == 2
    assert again.heard == 0  # of recordings that are as they were


def test_a_speech_corpus_is_transcribed_in_part_and_group_by_group(
    tmp_path: Path, pipeline: SpokenDialogPipeline
) -> None:
    corpus = write_corpus(
        tmp_path / "corpus",
        d1_2={"start": 0.25, "duration": 0.5},
        d2_0={"text": "...", "speaker": "noise"},
        d1_0={"split": "train"},
    )
    users = evaluate_recordings(pipeline, corpus, Counting(), tmp_path / "users", where={"role": "user"}, by="speaker")
    assert users.items == 3 and list(users.groups) == ["noise", "voice-d1"]
    assert users.groups["noise"].transcript is None and users.false_alarms is not None
    assert users.false_alarms.turns == 1
    voice = users.groups["voice-d1"]
    assert voice.items == 2 and voice.transcript is not None and voice.transcript.counts.words == 2 + 6
    lines = [json.loads(line) for line in (tmp_path / "users" / "corpus.jsonl").read_text().splitlines()]
    counts = sum((word_errors(line["text"], line["transcript"]) for line in lines[:1] + lines[2:]), WordErrors())
    assert [line["id"] for line in lines] == ["d1_0", "d2_0", "d1_2"] and voice.transcript.counts == counts
    assert lines[2]["recognised"] == "8000"  # half a second of the file
    table = transcript_table([users])
    assert "corpus, speaker" in table and "of 1 turns" in table
    tested = {"role": "user", "split": "test"}
    assert evaluate_recordings(pipeline, corpus, Counting(), tmp_path / "out", where=tested).items == 2
    with pytest.raises(InputError, match=r"manifest\.jsonl: no line has split=dev"):
        read_recordings(corpus, {"split": "dev"})
    with pytest.raises(InputError, match="by=accent: .*line 1 has no such field, only id, audio"):
        read_recordings(corpus, by="accent")


def test_recordings_without_any_text_are_refused(tmp_path: Path, pipeline: SpokenDialogPipeline) -> None:
    with pytest.raises(InputError, match=r"manifest\.jsonl: no such file"):
        evaluate_recordings(pipeline, tmp_path, Counting(), tmp_path / "out")
    (tmp_path / "manifest.jsonl").write_text('{"id": "a", "audio": "a.wav", "duration": 1}\n')
    with pytest.raises(InputError, match="none of its 1 recordings has a text"):
        evaluate_recordings(pipeline, tmp_path, Counting(), tmp_path / "out")
    (tmp_path / "manifest.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(InputError, match="line 1: not a recording"):
        evaluate_recordings(pipeline, tmp_path, Counting(), tmp_path / "out")


def test_the_layout_of_real_recordings_is_read(data_dir: Path) -> None:
    for name, with_text, without_text in (
        ("dailytalk_samples", 2, 2),
        ("librispeech_test_other", 50, 0),
        ("speechocean762_adults_test", 122, 0),
    ):
        recordings, skipped = read_recordings(data_dir / "speech" / name)
        assert (len(recordings), skipped) == (with_text, without_text)
        assert all(recording.audio.is_file() for recording in recordings)
