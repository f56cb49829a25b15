"""What the language model is trained for: weights by kind of sequence, and preferred replies."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_lm_training import (  # noqa: F401 (fixtures)
    SETTINGS,
    SOURCE,
    TEMPLATE,
    WORDS,
    corpus,
    read_log,
    stopped_after,
    tiny_model,
    vocabulary,
)
from torch.nn import functional

from usdm.data.collation import collate_rows, with_kinds
from usdm.data.packing import build_row
from usdm.data.preferences import PreferenceRows, read_pairs
from usdm.data.sequences import KIND_INDEX, TrainingSequence
from usdm.tokens import IGNORED, DialogTemplate, SpeechTextVocabulary, TurnContent
from usdm.tokens.template import TrainingExample
from usdm.training.language_model import finetune, pretrain
from usdm.training.objectives import DirectPreference, NextToken, WeightedNextToken
from usdm.types import InputError, Turn

TYPED = "typed"


def write_pairs(path: Path, count: int) -> Path:
    """The chosen reply is of the first half of the words; every other prompt has a history."""
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(count):
        prompt: dict[str, Any] = {"user_text": f"a table for {WORDS[rng.integers(len(WORDS))]}"}
        if number % 2:
            prompt["history"] = [["agent", "please"]]
        words = rng.integers(len(WORDS) // 2, size=2) + [0, len(WORDS) // 2]
        chosen, rejected = ({"agent_text": WORDS[each], "agent_units": [each, each]} for each in words.tolist())
        pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(pairs), path)
    else:
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def log_probability(model: Any, example: TrainingExample) -> float:
    """Of the ids that have a label, each after all that is before it."""
    with torch.no_grad():
        logs = model(input_ids=example.input_ids[None], use_cache=False).logits[0].log_softmax(-1)
    return sum(float(logs[i - 1, example.labels[i]]) for i in (example.labels != IGNORED).nonzero()[:, 0].tolist())


# Weights


def test_weights_by_kind_are_those_of_the_mean(vocabulary: SpeechTextVocabulary) -> None:  # noqa: F811
    rng = np.random.default_rng(0)
    ids = rng.integers(0, len(vocabulary), 24).astype(np.int32)
    kinds = np.array([KIND_INDEX["units"]] * 12 + [KIND_INDEX["units_to_text"]] * 12, np.int8)
    labels = ids.copy()
    labels[[0, 5]] = IGNORED
    row = build_row([TrainingSequence(ids, labels, kinds)], 30, vocabulary.pad_id)
    batch, model = with_kinds(collate_rows, [row]), tiny_model(vocabulary)
    objective = WeightedNextToken({"units_to_text": 3.0, "units": 0.5})
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits[0]
    summed = counted = 0.0
    for place in [i for i in range(1, 24) if i != 5]:
        weight = 3.0 if place >= 12 else 0.5
        summed += weight * -logits[place - 1].log_softmax(-1)[ids[place]].item()
        counted += weight
    assert objective.loss(model, batch, None).item() == pytest.approx(summed, rel=1e-5)
    assert float(objective.amount(batch)) == pytest.approx(counted)
    plain = WeightedNextToken()
    assert plain.loss(model, batch, None).item() == pytest.approx(NextToken().loss(model, batch, None).item(), rel=1e-6)
    assert float(plain.amount(batch)) == float(NextToken().amount(batch)) == 22


@pytest.mark.parametrize(
    ("weights", "told"), [({"speech": 1.0}, "has speech: there are tags, units"), ({"units": -1.0}, "0 or more")]
)
def test_weights_that_cannot_be(weights: dict[str, float], told: str) -> None:
    with pytest.raises(InputError, match=told):
        WeightedNextToken(weights)


@pytest.mark.parametrize("objective", ["weighted", "dpo"])
def test_a_step_in_passes_is_the_step_at_once(
    objective: str,
    vocabulary: SpeechTextVocabulary,  # noqa: F811
    corpus: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    losses, weights = [], []
    for rows, passes in ((4, 1), (1, 4)):
        settings = dataclasses.replace(
            SETTINGS, steps=3, batch_size=rows, gradient_accumulation_steps=passes, validate_every=None, save_every=3
        )
        folder, model = tmp_path / str(rows), tiny_model(vocabulary)
        if objective == "weighted":
            weighted = WeightedNextToken({"units_to_text": 5.0, "units": 0.0})
            pretrain(model, vocabulary, [corpus], folder, settings, objective=weighted)
        else:
            pairs = DirectPreference(write_pairs(tmp_path / "pairs.jsonl", 40), layout=TYPED)
            prefer(model, vocabulary, folder, dataclasses.replace(settings, max_length=160), pairs)
        losses.append([row["loss"] for row in read_log(folder) if "loss" in row])
        weights.append(model.get_input_embeddings().weight.detach().clone())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    torch.testing.assert_close(weights[0], weights[1], atol=1e-4, rtol=0)


# Preferences


def prefer(model: Any, vocabulary: Any, folder: Path, settings: Any, objective: DirectPreference) -> dict[str, float]:  # noqa: F811
    return finetune(model, vocabulary, [], folder, settings, template=TEMPLATE, unit_source=SOURCE, objective=objective)


def test_the_loss_is_the_published_formula(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:  # noqa: F811
    """-log sigmoid(beta (log p/q of chosen - log p/q of rejected)), each reply read alone."""
    template = DialogTemplate(vocabulary, TEMPLATE)
    path = write_pairs(tmp_path / "pairs.jsonl", 5)
    objective = DirectPreference(path, beta=0.3, layout=TYPED)
    rows = list(PreferenceRows(read_pairs(path, template, TYPED, 160), 160, vocabulary.pad_id, epochs=1))
    assert 1 < len(rows) < 5  # several in some row
    batch = with_kinds(collate_rows, rows)
    model, reference = tiny_model(vocabulary), tiny_model(vocabulary)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    losses = []
    for given in map(json.loads, path.read_text().splitlines()):
        history = [Turn(role, text) for role, text in given["prompt"].get("history", [])]
        rewards = []
        for side in ("chosen", "rejected"):
            text, units = given[side]["agent_text"], torch.tensor(given[side]["agent_units"])
            content = TurnContent(user_text=given["prompt"]["user_text"], agent_text=text, agent_units=units)
            whole = template.training_example(content, history, TYPED)
            rewards.append(log_probability(model, whole) - log_probability(reference, whole))
        losses.append(-float(functional.logsigmoid(torch.tensor(0.3 * (rewards[0] - rewards[1])))))
    assert max(losses) - min(losses) > 0.1
    assert int(objective.amount(batch)) == 5
    assert objective.loss(model, batch, reference).item() == pytest.approx(sum(losses), abs=2e-5)
    figures = objective.validate(model, batch, reference)
    assert figures["preference_loss"].tolist() == pytest.approx([sum(losses), 5], abs=2e-5)
    assert figures["preference_accuracy"].tolist() == [sum(loss < np.log(2) for loss in losses), 5]


@pytest.mark.slow  # trl is long to import
@pytest.mark.filterwarnings("ignore::FutureWarning")  # its own use of transformers
def test_loss_rewards_and_margins_are_those_of_trl(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:  # noqa: F811
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")

    class IdPairs(trl.DPOTrainer):  # type: ignore[misc, name-defined]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            """As it is: it has ids, never texts."""
            return dataset

    template = DialogTemplate(vocabulary, TEMPLATE)
    pairs = read_pairs(write_pairs(tmp_path / "pairs.jsonl", 6), template, TYPED, 160, "respond")
    model, reference = tiny_model(vocabulary), tiny_model(vocabulary)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    batch = with_kinds(collate_rows, list(PreferenceRows(pairs, 160, vocabulary.pad_id, epochs=1)))
    ours = DirectPreference("pairs.jsonl", beta=0.3).validate(model, batch, reference)
    firsts = [int((pair.chosen.labels != IGNORED).argmax()) for pair in pairs]
    ids = [[side.input_ids.tolist() for side in pair] for pair in pairs]
    rows = [
        {"prompt_ids": chosen[:first], "chosen_ids": chosen[first:], "rejected_ids": rejected[first:]}
        for first, (chosen, rejected) in zip(firsts, ids, strict=True)
    ]
    arguments = trl.DPOConfig(
        str(tmp_path / "trl"),
        beta=0.3,
        per_device_train_batch_size=6,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_dropout=True,
        max_length=None,
    )
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.tokenizer.backend_tokenizer, pad_token="<pad>", eos_token="</s>"
    )
    trainer = IdPairs(
        model, reference, arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    model.train()  # there is no dropout; its figures are told apart by that
    loss = trainer.compute_loss(model, next(iter(trainer.get_train_dataloader()))).item()
    theirs = {name: values[0] for name, values in trainer._metrics["train"].items()}
    mean = {name: (total / count).item() for name, (total, count) in ours.items()}
    assert mean["preference_loss"] == pytest.approx(loss, abs=1e-5) and abs(loss - np.log(2)) > 1e-3
    assert mean["preference_margin"] == pytest.approx(theirs["rewards/margins"], abs=1e-5)
    assert mean["preference_chosen_reward"] == pytest.approx(theirs["rewards/chosen"], abs=1e-5)
    assert mean["preference_rejected_reward"] == pytest.approx(theirs["rewards/rejected"], abs=1e-5)
    assert mean["preference_accuracy"] == pytest.approx(theirs["rewards/accuracies"])


def test_preferences_are_learnt_and_a_run_goes_on_from_its_start_model(
    vocabulary: SpeechTextVocabulary,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = dataclasses.replace(SETTINGS, steps=16, learning_rate=1e-2, validate_every=None, save_every=4)
    objective = DirectPreference(write_pairs(tmp_path / "pairs.parquet", 60), layout=TYPED, dev_every=10)
    figures = prefer(tiny_model(vocabulary), vocabulary, tmp_path / "whole", settings, objective)
    losses = [row["loss"] for row in read_log(tmp_path / "whole") if "loss" in row]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)  # nothing has changed yet
    assert losses[-1] < losses[0] - 0.05
    rewards = figures["preference_chosen_reward"] - figures["preference_rejected_reward"]
    assert figures["preference_margin"] == pytest.approx(rewards)
    assert figures["preference_accuracy"] > 0.5
    with pytest.raises(KeyboardInterrupt), stopped_after(10, monkeypatch):
        prefer(tiny_model(vocabulary), vocabulary, tmp_path / "again", settings, objective)
    assert prefer(tiny_model(vocabulary), vocabulary, tmp_path / "again", settings, objective) == figures
    record = json.loads((tmp_path / "whole" / "model" / "training.json").read_text())
    assert record["perplexity"] == {}  # a margin has none
    write_pairs(tmp_path / "pairs.parquet", 61)
    with pytest.raises(InputError, match=r"objective.pairs: .*pairs.parquet"):
        prefer(tiny_model(vocabulary), vocabulary, tmp_path / "again", settings, objective)


def test_a_file_of_pairs_is_read_alike_in_both_layouts(vocabulary: SpeechTextVocabulary, tmp_path: Path) -> None:  # noqa: F811
    template = DialogTemplate(vocabulary, TEMPLATE)
    one, other = (
        read_pairs(write_pairs(tmp_path / f"pairs{end}", 4), template, TYPED, 96) for end in (".jsonl", ".parquet")
    )
    for mine, theirs in zip(one, other, strict=True):
        assert [each.input_ids.tolist() for each in mine] == [each.input_ids.tolist() for each in theirs]
    chosen, rejected = one[0]
    first = int(np.flatnonzero(chosen.labels != IGNORED)[0])
    assert np.array_equal(chosen.input_ids[:first], rejected.input_ids[:first])
    assert chosen.input_ids[first] != rejected.input_ids[first]


REPLY = {"agent_text": "two", "agent_units": [1]}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 1: no JSON"),
        ('{"prompt": "a", "chosen": {}, "rejected": {}}', "pair 1: give an object with prompt, chosen, rejected"),
        (json.dumps({"prompt": {"user_text": "a"}, "chosen": REPLY, "rejected": REPLY}), "are written alike"),
        (json.dumps({"prompt": {}, "chosen": REPLY, "rejected": REPLY}), "user_text is missing"),
        (json.dumps({"prompt": {"text": "a"}, "chosen": REPLY, "rejected": REPLY}), "text: a turn has user_units"),
        (json.dumps({"prompt": {"history": ["a"]}, "chosen": REPLY, "rejected": REPLY}), "pairs of role and text"),
        (
            json.dumps({"prompt": {"user_text": "a " * 90}, "chosen": REPLY, "rejected": {**REPLY, "agent_text": "a"}}),
            "ids do not fit rows of 96",
        ),
        ("", "holds no pair"),
    ],
)
def test_pairs_that_cannot_be_used(vocabulary: SpeechTextVocabulary, line: str, told: str, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "pairs.jsonl").write_text(line)
    with pytest.raises(InputError, match=told):
        read_pairs(tmp_path / "pairs.jsonl", DialogTemplate(vocabulary, TEMPLATE), TYPED, 96)


def test_preferences_want_a_model_that_knows_its_units_and_no_corpora(
    vocabulary: SpeechTextVocabulary,  # noqa: F811
    corpus: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    objective = DirectPreference(write_pairs(tmp_path / "pairs.jsonl", 4), layout=TYPED)
    run = (tiny_model(vocabulary), vocabulary)
    with pytest.raises(InputError, match="dev_every=20 keeps none"):
        prefer(*run, tmp_path / "run", SETTINGS, objective)
    with pytest.raises(InputError, match="reads .*pairs.jsonl alone; give corpora="):
        finetune(*run, [corpus], tmp_path / "run", SETTINGS, template=TEMPLATE, objective=objective)
    with pytest.raises(InputError, match="which units it knows"):
        finetune(*run, [], tmp_path / "run", SETTINGS, template=TEMPLATE, objective=objective)
    with pytest.raises(InputError, match="usdm finetune objective=dpo"):
        pretrain(*run, [corpus], tmp_path / "run", SETTINGS, objective=objective)
