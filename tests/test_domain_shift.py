"""Shifts of domain by the command: prepared, learnt under, judged; and what cannot be one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_data import SOURCE, make_utterance, write_corpus

from tests.tiny_models import SHORT_TEMPLATE, save_random_llm
from usdm.cli.main import main
from usdm.data.labels import Labels
from usdm.data.user_turns import read_user_turns
from usdm.training.classifier import load_classifier

DOMAINS = {name: [f"{name}-{part}" for part in ("one", "two")] for name in ("food", "money", "music", "trains")}
SHIFT = ["prepare_shift", "corpus=intents/dialogs.jsonl", "labels=intents/labels.jsonl", "source_private=1"]
ADAPTED = [
    "evaluate_adaptation",
    "pretrained=lm",
    "corpora=[shift/source/dialogs.jsonl]",
    "labels=shift/source/labels.jsonl",
    "target=[shift/target/dialogs.jsonl]",
    "target_labels=shift/target/labels.jsonl",
    "frozen=true",
    "batch_size=8",
    "loop.steps=6",
    "loop.save_every=3",
    "loop.log_every=3",
    "loop.validate_every=6",
]


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a folder of its own: a random language model in `lm`, four domains of two intents in `intents`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("usdm.training.loop.draw_curves", lambda log, picture: None)
    torch.manual_seed(0)
    save_random_llm(tmp_path / "lm", 20, SHORT_TEMPLATE)
    (tmp_path / "published").mkdir()
    (tmp_path / "published/domains.json").write_text(json.dumps(DOMAINS))
    rows = {
        split: [[f"{intent} {number} times", intent] for intents in DOMAINS.values() for intent in intents
                for number in range(count)]
        for split, count in (("train", 6), ("val", 3), ("test", 3))
    }  # fmt: skip
    rows |= {f"oos_{split}": [["the moon", "oos"]] for split in ("train", "test")}
    (tmp_path / "published/data_full.json").write_text(json.dumps(rows))
    assert main(["prepare_intents", "intents=clinc150", "intents.folder=published", "output_dir=intents"]) == 0
    return tmp_path


def shift(*settings: str) -> int:
    return main([*SHIFT, "output_dir=shift", *settings])


def test_common_classes_are_halved_and_no_turn_is_on_both_sides(prepared: Path) -> None:
    assert shift("common=2", "target_private=1") == 0
    found = json.loads(Path("shift/shift.json").read_text())
    sides = {side: Labels.load(f"shift/{side}/labels.jsonl", "fine").by_id for side in ("source", "target")}
    assert not set(sides["source"].values()) & set(sides["target"].values())
    assert not sides["source"].keys() & sides["target"].keys()
    for side, own in (("source", found["source_private"]), ("target", found["target_private"])):
        assert set(Labels.load(f"shift/{side}/labels.jsonl").by_id.values()) == {*found["common"], *own}
        assert len(set(sides[side].values())) == 2 + 2  # half of each common one, a private one whole
        assert found[side] == {"train": 24, "dev": 12, "test": 12}
    assert len(read_user_turns(["shift/source/dialogs.jsonl"])) == 48


def test_dialogs_can_be_divided_instead(prepared: Path) -> None:
    assert shift("common=3", "target_private=0", "halved=false") == 0
    sides = [set(Labels.load(f"shift/{side}/labels.jsonl").by_id) for side in ("source", "target")]
    assert not sides[0] & sides[1] and len(sides[0]) > len(sides[1]) > 30


def test_units_are_taken_by_who_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    turns = []
    for number in range(96):
        made = make_utterance(number, split=("train", "dev", "test")[number // 4 % 3])
        made.__dict__["speaker"] = "ann" if number // 4 % 2 else "bob"
        turns.append(made)
    write_corpus(tmp_path / "units.parquet", turns)
    rows = [{"id": f"d{number:04d}", "label": ("a", "b", "c")[number // 6 % 3]} for number in range(24)]
    Path("labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["prepare_shift", "corpus=units.parquet", "labels=labels.jsonl", "halved=false", "output_dir=shift"]
    speakers = ["source_speakers=[ann]", "target_speakers=[bob]"]
    assert main([*given, "common=2", "source_private=0", "target_private=1", *speakers]) == 0
    ours, theirs = (read_user_turns([f"shift/{side}"]) for side in ("source", "target"))
    assert {int(turn.dialog[1:]) % 2 for turn in ours} == {1} and {int(turn.dialog[1:]) % 2 for turn in theirs} == {0}
    assert all(turn.units is not None and int(turn.units.max()) < SOURCE.num_units for turn in ours)


@pytest.mark.parametrize("objective", ["source_only", "uan", "uniot"])
def test_an_objective_is_trained_and_judged_in_one_command(prepared: Path, objective: str) -> None:
    assert shift("common=2", "target_private=1") == 0
    assert main([*ADAPTED, f"objective={objective}", "output_dir=run"]) == 0
    score = json.loads(Path("run/adaptation.json").read_text())
    known, unknown = score["target"]["known"], score["target"]["unknown"]
    assert score["turns"] == 12 and (score["threshold"] is None) == (objective == "uniot")
    assert score["target"]["h_score"] == pytest.approx(2 * known * unknown / max(known + unknown, 1e-9))
    first = load_classifier("run/model")
    assert main([*ADAPTED, f"objective={objective}", "output_dir=run"]) == 0  # what is there is judged again
    again = load_classifier("run/model")
    for one, other in zip(first.classifier.head.parameters(), again.classifier.head.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_what_became_no_shift_keeps_no_other_one_out(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("dialogs", "labels"):
        lines = Path(f"intents/{name}.jsonl").read_text().splitlines(keepends=True)
        Path(f"{name}.jsonl").write_text("".join(line for line in lines if "query-test-" not in line))
    given = ["common=2", "target_private=1"]
    assert shift(*given, "corpus=dialogs.jsonl", "labels=labels.jsonl") == 2
    assert "target: no user turn of split test" in capsys.readouterr().err
    assert not Path("shift/source").exists() and shift(*given) == 0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["common=0", "target_private=1"], "no common class"),
        (["common=1", "source_private=0", "target_private=1"], "the source has one class alone"),
        (["common=3", "target_private=3"], "there are 4 classes"),
        (["common=2", "target_private=1", "source_speakers=[ann]"], "nobody speaks in text"),
        (["common=2", "target_private=1", "labels=nowhere.jsonl"], "no such file"),
        (["common=2", "target_private=-1"], "source_private=1, target_private=-1: give 0 or more classes"),
        (["common=2", "target_private=1", "corpus=intents/labels.jsonl"], "line 1 is no dialog"),
        (["common=2", "target_private=1", "labels=more.jsonl"], "labels are of ids that are in no corpus (nobody)"),
    ],
)
def test_what_is_no_shift_is_told(
    prepared: Path, settings: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = Path("intents/labels.jsonl").read_text() + '{"id": "nobody", "label": "food", "fine": "food-one"}\n'
    Path("more.jsonl").write_text(more)
    assert shift(*settings) == 2
    assert told in capsys.readouterr().err


def test_a_target_without_a_common_or_an_unknown_class_is_told(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shift("common=2", "target_private=1") == 0
    private = json.loads(Path("shift/shift.json").read_text())["target_private"]
    lines = Path("shift/target/labels.jsonl").read_text().splitlines(keepends=True)
    for wanted, told in ((True, "no common class"), (False, "no turn is of unknown classes")):
        kept = [line for line in lines if (json.loads(line)["label"] in private) is wanted]
        Path("labels.jsonl").write_text("".join(kept))
        assert main([*ADAPTED, "output_dir=run", "target_labels=labels.jsonl"]) == 2
        assert told in capsys.readouterr().err
    for setting, told in (
        ("target_labels=intents/labels.jsonl", "labels are of ids that are in no corpus"),
        ("split=tset", "split=tset: no labelled turn of it"),
        ("target_hears=units", "is text alone"),
    ):
        assert main([*ADAPTED, "output_dir=run", setting]) == 2
        assert told in capsys.readouterr().err
    assert not Path("run/model").exists()  # nothing was trained
