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

from usdm.audio import read_audio, write_audio
from usdm.chain import DecoderSampling, GenerationSettings, SpokenDialogPipeline
from usdm.evaluation import (
    PocketSphinxRecogniser,
    WordErrors,
    evaluate,
    evaluate_recordings,
    meteor,
    read_held_out,
    rouge_l,
    scorecard_table,
    scored_words,
    transcript_table,
    word_errors,
)
from usdm.evaluation.held_out import spread
from usdm.evaluation.predictions import Prediction
from usdm.evaluation.recordings import read_recordings
from usdm.evaluation.scorecard import summarise
from usdm.metrics.intervals import mean_of, word_error_gap, word_error_rate
from usdm.metrics.text import FalseAlarms, false_alarms, most_frequent, says
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


# The scorecard


def prediction(name: str, **known: object) -> Prediction:
    facts = {"key": name, "id": name, "dialog": name, "speaker": "a", "user_text": "oak elm", "reference": "pine birch"}
    return Prediction(**{**facts, "question_seconds": 3.0, **known})  # type: ignore[arg-type]


def test_figures_follow_from_the_outcomes() -> None:
    good = prediction(
        "1",
        transcript="oak elm",
        reply="pine birch",
        user_recognised="oak",
        agent_recognised="pine birch",
        resynthesis_recognised="pine",
        reply_recognised="pine bark",
        synthesis_recognised="pine birch",
        reply_seconds=2.0,
        timings={"transcribe": 0.25, "speak": 0.75},
    )
    poor = prediction(
        "2",
        speaker="b",
        transcript="oak",
        reply="ash",
        reply_recognised="ash",
        synthesis_recognised="ask",
        reply_seconds=1.0,
        timings={"transcribe": 0.5, "speak": 0.5},
        truncated=("speak",),
    )
    scorecard = summarise([good, poor, prediction("3", error="ValueError: no")], [], seed=0, facts={})
    figures = scorecard.figures()
    assert (scorecard.items, scorecard.failed, scorecard.truncated) == (2, 1, {"speak": 1})
    assert figures["transcript_wer"] == 1 / 4
    assert {name: rate.rate for name, rate in scorecard.transcript_by_speaker.items()} == {"a": 0, "b": 0.5}
    assert figures["user_recordings_wer"] == 3 / 4
    assert figures["spoken_reply_wer"] == figures["spoken_reply_ceiling_wer"] == 1 / 3
    assert figures["spoken_reply_gap"] == 0
    assert figures["agent_recordings_wer"] == 2 / 4 and figures["resynthesis_wer"] == 3 / 4
    assert figures["resynthesis_gap"] == pytest.approx(1 / 4)
    assert figures["reply_rouge_l"] == 0.5
    assert figures["real_time_factor"] == 2 / 3
    assert (figures["answer_seconds"], figures["answer_lasts"]) == (1.0, 1.5)


def test_without_a_synthesiser_the_agent_recordings_are_the_ceiling() -> None:
    one = prediction("1", reply="ash", reply_recognised="ash", agent_recognised="pine")
    figures = summarise([one], [], seed=0, facts={}).figures()
    assert (figures["spoken_reply_wer"], figures["spoken_reply_ceiling_wer"]) == (0, 0.5)


def test_baselines_answer_without_listening() -> None:
    predictions = [prediction(str(n), reply="", reference=text) for n, text in enumerate(["yes", "yes", "no"])]
    from_set = summarise(predictions, [], seed=0, facts={}).reply_baselines
    assert from_set["most frequent reply"].rouge_l == pytest.approx(2 / 3)
    from_training = summarise(predictions, ["no", "no"], seed=0, facts={}).reply_baselines
    assert from_training["most frequent reply"] == from_training["random reply"]
    assert from_training["random reply"].rouge_l == pytest.approx(1 / 3)


