"""Predictions: what a system makes of every question of a held-out set, made once and kept in a folder.

The folder has `references.jsonl` (the set), `results.jsonl` (a line an item), `<id>.wav` (the reply), and `run.json`
(what all of it depends on). A run that was stopped goes on where it was; what exists can be scored at any time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from usdm.audio import resample
from usdm.chain import SpokenDialogPipeline
from usdm.chain.choosing import MakeChooser, chain_of
from usdm.chain.requests import SynthesisRequest
from usdm.chain.synthesis import synthesize
from usdm.chain.synthesis_results import RESULTS_FILE, SHARDS_FOLDER
from usdm.evaluation.held_out import HeldOutItem
from usdm.evaluation.result_lines import Progress
from usdm.metrics.figures import Prediction, Reference
from usdm.runs import read_lines, write_text
from usdm.types import InputError

REFERENCES_FILE = "references.jsonl"
EARLIER_STAGES = ("cascade/heard.jsonl", "cascade/replies.jsonl")  # of a cascade, with the seconds that they took

Given = Literal["transcript", "reply", "units"]  # what a system is told, up to there


class System(Protocol):
    """Anything that answers questions with speech."""

    def predict(
        self, requests: Sequence[SynthesisRequest], folder: Path, *, overwrite: bool, progress: Progress
    ) -> None:
        """Write `<id>.wav` and a line of `results.jsonl` for each request that the folder does not have yet."""


@dataclass(frozen=True)
class ChainSystem:
    """A model by one of its chains; None is the one that it was trained on."""

    pipeline: SpokenDialogPipeline
    chain: str | None = None
    seed: int = 0
    capacity: int = 8  # sequences that the language model writes at once
    retry_errors: bool = False
    candidates: int = 1  # answers that are sampled, of which `choose` takes the best
    choose: MakeChooser | None = None

    def predict(
        self, requests: Sequence[SynthesisRequest], folder: Path, *, overwrite: bool, progress: Progress
    ) -> None:
        synthesize(
            self.pipeline,
            requests,
            folder,
            chain=chain_of(self.pipeline.own_chain(self.chain), self.candidates, self.choose),
            seed=self.seed,
            capacity=self.capacity,
            retry_errors=self.retry_errors,
            overwrite=overwrite,
            progress=lambda done, total, _: progress(done, total),
        )


def predict(
    system: System,
    items: Sequence[HeldOutItem],
    folder: str | Path,
    *,
    given: Given | None = None,
    units: SpokenDialogPipeline | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> None:
    """Let a system answer every item, exactly once.

    Args:
        given: what the system is told instead of finding it out: the transcript, also the reply in words, or the
            units of the reference reply.
        units: whose unit tokenizer makes these last ones.
        overwrite: delete predictions of another system, settings or set.

    Raises:
        InputError: the folder has other predictions, or of other items. An item that fails does not raise: its line
            says why under `error`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_references(folder / REFERENCES_FILE, items, overwrite)
    system.predict([_request(item, given, units) for item in items], folder, overwrite=overwrite, progress=progress)


def read_references(folder: str | Path) -> dict[str, Reference]:
    """The set, by id. Raises InputError if the folder has no predictions."""
    path = Path(folder) / REFERENCES_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a folder that `usdm predict` or `usdm evaluate` has written")
    references = {}
    for row in read_lines(path):
        row.pop("digest")
        row |= {name: Path(row[name]) for name in ("user_audio", "agent_audio")}
        references[row["id"]] = Reference(**row)
    return references


def read_predictions(folder: str | Path) -> dict[str, Prediction]:
    """What is there by now, by id. A reply without units is a prediction without sound, not a failure."""
    folder = Path(folder)
    earlier: dict[str, dict[str, float]] = {}
    for name in EARLIER_STAGES:
        for row in read_lines(folder / name):
            earlier.setdefault(row["id"], {})[row["stage"]] = row["seconds"]
    predictions = {}
    for path in (folder / RESULTS_FILE, *sorted((folder / SHARDS_FOLDER).glob("*.jsonl"))):
        for row in read_lines(path):
            predictions[row["id"]] = _prediction(folder, row, earlier.get(row["id"], {}))
    return predictions


def _prediction(folder: Path, row: Mapping[str, Any], earlier: Mapping[str, float]) -> Prediction:
    is_silent = row["agent_units"] == []
    return Prediction(
        id=row["id"],
        user_text=row["user_text"],
        agent_text=row["agent_text"],
        audio=None if row["error"] is not None else folder / f"{row['id']}.wav",
        seconds=row["seconds"],
        recognised="" if is_silent else None,
        timings={**earlier, **row["timings"]},
        truncated=tuple(row["truncated"]),
        error=None if is_silent else row["error"],
    )


def _request(item: HeldOutItem, given: Given | None, units: SpokenDialogPipeline | None) -> SynthesisRequest:
    if item.user.start is not None or item.user.channel is not None:
        raise InputError(f"{item.id}: a part of a longer file; import the corpus with files of its own for each turn")
    user_text, agent_text = item.references
    if given == "units":
        assert units is not None
        return SynthesisRequest(item.id, units=tuple(_units(units, item)))
    return SynthesisRequest(
        item.id,
        audio=item.user.audio.resolve(),
        history=item.history,
        transcript=user_text if given is not None else None,
        reply=agent_text if given == "reply" else None,
    )


def _units(pipeline: SpokenDialogPipeline, item: HeldOutItem) -> Iterator[int]:
    extractor, sound = pipeline.parts.units, item.agent.read()
    (units,) = extractor([resample(sound.samples, sound.sample_rate, extractor.sample_rate)])
    yield from units.tolist()


def _write_references(path: Path, items: Sequence[HeldOutItem], overwrite: bool) -> None:
    rows = [_reference_row(item) for item in items]
    now = {row["id"]: row["digest"] for row in rows}
    if len(now) < len(rows):
        raise InputError(f"{len(rows)} items have {len(now)} different ids; ids name files, so make them differ")
    changed = [row["id"] for row in read_lines(path) if now.get(row["id"]) != row["digest"]]
    if changed and not overwrite:
        raise InputError(
            f"{path.parent}: has predictions for {len(changed)} items that are others now, or not asked for any more "
            f"(another limit or held_out asks for others): {', '.join(changed[:5])}; give another output_dir, "
            "or overwrite=true to delete them"
        )
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _reference_row(item: HeldOutItem) -> dict[str, Any]:
    user_text, agent_text = item.references
    reference = Reference(item.id, item.dialog, item.user.speaker, user_text, agent_text, item.user.duration)
    row = asdict(reference)
    del row["user_recognised"], row["agent_recognised"]
    digest = hashlib.sha256(json.dumps([row, [asdict(turn) for turn in item.history]], default=str).encode())
    for audio in (item.user.audio, item.agent.audio):
        if audio.is_file():
            digest.update(audio.read_bytes())
    paths = {"user_audio": str(item.user.audio.resolve()), "agent_audio": str(item.agent.audio.resolve())}
    return {**row, **paths, "digest": digest.hexdigest()[:16]}


def reference_digests(folder: str | Path) -> dict[str, str]:
    """What each item depends on, by id: items of two folders are the same if these are."""
    return {row["id"]: row["digest"] for row in read_lines(Path(folder) / REFERENCES_FILE)}
