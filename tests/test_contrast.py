"""Preferences by contrast, the chooser that a reward model makes, and what it chose as dialogs to learn from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_lm_training import WORDS, corpus, tiny_model, vocabulary  # noqa: F401
from test_reward import TYPED, llm  # noqa: F401

from data_prep.corpora.replies import replies
from usdm.chain.best_reward import BestReward
from usdm.chain.candidates import Asked, draw_candidates
from usdm.chain.choosing import ChoosingChain
from usdm.chain.stages import LanguageModelChain, Question
from usdm.data.dialog_pairs import read_exchanges
from usdm.data.preference_folder import prepare_preferences
from usdm.data.unit_corpus import UnitCorpus
from usdm.lm import load_for_generation
from usdm.lm.reward_model import RewardModel, RewardSettings, load_with_one_output
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings, TurnContent
from usdm.training.contrast import Contrast, Filters, Rung
from usdm.types import InputError, Sampling, Turn

NO_FILTERS = Filters(cut_off=False, shortest=None)


@pytest.fixture(scope="module")
def worse(vocabulary: SpeechTextVocabulary, llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Another model of the same units."""
    folder = tmp_path_factory.mktemp("worse")
    model = tiny_model(vocabulary)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocabulary.json", "template.json", "unit_source.json"):
        (folder / name).write_bytes((llm / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def judge(llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A reward model that nobody trained."""
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(3)
    load_with_one_output(llm, new_head=True).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocabulary.json", "template.json", "unit_source.json"):
        (folder / name).write_bytes((llm / name).read_bytes())
    RewardSettings("respond", TYPED).save(folder)
    return folder


def exchanges(corpus: Path, count: int = 6) -> list[Any]:  # noqa: F811
    return read_exchanges(UnitCorpus([corpus]), "train", history_turns=2)[:count]


def counted(caplog: pytest.LogCaptureFixture) -> dict[str, int]:
    """By filter."""
    told = caplog.records[-1].getMessage().partition("left out: ")[2]
    return {} if told == "none" else {each.split()[0]: int(each.split()[1]) for each in told.split(", ")}


def test_each_rung_is_better_than_those_below_it(
    llm: Path,  # noqa: F811
    worse: Path,
    corpus: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    ladder = {
        "beams": Rung(llm, beams=2),
        "sampled": Rung(llm, temperature=1.0, history_turns=0),
        "worse": Rung(worse),
        "direct": {"llm": worse, "chain": "units_to_units"},
    }
    how: dict[str, Any] = {"filters": NO_FILTERS, "max_new_tokens": 6, "max_new_units": 6}
    asked = exchanges(corpus, 4)
    pairs = Contrast(ladder, **how).pairs(asked)
    left_out = sum(counted(caplog).values())
    assert len(pairs) + left_out == 6 * len(asked) and set(counted(caplog)) <= {"equal", "empty"}
    assert {pair["source"] for pair in pairs} <= {
        f"{a} > {b}" for i, a in enumerate(ladder) for b in list(ladder)[i + 1 :]
    }
    template = DialogTemplate(SpeechTextVocabulary.from_pretrained(llm), TemplateSettings.load(llm))
    chain = LanguageModelChain(load_for_generation(llm), template)
    sampling = {"transcribe": Sampling(max_new_tokens=6), "respond": Sampling(max_new_tokens=6, num_beams=2)}
    for pair in pairs:
        if pair["source"].startswith("beams"):  # what the best rung says is what it says when it is asked alone
            history = tuple(Turn(role, text) for role, text in pair["prompt"].get("history", []))
            question = Question(units=torch.tensor(pair["prompt"]["user_units"]), history=history)
            assert chain.answer(question, sampling, speak=False).agent_text == pair["chosen"]["agent_text"]
    other = Contrast(ladder, **how, seed=1).pairs(asked)
    assert [pair for pair in other if "sampled" in pair["source"]] != [
        pair for pair in pairs if "sampled" in pair["source"]
    ]


def test_filters_leave_out_and_count(
    llm: Path,  # noqa: F811
    worse: Path,
    judge: Path,
    corpus: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    ladder, asked = {"good": Rung(llm, temperature=1.0), "bad": Rung(worse, temperature=1.0)}, exchanges(corpus, 12)
    how: dict[str, Any] = {"typed": True, "max_new_tokens": 8}
    whole = Contrast(ladder, filters=NO_FILTERS, **how).pairs(asked)
    lengths = [len(pair[side]["agent_text"].split()) for pair in whole for side in ("chosen", "rejected")]
    kept = Contrast(ladder, filters=Filters(cut_off=False, shortest=0.0), **how).pairs(asked)
    assert counted(caplog)["short"] == len(whole) - len(kept) > 0
    assert min(len(pair["chosen"]["agent_text"].split()) for pair in kept) >= np.mean(lengths) - 1e-9
    agreed = Contrast(ladder, filters=dataclasses.replace(NO_FILTERS, judge=judge), **how).pairs(asked)
    model = RewardModel.from_pretrained(judge)

    def reward(pair: dict[str, Any], side: str) -> float:
        content = TurnContent(user_text=pair["prompt"]["user_text"], agent_text=pair[side]["agent_text"])
        return model([model.ids(content)])[0]

    assert agreed == [pair for pair in whole if reward(pair, "chosen") > reward(pair, "rejected")]
    assert 0 < len(agreed) < len(whole) and counted(caplog)["judge"] == len(whole) - len(agreed)
    word = whole[0]["chosen"]["agent_text"].split()[0]
    polite = Contrast(ladder, filters=dataclasses.replace(NO_FILTERS, refusal=word), **how).pairs(asked)
    assert counted(caplog).get("refusal", 0) == len(whole) - len(polite)
    cut = Contrast(ladder, filters=Filters(shortest=None), **how)
    try:
        cut.pairs(asked)
    except InputError as error:
        assert "cut_off" in str(error)
    assert counted(caplog)["cut_off"] > 0


def test_speech_in_contrast_says_the_same_words(
    llm: Path,  # noqa: F811
    worse: Path,
    corpus: Path,  # noqa: F811
) -> None:
    source = Contrast({"good": Rung(llm), "bad": Rung(worse)}, stage="speak", filters=NO_FILTERS, max_new_units=6)
    asked = exchanges(corpus, 2)
    for pair in source.pairs(asked):
        assert pair["prompt"]["agent_text"] in [each.agent_text for each in asked]
        assert set(pair["chosen"]) == {"agent_units"} and pair["chosen"] != pair["rejected"]


@pytest.mark.parametrize(
    ("ladder", "told"),
    [
        ({}, "name two rungs or more"),
        ({"one": Rung("a")}, "name two rungs or more"),
        ({"one": Rung("a"), "two": {"llm": "a"}}, "two rungs are the same"),
        ({"one": Rung("a"), "two": {"llm": "b", "steps": 3}}, "ladder.two=.*a rung has llm, chain"),
    ],
)
def test_ladders_that_cannot_be(ladder: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Contrast(ladder)


def test_a_ladder_the_other_way_round_is_another_one(
    llm: Path,  # noqa: F811
    worse: Path,
    corpus: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    ladder: dict[str, Any] = {"one": Rung(llm), "two": Rung(worse)}
    how: dict[str, Any] = {"filters": NO_FILTERS, "max_new_tokens": 6, "typed": True}
    asked: dict[str, Any] = {"splits": ["train"], "limit": 4}
    prepare_preferences(Contrast(ladder, **how), [corpus], tmp_path, **asked)
    turned = Contrast(dict(reversed(ladder.items())), **how)
    with pytest.raises(InputError, match=r'best_first: \["one", "two"\] then, \["two", "one"\] now'):
        prepare_preferences(turned, [corpus], tmp_path, **asked)
    with pytest.raises(InputError, match="limit=0: give 1 exchange or more"):
        prepare_preferences(turned, [corpus], tmp_path / "none", limit=0)


def test_a_length_below_the_mean_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"filters.shortest=-1"):
        Filters(shortest=-1)


def test_the_best_of_several_is_the_one_of_the_highest_reward(llm: Path, judge: Path) -> None:  # noqa: F811
    template = DialogTemplate(SpeechTextVocabulary.from_pretrained(llm), TemplateSettings.load(llm))
    chain = LanguageModelChain(load_for_generation(llm), template)
    choosing = ChoosingChain(chain, lambda own: BestReward(own, judge), 5)
    asked = [
        Asked(Question(text=text), {"respond": Sampling(max_new_tokens=6, seed=100 * place)})
        for place, text in enumerate(WORDS[:4])
    ]
    model = RewardModel.from_pretrained(judge)
    best = []
    for each, drawn in zip(asked, draw_candidates(chain, asked, "respond", 5), strict=True):
        prompt = model.template.prompt("respond", TurnContent(user_text=each.question.text), (), TYPED)
        with torch.no_grad():
            rewards = [float(model.model(torch.tensor([[*prompt, *reply.ids]])).logits) for reply in drawn]
        best.append(drawn[int(np.argmax(rewards))].answer.agent_text)
    answers = choosing.answers(asked, 32, speak=False)
    assert [answer.agent_text for answer in answers] == best  # type: ignore[union-attr]
    assert len(set(best)) > 1
    assert choosing.identity.inputs == {"choose.folder": judge}


def test_a_reward_model_that_reads_what_was_heard_is_not_for_typed_questions(
    llm: Path,  # noqa: F811
    judge: Path,
    tmp_path: Path,
) -> None:
    listener = tmp_path / "listener"
    shutil.copytree(judge, listener)
    RewardSettings("respond", "multi_step").save(listener)
    template = DialogTemplate(SpeechTextVocabulary.from_pretrained(llm), TemplateSettings.load(llm))
    chain = LanguageModelChain(load_for_generation(llm), template)
    few = {"respond": Sampling(max_new_tokens=6)}
    with pytest.raises(InputError, match=r"choose.folder=.*listener: .*user_units is missing.*layout=typed"):
        ChoosingChain(chain, lambda own: BestReward(own, listener), 2).answer(Question(text="a"), few, speak=False)


def test_replies_become_dialogs(tmp_path: Path) -> None:
    rows, results = [], []
    for name in ("a", "b", "c", "d"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(1600), 16_000)
        rows.append({"id": name, "audio": f"{name}.wav", **({"transcript": "what i said"} if name == "a" else {})})
        fault = {"c": "no sound"}.get(name)
        results.append(
            {"id": name, "user_text": "what it heard", "agent_text": "hello", "error": fault}
            | {"truncated": ["speak"] if name == "d" else []}
        )
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = tmp_path / "said"
    said.mkdir()
    with pytest.raises(InputError, match="give the folder of a `usdm synthesize` that is done"):
        list(replies(str(tmp_path / "requests.jsonl"), str(said), "model"))
    (said / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in results))
    found = list(replies(str(tmp_path / "requests.jsonl"), str(said), "model"))
    assert [(item.id, item.text, item.turn) for item in found[:4]] == [
        ("a-user", "what i said", 0),
        ("a-agent", "hello", 1),
        ("b-user", "what it heard", 0),
        ("b-agent", "hello", 1),
    ]
    assert found[1].audio == said / "a.wav" and found[0].dialog == found[1].dialog == "a"
    assert "no sound" in str(found[4].fault) and "cut off" in str(found[5].fault)
