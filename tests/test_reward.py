"""Reward models, and reinforcement by rewards: the published formulas, runs that go on, and a bandit that is known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_lm_training import SOURCE, TEMPLATE, WORDS, corpus, read_log, tiny_model, vocabulary  # noqa: F401
from torch.nn import functional

pytest.importorskip("trl", reason="needs usdm[align]")

from tiny_models import qwen_tokenizer

from usdm.chain.candidates import Candidate
from usdm.lm import log_probabilities
from usdm.lm.reward_model import RewardModel, RewardSettings
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, extend_tokenizer
from usdm.training import reinforcement
from usdm.training.posed import Posed
from usdm.training.reinforcement import ReinforcementLoop, constrained, reinforce
from usdm.training.reward import RewardLoop, RewardPair, accuracy, read_reward_pairs, split_by_prompt, train_reward
from usdm.training.rewards import HeardReward, MeteorReward, ModelReward
from usdm.types import InputError

TYPED = "typed"
LOOP = RewardLoop(learning_rate=3e-3, batch_size=4, dev_every=4, log_every=1, save_every=4)
COURSE = ReinforcementLoop(
    steps=4,
    learning_rate=1e-2,
    batch_size=8,
    num_generations=4,
    max_new_tokens=6,
    log_every=1,
    validate_every=100,
    validation_questions=6,
    save_every=2,
)


@pytest.fixture(scope="module")
def llm(vocabulary: SpeechTextVocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    return saved(vocabulary, tmp_path_factory.mktemp("llm"))


def saved(vocabulary: SpeechTextVocabulary, folder: Path) -> Path:  # noqa: F811
    tiny_model(vocabulary).save_pretrained(folder)
    vocabulary.save_pretrained(folder)
    TEMPLATE.save(folder)
    SOURCE.save(folder)
    return folder


def write_pairs(path: Path, count: int = 48) -> Path:
    """The chosen reply is of the first half of the words. Three pairs share a question."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        prompt: dict[str, Any] = {
            "user_text": f"a table for {WORDS[number // 3 % len(WORDS)]} {'please ' * (number // 36)}"
        }
        if number // 3 % 2:
            prompt["history"] = [["agent", "please"]]
        words = rng.integers(len(WORDS) // 2, size=2) + [0, len(WORDS) // 2]
        chosen, rejected = ({"agent_text": WORDS[each]} for each in words.tolist())
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Reward models


def test_the_loss_of_a_step_is_that_of_bradley_and_terry(llm: Path, tmp_path: Path) -> None:
    """-log sigmoid(r(chosen) - r(rejected)) of its pairs, each reply read alone and whole."""
    pairs = write_pairs(tmp_path / "pairs.jsonl", 12)
    loop = dataclasses.replace(LOOP, learning_rate=0.0, batch_size=16)
    train_reward(llm, pairs, tmp_path / "run", loop, layout=TYPED)
    model = RewardModel.from_pretrained(tmp_path / "run" / "model")
    train, dev = split_by_prompt(read_reward_pairs(pairs, model.template, "respond", TYPED, 99), 4)
    assert {pair.prompt for pair in train}.isdisjoint(pair.prompt for pair in dev) and len(dev) == 3
    rewards = [
        [float(model.model(input_ids=torch.tensor([side])).logits) for side in (pair.chosen, pair.rejected)]
        for pair in train
    ]
    margins = torch.tensor(rewards) @ torch.tensor([1.0, -1.0])
    (first, *_) = read_log(tmp_path / "run")
    assert first["loss"] == pytest.approx(float(-functional.logsigmoid(margins).mean()), abs=1e-5)
    assert first["accuracy"] == pytest.approx(float((margins > 0).float().mean()))
    assert model.settings.mean == pytest.approx(np.mean(rewards), abs=1e-5)
    assert model.settings.deviation == pytest.approx(np.std(rewards), rel=1e-3)
    together = model([side for pair in train for side in (pair.chosen, pair.rejected)])
    assert together == pytest.approx(np.ravel(rewards).tolist(), abs=1e-5)


def test_a_reward_model_learns_its_pairs_and_goes_on_where_it_was_stopped(
    llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    figures = train_reward(llm, pairs, tmp_path / "whole", LOOP, layout=TYPED, test_preferences={"other": pairs})
    assert figures["accuracy"] > 0.8 and figures["other_accuracy_low"] <= figures["other_accuracy"] <= 1
    assert figures["other_length_matched"] > 0
    from transformers import Trainer

    trained = Trainer.training_step

    def stopping(self: Any, *given: Any, **named: Any) -> Any:
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return trained(self, *given, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "training_step", stopping)
        train_reward(llm, pairs, tmp_path / "again", LOOP, layout=TYPED, test_preferences={"other": pairs})
    assert not (tmp_path / "again" / "model").exists()
    assert (
        train_reward(llm, pairs, tmp_path / "again", LOOP, layout=TYPED, test_preferences={"other": pairs}) == figures
    )
    whole, again = (read_log(tmp_path / name) for name in ("whole", "again"))
    assert [row["loss"] for row in whole[:-1]] == pytest.approx([row["loss"] for row in again[:-1]], abs=1e-6)
    with pytest.raises(InputError, match="layout"):
        train_reward(llm, pairs, tmp_path / "again", LOOP)


def test_accuracy_counts_equal_rewards_half_and_tells_pairs_alike_in_length() -> None:
    class Lengths:
        """Likes long replies, and nothing else."""

        def __call__(self, sequences: Sequence[Sequence[int]]) -> list[float]:
            return [float(len(sequence)) for sequence in sequences]

    pairs = [
        RewardPair("a", [1, 2, 3, 4, 5, 6], [1, 2]),
        RewardPair("b", [1, 2, 3, 4, 5, 6], [1, 2, 7, 8]),
        RewardPair("c", [1, 2, 3], [1, 2, 4]),
        RewardPair("d", [1, 2], [1, 2, 3, 4, 5, 6]),
    ]
    figures = accuracy(Lengths(), pairs)  # type: ignore[arg-type]
    assert figures["accuracy"] == 0.625
    assert (figures["length_matched"], figures["accuracy_length_matched"]) == (1, 0.5)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"chosen": {"agent_text": "two"}, "rejected": {"agent_text": "Two "}},
            "pair 1: .*alike up to the end of respond",
        ),
        ({"chosen": {"agent_text": "two"}, "rejected": {}}, "pair 1: agent_text is missing"),
        ({"chosen": {"agent_text": "two " * 99}, "rejected": {"agent_text": "a"}}, "more than loop.max_length=64"),
        ({"chosen": {"agent_text": "two"}, "rejected": {"agent_text": 3}}, "pair 1: agent_text=3: it is a text"),
        (
            {"chosen": {"agent_text": "two", "agent_units": [1.5]}, "rejected": {"agent_text": "a"}},
            r"pair 1: agent_units=\[1.5\]: units are whole numbers in a list",
        ),
        (
            {
                "prompt": {"user_text": "a", "history": [["boss", "two"]]},
                "chosen": {"agent_text": "two"},
                "rejected": {"agent_text": "a"},
            },
            r"pair 1: history: \['boss', 'two'\] is no role of user, agent and a text",
        ),
    ],
)
def test_preferences_that_no_reward_model_learns_from(llm: Path, tmp_path: Path, row: dict, told: str) -> None:
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": {"user_text": "a"}, **row}))
    with pytest.raises(InputError, match=told):
        train_reward(
            llm, tmp_path / "pairs.jsonl", tmp_path / "run", dataclasses.replace(LOOP, max_length=64), layout=TYPED
        )
    assert not (tmp_path / "run").exists()