def test_replies_are_scored_by_what_is_heard_too() -> None:
    written = prediction("1", reply="pine birch", reply_recognised="pine")
    wordless = prediction("2", reply_recognised="pine birch")
    card = summarise([written, wordless], [], seed=0, facts={})
    assert card.reply is not None and card.reply.rouge_l == 1
    assert card.reply_heard is not None and card.reply_heard.rouge_l == pytest.approx((2 / 3 + 1) / 2)
    assert card.figures()["reply_heard_rouge_l"] == card.reply_heard.rouge_l
    assert "| reply as it is heard, ROUGE-L" in scorecard_table(card)


def test_the_cascade_stands_beside_the_chain() -> None:
    both = prediction("1", reply="pine", cascade_reply="pine birch")
    card = summarise([both, prediction("2", cascade_reply="ash")], [], seed=0, facts={"recogniser": "ears"})
    assert card.cascade is not None and card.figures()["cascade_rouge_l"] == card.cascade.rouge_l == 0.5
    assert "0.500 behind ears" in scorecard_table(card)
    assert "behind" not in scorecard_table(summarise([prediction("1", reply="pine")], [], seed=0, facts={}))


def test_refusals_are_counted_in_replies_and_references() -> None:
    refused = prediction("1", reply="Sorry, I did not understand that.", reference="i did not understand")
    wrongly = prediction("2", reply="i did not understand", reference="how many people?")
    answered = prediction("3", reply="for two", reference="how many people?")
    card = summarise(
        [refused, wrongly, answered, answered],
        [],
        seed=0,
        facts={"refusal_phrase": "did not understand"},
        refusal_phrase="did not understand",
    )
    assert (card.figures()["refused"], card.figures()["refused_references"]) == (0.5, 0.25)
    assert card.refused is not None and card.refused.low < 0.5 < card.refused.high
    assert 'replies with "did not understand"' in scorecard_table(card)
    assert summarise([refused], [], seed=0, facts={}).refused is None


def test_a_set_in_which_nothing_is_said_has_no_rate_but_its_words_are_told() -> None:
    deaf = prediction("1", user_text="...", speaker="noise", transcript="...", user_recognised="the")
    misheard = prediction("2", user_text="...", speaker="noise", transcript="book it", user_recognised="")
    card = summarise([deaf, misheard], [], seed=0, facts={})
    assert card.transcript is None and card.transcript_by_speaker == {}
    assert card.transcript_false_alarms == FalseAlarms(2, 1, 2) and card.user_false_alarms == FalseAlarms(2, 1, 1)
    assert card.figures()["transcript_false_alarms_words"] == 2
    assert "2 words in 1 of 2 turns" in scorecard_table(card)
    # Among turns with words they count as insertions.
    mixed = summarise([misheard, prediction("3", transcript="oak elm")], [], seed=0, facts={})
    assert mixed.figures()["transcript_wer"] == 2 / 2


def test_a_chain_without_text_has_no_text_scores() -> None:
    scorecard = summarise([prediction("1", reply_seconds=1.0, timings={"speak": 1.0})], [], seed=0, facts={})
    assert scorecard.transcript is None and scorecard.reply is None and scorecard.spoken_reply is None
    assert scorecard.speed.real_time_factor == 1.0
    assert "transcript_wer" not in json.loads(scorecard.to_json())
    assert "| – " in scorecard_table(scorecard)


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


