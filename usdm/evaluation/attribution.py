"""Where a reply broke: each stage's outcome is replaced by what it should have been, one stage after the other.

An item's error is 1 - ROUGE-L between the reference reply and what the judge hears in the spoken one. Given the true
transcript, the error that goes is of hearing; given the reply too, of thinking; given the units of the recorded reply,
of saying it in units; what a recording itself would leave, the judge's own errors, is taken off what is left, and the
rest is of decoding the units.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usdm.asr.recogniser import Recogniser, RememberingRecogniser
from usdm.chain import SpokenDialogPipeline
from usdm.evaluation.held_out import HeldOutItem
from usdm.evaluation.predictions import Given, System, predict, read_predictions, read_references
from usdm.evaluation.result_lines import Progress
from usdm.evaluation.scorecard import read_scored, score
from usdm.metrics.figures import Metric, Prediction, Reference, Value, ratio
from usdm.metrics.intervals import ratio_of
from usdm.metrics.rouge_l import rouge_l
from usdm.metrics.table import NONE, markdown_table
from usdm.runs import write_text
from usdm.types import InputError

RUNS: Mapping[str, Given | None] = {"own": None, "transcript": "transcript", "reply": "reply", "units": "units"}
STAGES = ("heard wrong", "thought wrong", "said wrong", "decoded wrong", "judged wrong")  # what each run takes away
WORST = 10


class _Errors:
    """1 - ROUGE-L of the reply as it is heard, and of the recorded one."""

    about = "1 - ROUGE-L to the reference reply, as the judge hears it"
    lower_is_better = True

    def __call__(self, prediction: Prediction, reference: Reference) -> Mapping[str, Value]:
        heard = {"error": prediction.recognised, "recording_error": reference.agent_recognised}
        return {name: None if text is None else 1 - rouge_l(reference.agent_text, text) for name, text in heard.items()}


@dataclass(frozen=True)
class StageShare:
    """One stage's part of all errors, as a fraction; below zero where the true input makes things worse."""

    share: float
    low: float  # 95 % interval
    high: float


@dataclass(frozen=True)
class BrokenItem:
    """An item with a large error, and what each stage has of it."""

    id: str
    error: float  # 0..1
    stages: Mapping[str, float]
    user_text: str
    transcript: str | None
    reference: str
    reply: str | None
    audio: str | None  # the spoken reply


@dataclass(frozen=True)
class Attribution:
    stages: Mapping[str, StageShare]
    error: float  # mean over items
    items: int
    left_out: int  # failed, or not judged, in one of the runs
    worst: tuple[BrokenItem, ...]
    facts: Mapping[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        rows = [
            [name, f"{100 * each.share:.1f} %", f"{100 * each.low:.1f} to {100 * each.high:.1f} %"]
            for name, each in self.stages.items()
        ]
        worst = [
            [each.id, f"{each.error:.2f}", max(each.stages, key=lambda name: each.stages[name]), each.user_text]
            + [each.transcript or NONE, each.reference, each.reply or NONE, each.audio or NONE]
            for each in self.worst
        ]
        header = ["item", "error", "mostly", "user", "heard", "reference", "reply", "sound"]
        note = (
            f"Of all errors of {self.items} items (mean {self.error:.3f}; {_Errors.about}); {self.left_out} items that "
            "failed or were not judged in one of the runs are left out. Intervals are 95 % (bootstrap over dialogs). "
            f"Judge: {self.facts['judge']}. Seed {self.facts['seed']}."
        )
        tables = [markdown_table(["stage", "of the errors", "95 %"], rows), markdown_table(header, worst)]
        return "\n\n".join([*tables, note]) + "\n"


def attribute_errors(
    system: System,
    pipeline: SpokenDialogPipeline,
    items: Sequence[HeldOutItem],
    folder: str | Path,
    asr: Recogniser,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[str], Progress] = lambda name: lambda done, total: None,
) -> Attribution:
    """Ask a system four times, told more each time, and say which stage its errors come from.

    Writes a folder of predictions and scores for each run, `attribution.json` and `attribution.md`.

    Args:
        system: a chain that transcribes and writes its reply.
        pipeline: whose units the recorded replies are turned into.

    Raises:
        InputError: no item has come through all runs without failing, or there are no errors to attribute.
    """
    folder, judge = Path(folder), RememberingRecogniser(asr)
    metrics: dict[str, Metric] = {"errors": _Errors()}
    found: dict[str, dict[str, Mapping[str, Value]]] = {}
    for name, given in RUNS.items():
        predict(system, items, folder / name, given=given, units=pipeline, overwrite=overwrite, progress=progress(name))
        score(folder / name, judge, metrics, seed=seed)
        found[name] = {item.id: item.values for item in read_scored(folder / name).items}
    errors = {item.id: values for item in items if (values := _errors(item.id, found)) is not None}
    if not errors or not sum(each[0] for each in errors.values()):
        raise InputError(f"{folder}: of {len(items)} items none has an error that could be followed through all stages")
    attribution = _attribution(folder, items, errors, {"judge": asr.name, "seed": seed})
    write_text(folder / "attribution.json", attribution.to_json())
    write_text(folder / "attribution.md", attribution.to_markdown())
    return attribution


def _errors(key: str, found: Mapping[str, Mapping[str, Mapping[str, Value]]]) -> list[float] | None:
    """Of each run in order, then of the recording; None where one is missing."""
    values = [found[name].get(key, {}).get("error") for name in RUNS]
    values.append(found["own"].get(key, {}).get("recording_error"))
    known = [ratio(value).part for value in values if value is not None]
    return known if len(known) == len(values) else None


def _attribution(
    folder: Path, items: Sequence[HeldOutItem], errors: Mapping[str, list[float]], facts: Mapping[str, Any]
) -> Attribution:
    dialogs = {item.id: item.dialog for item in items}
    parts = {key: _parts(values) for key, values in errors.items()}
    shares = {}
    for stage in STAGES:
        counted = [(dialogs[key], (parts[key][stage], values[0])) for key, values in errors.items()]
        found = ratio_of(counted, facts["seed"])
        assert found is not None  # there are errors
        shares[stage] = StageShare(*found)
    predictions, references = read_predictions(folder / "own"), read_references(folder / "own")
    worst = sorted((key for key in errors if errors[key][0] > 0), key=lambda key: -errors[key][0])[:WORST]
    return Attribution(
        stages=shares,
        error=sum(values[0] for values in errors.values()) / len(errors),
        items=len(errors),
        left_out=len(items) - len(errors),
        worst=tuple(_broken(predictions[key], references[key], errors[key][0], parts[key]) for key in worst),
        facts=facts,
    )


def _parts(values: Sequence[float]) -> dict[str, float]:
    """What each stage has of an item's error; they add up to it."""
    return {stage: now - after for stage, now, after in zip(STAGES, values, [*values[1:], 0.0], strict=True)}


def _broken(prediction: Prediction, reference: Reference, error: float, parts: Mapping[str, float]) -> BrokenItem:
    return BrokenItem(
        id=prediction.id,
        error=error,
        stages=parts,
        user_text=reference.user_text,
        transcript=prediction.user_text,
        reference=reference.agent_text,
        reply=prediction.agent_text,
        audio=None if prediction.audio is None else f"own/{prediction.audio.name}",
    )
