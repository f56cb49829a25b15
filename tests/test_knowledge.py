"""Multiple choice: files in KMMLU's format and tasks of lm-eval, in text and as turns of a dialog."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from usdm.chain import SpokenDialogPipeline
from usdm.chain.stages import LanguageModelChain, Question
from usdm.cli.main import main
from usdm.knowledge.choices import letter_ids
from usdm.knowledge.items import LETTERS, read_choices
from usdm.knowledge.scores import wilson
from usdm.lm import in_transformers, log_probabilities
from usdm.metrics.intervals import ratio_of
from usdm.tokens import read_tokenizer
from usdm.types import InputError

pytest.importorskip("lm_eval", reason="wants usdm[harness]")

SIZES = {"Law": 2, "Math": 5}


def questions(folder: Path, ending: str = "csv") -> Path:
    """Two subjects of unlike size in KMMLU's format, with examples for one of them."""
    folder.mkdir()
    for subject, size in SIZES.items():
        for split in ("test", "dev") if subject == "Law" else ("test",):
            rows = [
                {"question": f"what is {number} in {subject}?", "answer": number % 4 + 1, "Category": subject}
                | {letter: f"{letter} of {number}" for letter in LETTERS}
                for number in range(size)
            ]
            path = folder / f"{subject}-{split}.{ending}"
            with path.open("w", newline="") as file:
                if ending == "csv":
                    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                    writer.writeheader()
                    writer.writerows(rows)
                else:
                    file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def ask(data: Path, out: Path, *more: str) -> int:
    return main(["evaluate_knowledge", "knowledge=local", f"knowledge.data_folder={data}", f"output_dir={out}", *more])


def items_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def tiny() -> SpokenDialogPipeline:
    return SpokenDialogPipeline.from_pretrained("tiny")


def test_lm_eval_and_we_find_the_same_log_likelihoods(tiny: SpokenDialogPipeline) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer = read_tokenizer(tiny.folders["llm"])
    harness = HFLM(pretrained=in_transformers(tiny.parts.llm), tokenizer=tokenizer, batch_size=4)
    pairs = [(f"user\nfind me table number {number}\nagent\n", f"which city? {number}") for number in range(20)]
    asked = [Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)]
    theirs = [total for total, _ in harness.loglikelihood(asked, disable_tqdm=True)]
    encoded = [harness._encode_pair(*pair) for pair in pairs]
    everything = torch.ones(len(tiny.parts.template.vocabulary), dtype=torch.bool)
    ours = log_probabilities(
        tiny.parts.llm, [[*before, *after] for before, after in encoded], everything, [len(each[0]) for each in encoded]
    )
    assert [float(each.double().sum()) for each in ours] == pytest.approx(theirs, abs=1e-4)


def test_local_files_in_kmmlu_s_format_are_asked_by_lm_eval_and_averaged_over_subjects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = questions(tmp_path / "data")
    assert ask(data, tmp_path / "macro") == 0
    rows = items_of(tmp_path / "macro")
    right = {name: [r["values"]["acc"] for r in rows if r["subject"] == name] for name in ("law", "math")}
    assert {name: len(values) for name, values in right.items()} == {"law": 2, "math": 5}
    shares = {name: sum(part / whole for part, whole in values) / len(values) for name, values in right.items()}
    card = json.loads((tmp_path / "macro/scorecard.json").read_text())
    assert card["acc"] == pytest.approx((shares["law"] + shares["math"]) / 2)
    assert ask(data, tmp_path / "micro", "average=micro") == 0
    micro = json.loads((tmp_path / "micro/scorecard.json").read_text())["acc"]
    assert micro == pytest.approx((2 * shares["law"] + 5 * shares["math"]) / 7)
    assert "| law | 2 |" in " ".join((tmp_path / "macro/knowledge.md").read_text().split())
    capsys.readouterr()
    assert ask(data, tmp_path / "no", "knowledge.tasks=[math,history]") == 2
    assert "has no history, only law, math" in capsys.readouterr().err
    assert ask(data, tmp_path / "no", "shots=1") == 2  # Math has no examples
    assert "math has no examples to show" in capsys.readouterr().err
    assert main(["gate", f"before={tmp_path / 'macro'}", f"after={tmp_path / 'micro'}"]) == 2  # computed otherwise


def test_a_turn_is_asked_as_text_or_as_units_and_both_are_compared(
    tmp_path: Path, tiny: SpokenDialogPipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    command = ["make_reply_choices", "count=4", f"output_dir={made}"]
    assert main(command) == 0 and main([*command, "seed=1"]) == 2  # other questions are there
    folders = {hears: tmp_path / hears / "knowledge" for hears in ("text", "units")}
    for hears, folder in folders.items():
        assert ask(made / "questions", folder, f"hears={hears}", "chooses=options") == 0
    before = items_of(folders["units"])
    assert ask(made / "questions", folders["units"], "hears=units", "chooses=options") == 0  # from what is kept
    assert items_of(folders["units"]) == before
    typed, spoken = (items_of(folder)[0] for folder in folders.values())
    assert typed["heard"] is None and spoken["heard"]
    chain = LanguageModelChain(tiny.parts.llm, tiny.parts.template)
    prompt = chain.prompt(Question(text=typed["question"]), speak=False)
    ids = [*tiny.parts.template.reply_ids(typed["options"][2]), tiny.parts.template.stop_id("respond")]
    allowed = tiny.parts.template.allowed("respond")
    with torch.inference_mode():
        logits = in_transformers(tiny.parts.llm)(torch.tensor([[*prompt, *ids]])).logits[0].masked_fill(~allowed, -9e9)
    scores = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])
    assert typed["scores"][2] == pytest.approx(float(scores.mean()), abs=1e-4)
    capsys.readouterr()
    # A folder that has knowledge alone, and one gate for all that a folder has.
    assert main(["gate", f"before={tmp_path / 'text'}", f"after={tmp_path / 'units'}"]) in (0, 1)
    assert "accuracy" in capsys.readouterr().out
    assert main(["report", *map(str, folders.values()), f"output_dir={tmp_path / 'report'}"]) in (0, 2)
    assert main(["gate", f"before={tmp_path / 'text'}", f"after={made}"]) == 2  # nothing is known there