def test_a_random_model_gets_a_scorecard(tmp_path: Path, pipeline: SpokenDialogPipeline) -> None:
    corpus, folder, seen = write_corpus(tmp_path / "corpus"), tmp_path / "out", []
    scorecard = evaluate(
        pipeline,
        corpus,
        Counting(),
        folder,
        examples=1,
        facts={"command": "a test"},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (scorecard.items, scorecard.failed) == (3, 0) and seen == [(1, 3), (2, 3), (3, 3)]
    assert scorecard.transcript is not None and scorecard.transcript.rate > 0.9  # it is random
    assert set(scorecard.transcript_by_speaker) == {"voice-d1", "voice-d2"}
    assert set(scorecard.speed.seconds_by_stage) >= {"units", "transcribe", "respond"}
    written = json.loads((folder / "scorecard.json").read_text())
    assert written["transcript_wer"] == scorecard.figures()["transcript_wer"]
    facts = written["details"]["facts"]
    assert facts["command"] == "a test" and facts["model"] == pipeline.fingerprint
    assert facts["recogniser"] == "counting 1" and facts["versions"]["jiwer"]
    assert (folder / "scorecard.md").read_text() == scorecard_table(scorecard)
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["d1_0", "d1_2", "d2_0"]
    question = read_audio(corpus / "d1_2.wav")
    history = read_held_out(corpus)[1].history
    expected = pipeline.respond(question.samples, question.sample_rate, history=history)
    assert (rows[1]["transcript"], rows[1]["reply"]) == (expected.user_text, expected.agent_text)
    assert {path.name for path in (folder / "examples").iterdir()} >= {"d1_0.png", "d1_0-resynthesis.wav"}


def test_what_is_there_is_not_computed_again(tmp_path: Path, pipeline: SpokenDialogPipeline) -> None:
    corpus, folder, first, second = write_corpus(tmp_path / "corpus"), tmp_path / "out", Counting(), Counting()
    whole = evaluate(pipeline, corpus, first, folder)
    path = folder / "items.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[2], lines[0], lines[1][:50]]))  # as a run that was killed leaves it
    resumed = evaluate(pipeline, corpus, second, folder)
    assert second.heard == first.heard / 3
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["d1_0", "d1_2", "d2_0"]
    assert resumed.transcript == whole.transcript and resumed.resynthesis == whole.resynthesis


def test_another_model_setting_or_sound_is_computed_again(
    tmp_path: Path, pipeline: SpokenDialogPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, folder = write_corpus(tmp_path / "corpus"), tmp_path / "out"

    def heard(**settings: int) -> int:
        counting = Counting()
        evaluate(pipeline, corpus, counting, folder, **settings)  # type: ignore[arg-type]
        return counting.heard

    everything = heard()
    assert heard() == 0
    assert heard(seed=1) == everything
    monkeypatch.setattr(pipeline, "settings", dataclasses.replace(pipeline.settings, decoder=DecoderSampling(steps=1)))
    assert heard(seed=1) == everything
    monkeypatch.setitem(pipeline.__dict__, "fingerprint", "another")
    assert heard(seed=1) == everything
    write_audio(corpus / "d2_0.wav", sound(1.0, seed=9), 16_000)
    assert heard(seed=1) == everything / 3


def test_a_failing_item_is_counted_and_tried_again(
    tmp_path: Path, pipeline: SpokenDialogPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    corpus, folder = write_corpus(tmp_path / "corpus"), tmp_path / "out"
    good = (corpus / "d1_2.wav").read_bytes()
    (corpus / "d1_2.wav").write_bytes(good[:60])  # cut off
    scorecard = evaluate(pipeline, corpus, Counting(), folder)
    assert (scorecard.items, scorecard.failed) == (2, 1)
    assert json.loads((folder / "items.jsonl").read_text().splitlines()[1])["error"].startswith("InputError")
    assert "d1_2 failed" in caplog.text and "1 failed" in scorecard_table(scorecard)
    (corpus / "d1_2.wav").write_bytes(good)
    assert evaluate(pipeline, corpus, Counting(), folder).failed == 0


def test_a_synthesiser_says_the_replies_themselves(tmp_path: Path, pipeline: SpokenDialogPipeline) -> None:
    asked = []

    def synthesiser(text: str) -> Waveform:
        asked.append(text)
        return Waveform(torch.zeros(7), 16_000)

    evaluate(pipeline, write_corpus(tmp_path / "corpus"), Counting(), tmp_path / "out", synthesiser=synthesiser)
    rows = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    replies = [row["reply"].encode("ascii", "ignore").decode() for row in rows]
    assert asked == [reply for reply in replies if scored_words(reply)]
    assert [row["synthesis_recognised"] for row in rows] == ["7" if scored_words(reply) else "" for reply in replies]


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
