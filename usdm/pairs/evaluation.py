"""How often a language model of units finds the better sound of a pair likelier."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from usdm.audio import read_audio
from usdm.chain import SpokenDialogPipeline
from usdm.lm import log_probabilities, max_positions
from usdm.metrics.facts import surroundings
from usdm.metrics.intervals import Mean, ratio_of
from usdm.metrics.table import markdown_table
from usdm.pairs.layouts import Pair
from usdm.runs import JsonLines, KeptAnswers
from usdm.types import InputError

Scoring = Literal["mean", "sum"]  # of the units' log-probabilities
LIKELIHOODS, PAIRS = "likelihoods.jsonl", "pairs.jsonl"
TIE = 1e-6  # relative; nearer likelihoods are the same but for rounding


@dataclass(frozen=True)
class Likelihood:
    """Of one sound: the sum of the log-probabilities of its units but the first, and their number."""

    total: float
    units: int

    def score(self, scoring: Scoring) -> float:
        return self.total if scoring == "sum" else self.total / self.units


@dataclass(frozen=True)
class PairFigure:
    """Accuracy over the pairs of a subset: the mean over clusters of the mean over their pairs."""

    subset: str
    accuracy: Mean
    ties: int  # each counts one half
    failed: int  # pairs with a sound that could not be scored; they are not counted


@dataclass(frozen=True)
class PairScores:
    name: str
    figures: tuple[PairFigure, ...]
    failures: tuple[str, ...]  # "pair: why"
    facts: Mapping[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def to_markdown(self) -> str:
        rows = []
        for figure in self.figures:
            found = figure.accuracy
            interval = f"{found.low:.3f} to {found.high:.3f}"
            counts = map(str, (found.items, figure.ties, figure.failed))
            rows.append([figure.subset, f"{found.mean:.3f}", interval, *counts])
        table = markdown_table(["pairs", "accuracy", "95 %", "n", "ties", "failed"], rows)
        facts = "\n".join(f"- {name}: {value}" for name, value in self.facts.items() if isinstance(value, str | int))
        return f"# {self.name}\n\n{table}\n\n{facts}\n"


def evaluate_pairs(
    pipeline: SpokenDialogPipeline,
    name: str,
    pairs: Sequence[Pair],
    output_dir: str | Path,
    *,
    scoring: Scoring = "mean",
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PairScores:
    """Units by the model's own tokenizer after what its sequences begin with, `batch` sounds at once.

    Probabilities are shared out among units alone, and the first unit, which nothing comes before, is not scored. What
    was scored once, under the same model, is kept. A pair with a sound that cannot be scored is counted as failed.

    Raises InputError for an unknown scoring.
    """
    if scoring not in ("mean", "sum"):
        raise InputError(f"scoring={scoring!r}: there are mean and sum")
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    sounds = list(dict.fromkeys(path for pair in pairs for path in (pair.better, pair.worse)))
    with KeptAnswers(folder / LIKELIHOODS) as kept:
        found: dict[Path, Likelihood | str] = {}
        for start in range(0, len(sounds), batch):
            found |= _likelihoods(pipeline, sounds[start : start + batch], kept)
            progress(len(found), len(sounds))
    rows, failures = [], []
    for pair in pairs:
        better, worse = found[pair.better], found[pair.worse]
        wrong = [each for each in (better, worse) if isinstance(each, str)]
        if isinstance(better, Likelihood) and isinstance(worse, Likelihood):
            rows.append((pair, _won(better.score(scoring), worse.score(scoring))))
        else:
            failures.append(f"{pair.id}: {wrong[0]}")
    _write(folder / PAIRS, pairs, found)
    failed = Counter(subset for pair in pairs if _is_lost(pair, found) for subset in pair.subsets)
    vocabulary = pipeline.parts.template.vocabulary
    facts = {
        "score": f"{scoring} of the units' log-probabilities",
        "sequence": f"{len(vocabulary.start_ids)} start ids, then units at {pipeline.parts.units.unit_rate:g} Hz",
        "model": pipeline.fingerprint,
        "seed": seed,
        **surroundings(),
    }
    return PairScores(name, tuple(_figures(rows, failed, seed)), tuple(failures), facts)


def _is_lost(pair: Pair, found: Mapping[Path, Likelihood | str]) -> bool:
    return any(isinstance(found[path], str) for path in (pair.better, pair.worse))


def _won(better: float, worse: float) -> float:
    if abs(better - worse) <= TIE * max(abs(better), abs(worse)):
        return 0.5
    return float(better > worse)


def _likelihoods(
    pipeline: SpokenDialogPipeline, paths: Sequence[Path], kept: KeptAnswers
) -> dict[Path, Likelihood | str]:
    """Of each sound, or why there is none."""
    model = [pipeline.fingerprint, pipeline.precision["llm"]]
    asked = {path: [*model, hashlib.sha256(path.read_bytes()).hexdigest()] for path in paths}
    new = {path: units for path in paths if not kept.has(asked[path]) for units in [_units(pipeline, path)]}
    vocabulary = pipeline.parts.template.vocabulary
    first = len(vocabulary.start_ids) + 1
    found: dict[Path, Likelihood | str] = {}
    sequences: dict[Path, list[int]] = {}
    limit = max_positions(pipeline.parts.llm)
    for path, units in new.items():
        if isinstance(units, str):
            found[path] = units
            continue
        ids = [*vocabulary.start_ids, *vocabulary.encode_units(units).tolist()]
        if len(ids) <= first:
            found[path] = f"{len(units)} units: the second and later ones are scored, so it is too short"
        elif limit is not None and len(ids) > limit:
            found[path] = f"{len(ids)} ids: the model has {limit} positions"
        else:
            sequences[path] = ids
    scored = log_probabilities(pipeline.parts.llm, list(sequences.values()), vocabulary.unit_mask, first)
    for path, values in zip(sequences, scored, strict=True):
        kept.keep(asked[path], [float(values.double().sum()), len(values)])
    return found | {path: Likelihood(*kept.get(asked[path], list)) for path in paths if path not in found}


def _units(pipeline: SpokenDialogPipeline, path: Path) -> Tensor | str:
    """Of a sound, or why it has none."""
    extractor = pipeline.parts.units
    try:
        (units,) = extractor([read_audio(path, extractor.sample_rate).samples])
    except InputError as error:
        return str(error)
    return units


def _figures(rows: Sequence[tuple[Pair, float]], failed: Mapping[str, int], seed: int) -> Iterator[PairFigure]:
    groups: defaultdict[str, list[tuple[Pair, float]]] = defaultdict(list)
    for pair, won in rows:
        for subset in pair.subsets:
            groups[subset].append((pair, won))
    for subset, own in groups.items():
        voices = Counter(pair.cluster for pair, _ in own)
        weights = [1 / voices[pair.cluster] for pair, _ in own]
        counted = [(pair.cluster, (won * weight, weight)) for (pair, won), weight in zip(own, weights, strict=True)]
        found = ratio_of(counted, seed)
        assert found is not None
        yield PairFigure(subset, Mean(*found, len(own)), sum(won == 0.5 for _, won in own), failed.get(subset, 0))


def _write(path: Path, pairs: Sequence[Pair], found: Mapping[Path, Likelihood | str]) -> None:
    def told(sound: Path) -> Any:
        value = found[sound]
        return {"error": value} if isinstance(value, str) else asdict(value)

    rows = [
        {"id": pair.id, "subsets": pair.subsets, "better": told(pair.better), "worse": told(pair.worse)}
        for pair in pairs
    ]
    with JsonLines(path) as lines:
        lines.replace(rows)