def test_a_damaged_table_of_preferences_is_told(llm: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match="pairs.parquet: no Parquet file"):
        train_reward(llm, tmp_path / "pairs.parquet", tmp_path / "run", LOOP, layout=TYPED)


def test_too_few_prompts_to_validate_on(llm: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 for validation: give more prompts"):
        train_reward(llm, write_pairs(tmp_path / "pairs.jsonl", 3), tmp_path / "run", LOOP, layout=TYPED)


# Reinforcement


@dataclass(frozen=True)
class Share:
    """Of unit 7 in a reply."""

    def bind(self, start: Any, template: Any, stage: str) -> Any:
        def scores(posed: Sequence[Posed], candidates: Sequence[Candidate]) -> list[float]:
            units = [candidate.answer.agent_units for candidate in candidates]
            return [float((each == 7).float().mean()) if len(each) else 0.0 for each in units]

        return scores


def test_a_bandit_s_best_arm_is_found(llm: Path, corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    """The best reply is unit 7 and nothing else: its share begins at one in 21, and must rise to most."""
    loop = dataclasses.replace(
        COURSE, steps=16, learning_rate=2e-2, batch_size=16, num_generations=8, beta=0.0, save_every=100
    )
    figures = reinforce(llm, [corpus], tmp_path / "run", loop, Share(), stage="speak", typed=True)
    rows = read_log(tmp_path / "run")
    assert rows[0]["validation/reward"] < 0.2 and rows[0]["validation/kl"] == pytest.approx(0, abs=1e-5)
    assert figures["reward"] > 0.7 and figures["kl"] > 1
    held = dataclasses.replace(loop, beta=1.0)
    assert (
        reinforce(llm, [corpus], tmp_path / "held", held, Share(), stage="speak", typed=True)["kl"] < figures["kl"] / 2
    )


def test_advantages_are_rewards_against_their_group(
    llm: Path,
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trl import GRPOTrainer

    seen: list[dict[str, Any]] = []
    score = GRPOTrainer._generate_and_score_completions

    def watched(self: Any, inputs: Any) -> Any:
        found = score(self, inputs)
        seen.append(
            {**found, "rewards": list(self._logs["rewards"]["reward"]), "prompts": [x["prompt"] for x in inputs]}
        )
        return found

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", watched)
    loop = dataclasses.replace(COURSE, steps=1)
    reinforce(llm, [corpus], tmp_path / "run", loop, MeteorReward(), stage="respond", typed=True)
    (step,) = seen
    assert step["prompts"][:4] == [step["prompts"][0]] * 4 != step["prompts"][4:]
    rewards = torch.tensor(step["rewards"]).view(2, 4)
    assert rewards.std() > 0
    by_hand = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(step["advantages"], by_hand.flatten())


def test_probabilities_are_those_among_the_ids_that_a_stage_may_write(vocabulary: SpeechTextVocabulary) -> None:  # noqa: F811
    template, model = DialogTemplate(vocabulary, TEMPLATE), tiny_model(vocabulary)
    allowed = template.allowed("speak", TYPED)
    units = (vocabulary.layout.unit_offset + torch.arange(6)).tolist()
    rows = [([5, 6, 7], units[:3]), ([8], units[:5])]
    ids = torch.tensor([[5, 6, 7, *units[:3], 0, 0], [0, 0, 8, *units[:5]]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1]])
    logs, entropies = constrained(model, ids, mask, 5, allowed, 1.0)
    for row, (prompt, reply) in enumerate(rows):
        (alone,) = log_probabilities(model, [[*prompt, *reply]], allowed, len(prompt))
        torch.testing.assert_close(logs[row, : len(reply)], alone, atol=1e-5, rtol=0)
    assert 0 < float(entropies.max()) <= np.log(21)


def test_a_stopped_course_goes_on_to_the_same_model(
    llm: Path,
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = {"typed": True, "watch": {"meteor": MeteorReward()}, "questions": 20}
    figures = reinforce(llm, [corpus], tmp_path / "whole", COURSE, MeteorReward(), **asked)
    assert figures["meteor"] == figures["reward"]
    drawn = reinforcement.Course.draw

    def stopping(self: Any, model: Any, posed: Any, seeds: Any) -> Any:
        if len(read_log(self.folder)) > 3:  # what is measured at the start, and three steps
            raise KeyboardInterrupt
        return drawn(self, model, posed, seeds)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(reinforcement.Course, "draw", stopping)
        reinforce(llm, [corpus], tmp_path / "again", COURSE, MeteorReward(), **asked)
    assert reinforce(llm, [corpus], tmp_path / "again", COURSE, MeteorReward(), **asked) == pytest.approx(figures)
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "again")]
    assert weights[0] == weights[1]


def test_a_reward_model_of_another_tokenizer_or_stage_is_refused(
    llm: Path,
    corpus: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    train_reward(llm, write_pairs(tmp_path / "pairs.jsonl", 12), tmp_path / "run", LOOP, layout=TYPED)
    folder = tmp_path / "run" / "model"
    with pytest.raises(InputError, match="judges replies of the stage respond, and stage=speak"):
        reinforce(llm, [corpus], tmp_path / "course", COURSE, ModelReward(folder), stage="speak")
    other = SpeechTextVocabulary.from_tokenizer(extend_tokenizer(qwen_tokenizer(), 20))
    strange = saved(other, tmp_path / "strange")
    with pytest.raises(InputError, match="another tokenizer than the language model: text_size"):
        reinforce(strange, [corpus], tmp_path / "course", COURSE, ModelReward(folder))
    with pytest.raises(InputError, match="give a folder that `usdm train_reward` has made"):
        reinforce(llm, [corpus], tmp_path / "course", COURSE, ModelReward(llm))


def test_rewards_are_in_deviations_and_clipped() -> None:
    model = RewardModel.__new__(RewardModel)
    model.settings = RewardSettings(mean=2.0, deviation=0.5)
    assert model.normalised([2.0, 3.0, -9.0], clip=3.0) == [0.0, 2.0, -3.0]
    assert model.normalised([3.0, -9.0], clip=None) == [2.0, -22.0]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: dataclasses.replace(COURSE, num_generations=3), "num_generations=3, batch_size=8"),
        (lambda: dataclasses.replace(COURSE, num_generations=1), "2 or more replies"),
        (lambda: ModelReward("folder", clip=0.0), "clip=0.0"),
        (lambda: ModelReward("folder", normalise=False), "normalise=true, or null"),
        (lambda: MeteorReward().bind(None, None, "speak"), "take reward=heard"),
        (lambda: HeardReward().bind(None, None, "respond"), "take reward=meteor"),
    ],
)
def test_settings_that_cannot_be(make: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        make()