def test_letters_share_out_the_probability_at_the_reply(tmp_path: Path, tiny: SpokenDialogPipeline) -> None:
    data = questions(tmp_path / "data", "jsonl")
    assert ask(data, tmp_path / "out", "hears=text", "limit=1") == 0
    for row in items_of(tmp_path / "out"):
        assert sum(map(torch.exp, torch.tensor(row["scores"]).double())) == pytest.approx(1, abs=1e-5)
        assert row["chosen"] == max(range(4), key=row["scores"].__getitem__)
    assert len(set(letter_ids(LanguageModelChain(tiny.parts.llm, tiny.parts.template)))) == 4


def test_what_is_in_another_format_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.yaml").write_text("a: 1\n")
    with pytest.raises(InputError, match="no file of KMMLU's format"):
        read_choices(tmp_path / "empty")
    task = ["evaluate_knowledge", "knowledge=local", f"output_dir={tmp_path / 'out'}"]
    assert main([*task, f"knowledge.folder={tmp_path / 'empty'}"]) == 2
    assert "no task of lm-eval there" in capsys.readouterr().err
    (tmp_path / "empty/task.yaml").write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: absent.jsonl}}\ndoc_to_text: '{{q}}'\n"
    )
    assert main([*task, f"knowledge.folder={tmp_path / 'empty'}"]) == 2
    assert "lm-eval cannot load these tasks" in capsys.readouterr().err
    assert main(task) == 2 and main([*task, "knowledge.tasks=[none]", f"knowledge.folder={tmp_path}"]) == 2
    data = questions(tmp_path / "data")
    assert ask(data, tmp_path / "out", "hears=units") == 2
    assert "no recording of what is asked" in capsys.readouterr().err
    for column, value, told in (("answer", "5", "answer='5'"), ("C", "", "a row without C")):
        row = {"question": "q", "answer": "1", **{letter: letter for letter in LETTERS}, column: value}
        (tmp_path / "data/Law-test.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
        with pytest.raises(InputError, match=told):
            read_choices(data)


def test_columns_as_other_programs_write_them(tmp_path: Path) -> None:
    data = questions(tmp_path / "data", "jsonl")
    table = "question,A,B,C,D,answer\nhow many?,0,1,2,3,1\n"
    (data / "Law-test.jsonl").unlink()
    (data / "Law-test.csv").write_text(table, encoding="utf-8-sig")  # with a byte-order mark
    row = {"question": "how many?", "A": 0, "B": 1, "C": 2, "D": 3, "answer": 1}
    (data / "Math-test.jsonl").write_text(json.dumps(row) + "\n")
    assert {item.options for item in read_choices(data)} == {("0", "1", "2", "3")}


def test_what_was_asked_otherwise_is_asked_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = questions(tmp_path / "data"), tmp_path / "out"
    scores = []
    spoken = ["hears=units", "speaker=flite-slt"]
    for settings in (["hears=text"], ["hears=text", "quantization=int8"], spoken, [*spoken, "seed=7"]):
        assert ask(data, out, "limit=1", *settings) == 0
        scores.append([row["scores"] for row in items_of(out)])
    assert scores[0] != scores[1] and scores[2] != scores[3]
    for setting in ("limit=0", "limit=-1", "batch=0"):
        assert ask(data, out, "hears=text", setting) == 2
        assert f"{setting}: give 1 question or more" in capsys.readouterr().err
    row = {"question": "뭐 해?", "answer": "1", **{letter: "네" for letter in LETTERS}}
    (data / "Law-test.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    assert ask(data, out, *spoken) == 2
    assert "Law-00000: voices speak English here" in capsys.readouterr().err


def test_a_folder_of_own_tasks_is_asked(tmp_path: Path) -> None:
    rows = [{"q": f"user\nwhich city number {number}", "a": number % 2} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: ['yes', 'no']\n"
        "doc_to_target: '{{a}}'\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    folder = f"knowledge.folder={tmp_path / 'tasks'}"
    assert main(["evaluate_knowledge", "knowledge=local", folder, f"output_dir={tmp_path / 'out'}"]) == 0
    assert [row["subject"] for row in items_of(tmp_path / "out")] == ["mine"] * 3


def test_the_package_has_kmmlu_s_45_subjects_and_the_other_groups() -> None:
    from lm_eval.tasks import TaskManager

    tasks = Path(__import__("lm_eval").__file__).parent / "tasks"
    for folder in ("default", "direct", "hard"):
        assert len(list((tasks / "kmmlu" / folder).glob("kmmlu_*.yaml"))) == 45
    manager = TaskManager(include_defaults=False, include_path=[str(tasks / n) for n in ("kmmlu", "haerae", "kobest")])
    assert {"kmmlu", "kmmlu_direct", "kmmlu_hard", "haerae", "kobest"} <= set(manager.all_tasks)


def test_wilsons_interval_and_macro_weights() -> None:
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)  # as statsmodels has it
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    # Shares of 1/2 and 1/4: their mean is 3/8, that of all six questions 1/3.
    counted = [("a", (0.5, 0.5)), ("b", (0.0, 0.5)), ("c", (0.25, 0.25)), *((n, (0.0, 0.25)) for n in "def")]
    found = ratio_of(counted, 0)
    assert found is not None and found[0] == pytest.approx(0.375)
