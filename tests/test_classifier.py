"""Labelled turns: intent sets, labels beside a corpus, and classifiers of turns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_models import SHORT_TEMPLATE, as_readable_as_new_files, save_random_llm
from usdm.cli.main import main
from usdm.data.labels import Labels
from usdm.data.unit_corpus import UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.data.user_turns import read_user_turns, with_labels
from usdm.lm import load_model
from usdm.lm.turn_classifier import TurnClassifier, turn_batch
from usdm.tokens import TurnContent
from usdm.training.classifier import load_classifier
from usdm.types import InputError

STEPS = ["loop.steps=4", "loop.save_every=2", "loop.log_every=2", "loop.validate_every=2", "batch_size=3"]


def write_set(folder: Path, out_of_scope: int = 3) -> Path:
    """In CLINC150's layout: two domains, two intents each, whose words tell them apart."""
    folder.mkdir(parents=True, exist_ok=True)
    domains = {"food": ["eat", "cook"], "money": ["pay", "save"]}
    (folder / "domains.json").write_text(json.dumps(domains))
    rows = {
        split: [[f"{number} times {intent}", intent] for intents in domains.values() for intent in intents
                for number in range(count)]
        for split, count in (("train", 6), ("val", 3), ("test", 3))
    }  # fmt: skip
    rows |= {f"oos_{split}": [[f"the moon {n}", "oos"] for n in range(out_of_scope)] for split in ("train", "test")}
    (folder / "data_full.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs in a folder of its own, with a random language model in `lm` and a set in `intents`."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_random_llm(tmp_path / "lm", 20, SHORT_TEMPLATE)
    write_set(tmp_path / "published")
    assert main(["prepare_intents", "intents=clinc150", "intents.folder=published", "output_dir=intents"]) == 0
    return tmp_path


def train(*settings: str) -> int:
    given = ["pretrained=lm", "corpora=[intents/dialogs.jsonl]", "labels=intents/labels.jsonl", *STEPS]
    return main(["train_classifier", *given, *settings])


def test_a_published_set_becomes_labelled_turns(prepared: Path) -> None:
    turns = with_labels(read_user_turns(["intents/dialogs.jsonl"]), Labels.load("intents/labels.jsonl", "fine"))
    assert {label for _, label in turns} == {"eat", "cook", "pay", "save", "out_of_scope"}
    assert [turn.text for turn, label in turns if label == "eat" and turn.split == "dev"] == [
        f"{number} times eat." for number in ("zero", "one", "two")
    ]
    assert Labels.load("intents/labels.jsonl").of("query-train-0-0", "query-train-0") == "food"


def test_a_part_of_a_set(prepared: Path) -> None:
    settings = ["intents.folder=published", "per_intent={train: 2}", "only=[food]", "output_dir=part"]
    assert main(["prepare_intents", *settings]) == 0
    splits = [turn.split for turn in read_user_turns(["part/dialogs.jsonl"])]
    assert [splits.count(split) for split in ("train", "dev", "test")] == [4, 6, 6]
    assert main(["prepare_intents", *settings, "only=[sport]", "output_dir=other"]) == 2


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("per_intent={val: 2}", "per_intent={'val': 2}: give numbers of 0 or more, for train, dev, test"),
        ("per_intent={train: -1}", "per_intent={'train': -1}: give numbers"),
        ("only=[]", "only=[]: name domains or intents, or give null for all"),
        ("intents=snips", "prepare_intents: published/intents.jsonl: no such file"),
    ],
)
def test_a_part_that_no_set_has_is_told(
    prepared: Path, setting: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare_intents", "intents.folder=published", "output_dir=other", setting]) == 2
    assert told in capsys.readouterr().err


def test_a_run_that_was_stopped_gives_the_same_classifier(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usdm.training.loop.draw_curves", lambda log, picture: None)
    assert train("label_key=fine", "left_out=[out_of_scope]", "output_dir=whole") == 0
    with monkeypatch.context() as patched:
        patched.setattr("usdm.training.loop._Run.finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        patched.setattr("usdm.training.loop._Run.validate", lambda self, done: None)
        assert train("label_key=fine", "left_out=[out_of_scope]", "output_dir=stopped") == 130
    assert train("label_key=fine", "left_out=[out_of_scope]", "output_dir=stopped") == 0
    whole, stopped = (load_classifier(Path(name) / "model") for name in ("whole", "stopped"))
    assert whole.config.classes == ["cook", "eat", "pay", "save"]
    for ours, theirs in zip(whole.classifier.parameters(), stopped.classifier.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert train("label_key=label", "left_out=[out_of_scope]", "output_dir=whole") == 2  # another question


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated")  # peft's prefixes use it
@pytest.mark.parametrize("adapter", ["bottleneck", "ia3", "lora", "peqa", "prefix", "prompt_tokens"])
def test_a_classifier_keeps_what_its_adapter_has_learnt_alone(
    adapter: str, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usdm.training.loop.draw_curves", lambda log, picture: None)
    for name, rate in (("still", 0.0), ("learnt", 0.05)):
        assert train(f"adapter={adapter}", f"output_dir={name}", f"loop.learning_rate={rate}", "loop.ema_decay=0") == 0
    still, learnt = (load_classifier(f"{name}/model") for name in ("still", "learnt"))
    turns = [turn for turn in read_user_turns(["intents/dialogs.jsonl"]) if turn.split == "test"]
    assert (learnt.features(turns) - still.features(turns)).abs().max() > 1e-3
    assert torch.equal(learnt.features(turns), load_classifier("learnt/model").features(turns))
    kept = load_file("learnt/model/model.safetensors")
    backbone = dict(learnt.classifier.backbone.named_parameters())
    trained = {f"backbone.{name}" for name, weight in backbone.items() if weight.requires_grad}
    assert trained and trained == {name for name in kept if not name.startswith("head.")}


def test_a_frozen_classifier_learns_from_the_states_of_the_model_as_it_is(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usdm.training.loop.draw_curves", lambda log, picture: None)
    given = ["loop.steps=20", "batch_size=24", "loop.learning_rate=0.05", "loop.warmup_steps=0"]
    assert train("frozen=true", "output_dir=frozen", "left_out=[out_of_scope]", *given) == 0
    loaded = load_classifier("frozen/model")
    base = load_model("lm")
    turns = [turn for turn in read_user_turns(["intents/dialogs.jsonl"]) if turn.split == "test"]
    prompts = [loaded.template.prompt("respond", TurnContent(user_text=turn.text), layout="typed") for turn in turns]
    alone = torch.stack(
        [base(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1] for ids in prompts]
    )
    torch.testing.assert_close(loaded.features(turns), alone.detach(), atol=1e-5, rtol=1e-5)
    logged = [json.loads(line) for line in Path("frozen/log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in logged if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]


def test_the_state_of_a_turn_does_not_depend_on_its_neighbours(prepared: Path) -> None:
    classifier = TurnClassifier(load_model("lm"), torch.nn.Identity()).eval()
    prompts = [[1, 5, 6], [1, 7, 8, 9, 10, 11]]
    together = classifier.features(turn_batch(prompts, pad_id=0))
    alone = torch.cat([classifier.features(turn_batch([prompt], pad_id=0)) for prompt in prompts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["label_key=fine", "left_out=[eat,cook,pay,out_of_scope]"], "labels are of 1 class "),
        (["left_out=[sport]"], "no turn has that label"),
        (["label_key=level"], "needs `id` and `level`"),
        (["hears=units"], "is text alone"),
        (["target=[intents/dialogs.jsonl]"], "reads no target"),
        (["frozen=true", "adapter=lora"], "take adapter=none"),
        (["batch_size=0"], "batch_size=0: a step learns from 1 turn or more"),
    ],
)
def test_what_cannot_be_learnt_is_told(
    prepared: Path, capsys: pytest.CaptureFixture[str], settings: list[str], told: str
) -> None:
    assert train(*settings) == 2
    assert told in capsys.readouterr().err


def test_units_of_another_tokenizer_are_told(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    UnitSource(20, 25.0, "its own").save("lm")
    with UnitCorpusWriter("units.parquet", UnitSource(20, 25.0, "another's")) as writer:
        for number in range(8):
            split, units = ("train", "dev")[number // 4], np.arange(9, dtype=np.uint16)
            writer.write(UnitUtterance(f"u{number}", "me", "user", f"d{number}", 0, split, "a table", units))
    rows = [json.dumps({"id": f"d{number}", "label": "ab"[number % 2]}) + "\n" for number in range(8)]
    Path("labels.jsonl").write_text("".join(rows))
    given = ["corpora=[units.parquet]", "labels=labels.jsonl", "frozen=true"]
    assert train(*given, "hears=units") == 2
    assert "lm and units.parquet hold different units: centroid_hash its own" in capsys.readouterr().err
    assert train(*given, "hears=text", "output_dir=typed") == 0  # their words are words
    assert main(["evaluate_classifier", "classifier=typed/model", "hears=units", *given[:2], "output_dir=judged"]) == 2
    assert "hold different units" in capsys.readouterr().err


def test_labels_of_unknown_ids_are_told(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("intents/labels.jsonl").open("a") as file:
        file.write('{"id": "nobody", "label": "food"}\n')
    assert train() == 2
    assert "1 of 55 labels are of ids that are in no corpus (nobody)" in capsys.readouterr().err
    with pytest.raises(InputError, match="labelled before"):
        Path("twice.jsonl").write_text('{"id": "a", "label": "b"}\n' * 2)
        Labels.load("twice.jsonl")


def test_turns_of_classes_that_were_not_learnt_are_judged(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usdm.training.loop.draw_curves", lambda log, picture: None)
    settings = ["label_key=fine", "left_out=[out_of_scope]", "held_out_share=0.25", "frozen=true"]
    assert train(*settings, "output_dir=held") == 0
    assert as_readable_as_new_files(Path("held/model"))
    held = load_classifier("held/model").config
    assert len(held.classes) == 3 and len(held.held_out) == 1
    given = [
        "corpora=[intents/dialogs.jsonl]",
        "labels=intents/labels.jsonl",
        "classifier=held/model",
        "output_dir=judged",
    ]
    write_set(Path("other"))
    other = ["intents.folder=other", "output_dir=far", "prefix=far", "only=[money]"]
    assert main(["prepare_intents", *other]) == 0
    assert main(["evaluate_classifier", *given, "+out.far=[far/dialogs.jsonl]"]) == 0
    rows = json.loads(Path("judged/classifier.json").read_text())["rows"]
    named = [(row["outside"], row["detector"], row["separation"]["outside"]) for row in rows]
    groups = [("out_of_scope", 3), ("held-out classes", 3), ("far", 6)]
    assert named == [(group, score, n) for group, n in groups for score in ("msp", "energy", "mahalanobis", "cosine")]
    assert "| far          " in Path("judged/classifier.md").read_text()
    Path("others.jsonl").write_text(
        "".join(json.dumps({"id": f"query-test-{n}", "fine": "x"}) + "\n" for n in range(3))
    )
    assert main(["evaluate_classifier", *given, "labels=others.jsonl"]) == 2  # no common class


@pytest.mark.parametrize(("split", "lacking"), [("train", "test"), ("test", "train")])
def test_a_split_that_is_wanted_and_not_there_is_told(
    prepared: Path, split: str, lacking: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("usdm.training.loop.draw_curves", lambda log, picture: None)
    assert train("frozen=true", "output_dir=known") == 0
    for name in ("dialogs", "labels"):
        lines = Path(f"intents/{name}.jsonl").read_text().splitlines(keepends=True)
        Path(f"{name}.jsonl").write_text("".join(line for line in lines if f"query-{split}-" in line))
    given = ["classifier=known/model", "corpora=[dialogs.jsonl]", "labels=labels.jsonl", "output_dir=judged"]
    assert main(["evaluate_classifier", *given]) == 2
    assert f"no turn of split '{lacking}' is of a class that was learnt (food, money" in capsys.readouterr().err
