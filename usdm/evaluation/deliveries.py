"""Does how it was said matter? The same words said in two ways, and how far the replies move.

Of each question there are two recordings, a and b, that differ in delivery alone: rate, pitch, level, or statement
against question. A model answers each several times under different seeds, so that its replies to a and to b are two
samples of distributions; a is answered a second time under other seeds. The energy distance (Székely and Rizzo 2013)
between replies to a and to b, less that between both samples of a, is what the delivery moves: 0 in the mean where it
does not matter. Texts differ by the share of words that they do not have in common; prosodies by their distance in
F0 mean and range, level, rate and pauses, each in units of its deviation over all replies.

All of it is done with units and with the transcript alone: the same model answers the words that it heard in the same
recording, typed. What moves there moves by way of what was heard; what moves beyond it moves by way of the units.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from usdm.audio import read_audio, write_audio
from usdm.chain import SpokenDialogPipeline
from usdm.chain.requests import SynthesisRequest
from usdm.chain.synthesis import synthesize
from usdm.evaluation.result_lines import Progress
from usdm.metrics.facts import surroundings
from usdm.metrics.intervals import MeanGap, mean_gap
from usdm.metrics.prosody import contours, prosody, vector
from usdm.metrics.table import NONE, markdown_table
from usdm.metrics.text import scored_words
from usdm.runs import KeptAnswers, digest, read_lines
from usdm.types import InputError, Sampling, Waveform

Way = Literal["rate", "pitch", "level", "question"]
Input = Literal["units", "transcript"]
SAMPLES = ("a", "again", "b")  # sets of replies: to one delivery, to the same under other seeds, to the other delivery
SEEDS_APART = 1000


@dataclass(frozen=True)
class Delivery:
    """The same words said in two ways."""

    id: str
    way: str
    cluster: str  # pairs of the same words are drawn together
    a: Waveform
    b: Waveform


@dataclass(frozen=True)
class Movement:
    """Of one way, by one input: how far replies move between deliveries, beyond what two samples of one move."""

    way: str
    input: str
    of: str  # text or prosody
    between_deliveries: float  # mean energy distance
    between_seeds: float
    moved: MeanGap  # the first minus the second
    items: int
    failed: int  # items with a set of fewer than two replies


@dataclass(frozen=True)
class DeliveryTable:
    movements: tuple[Movement, ...]
    heard_otherwise: Mapping[str, float]  # by way: share of items whose two deliveries have different transcripts
    facts: Mapping[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def to_markdown(self) -> str:
        rows = []
        for each in self.movements:
            moved = f"{each.moved.gap:+.3f} ({each.moved.low:+.3f} to {each.moved.high:+.3f})" if each.items else NONE
            distances = f"{each.between_deliveries:.3f}", f"{each.between_seeds:.3f}"
            rows.append([each.way, each.input, each.of, *distances, moved, str(each.items), str(each.failed)])
        header = ["way", "input", "of replies", "deliveries", "seeds", "moved (95 %)", "n", "failed"]
        heard = ", ".join(f"{way} {share:.0%}" for way, share in self.heard_otherwise.items())
        facts = "\n".join(f"- {name}: {value}" for name, value in self.facts.items() if isinstance(value, str | int))
        return f"{markdown_table(header, rows)}\n\nHeard in other words when said otherwise: {heard}.\n\n{facts}\n"


def compare_deliveries(
    pipeline: SpokenDialogPipeline,
    deliveries: Sequence[Delivery],
    output_dir: str | Path,
    *,
    samples: int,
    temperature: float,
    capacity: int = 32,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> DeliveryTable:
    """Replies go to `units/` and `transcript/` below `output_dir`, and are made once.

    Args:
        samples: replies of each set, 2 or more.
        temperature: of the stages that write and speak the reply; the transcript is the likeliest one.

    Raises:
        InputError: there is nothing to vary, or the folder has replies to other recordings or of other settings.
    """
    if samples < 2 or temperature <= 0:
        raise InputError(f"samples={samples}, temperature={temperature}: distributions need 2 or more, and above 0")
    folder = Path(output_dir)
    drawn = {
        stage: replace(pipeline.settings.sampling.get(stage, Sampling()), temperature=temperature, num_beams=1)
        for stage in ("respond", "speak")
    }
    requests = [request for each in deliveries for request in _requests(each, folder / "questions", samples, seed)]
    replies: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name in ("units", "transcript"):
        if name == "transcript":
            requests = [typed for request in requests for typed in _typed(request, replies["units"][request.id])]
        if requests:
            synthesize(
                pipeline,
                requests,
                folder / name,
                sampling=_greedy_ears(pipeline) | drawn,
                capacity=capacity,
                seed=seed,
                overwrite=overwrite,
                progress=lambda done, total, _: progress(done, total),
            )
        replies[name] = {row["id"]: row for row in read_lines(folder / name / "results.jsonl")}
    with KeptAnswers(folder / "prosody.jsonl") as kept:
        prosodies = {name: _prosodies(folder / name, rows, kept) for name, rows in replies.items()}
    ways = list(dict.fromkeys(each.way for each in deliveries))
    movements = [
        movement
        for way in ways
        for name in replies
        for movement in _movements(
            way, name, [each for each in deliveries if each.way == way], samples, replies[name], prosodies[name], seed
        )
    ]
    facts = {
        "model": pipeline.fingerprint,
        "samples": samples,
        "temperature": str(temperature),
        "transcript": "the model's own, of the same recording",
        "seed": seed,
        **surroundings(),
    }
    return DeliveryTable(tuple(movements), _heard_otherwise(deliveries, replies["units"]), facts)


def _greedy_ears(pipeline: SpokenDialogPipeline) -> dict[str, Sampling]:
    return {"transcribe": pipeline.settings.sampling.get("transcribe", Sampling())}


def _requests(delivery: Delivery, folder: Path, samples: int, seed: int) -> Iterator[SynthesisRequest]:
    for place, name in enumerate(SAMPLES):
        sound = delivery.b if name == "b" else delivery.a
        content = digest([sound.sample_rate, float(sound.samples.double().abs().sum()), len(sound.samples)])[:8]
        path = folder / f"{delivery.id}-{'b' if name == 'b' else 'a'}-{content}.wav"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, sound.samples, sound.sample_rate)
        for number in range(samples):
            drawn = seed + SEEDS_APART * place + number
            yield SynthesisRequest(_name(delivery, name, number), audio=path.resolve(), seed=drawn)


def _name(delivery: Delivery, sample: str, number: int) -> str:
    return f"{delivery.id}-{sample}-{number}"


def _typed(request: SynthesisRequest, row: Mapping[str, Any]) -> Iterator[SynthesisRequest]:
    """The same question as the words that were heard in it; nothing where none were."""
    if row["user_text"] and row["user_text"].strip():
        yield SynthesisRequest(request.id, text=row["user_text"], seed=request.seed)


def _prosodies(
    folder: Path, rows: Mapping[str, Mapping[str, Any]], kept: KeptAnswers
) -> dict[str, NDArray[np.float64]]:
    """(5,) of each reply with sound."""
    found: dict[str, NDArray[np.float64]] = {}
    for name, row in rows.items():
        if row["error"] is None:
            asked = [row["request"], folder.name, row["agent_text"], row["seconds"]]
            found[name] = np.asarray(kept.get(asked, partial(_vector, folder, row)), np.float64)
    return found


def _vector(folder: Path, row: Mapping[str, Any]) -> list[float]:
    words = None if row["agent_text"] is None else len(scored_words(row["agent_text"]))
    return vector(prosody(contours(read_audio(folder / f"{row['id']}.wav")), words))


def _movements(
    way: str,
    name: str,
    deliveries: Sequence[Delivery],
    samples: int,
    rows: Mapping[str, Mapping[str, Any]],
    prosodies: Mapping[str, NDArray[np.float64]],
    seed: int,
) -> Iterator[Movement]:
    spread = _spread(list(prosodies.values()))
    texts = {key: row["agent_text"] for key, row in rows.items() if row["error"] is None and row["agent_text"]}
    kinds: list[tuple[str, Mapping[str, Any], Callable[[Any, Any], float]]] = [
        ("text", texts, text_distance),
        ("prosody", prosodies, lambda a, b: prosody_distance(a, b, spread)),
    ]
    for of, values, distance in kinds:
        between, within, clusters = [], [], []
        for each in deliveries:
            sets = [
                [values[key] for number in range(samples) if (key := _name(each, sample, number)) in values]
                for sample in SAMPLES
            ]
            if min(map(len, sets)) < 2:
                continue
            between.append(energy_distance(sets[0], sets[2], distance))
            within.append(energy_distance(sets[0], sets[1], distance))
            clusters.append(each.cluster)
        if between:
            moved = mean_gap(between, within, clusters, seed)
            means = float(np.mean(between)), float(np.mean(within))
            yield Movement(way, name, of, *means, moved, len(between), len(deliveries) - len(between))


def energy_distance(ours: Sequence[Any], theirs: Sequence[Any], distance: Callable[[Any, Any], float]) -> float:
    """Twice the mean distance across, less the mean distances within either; its mean is 0 for equal distributions."""
    across = float(np.mean([distance(a, b) for a in ours for b in theirs]))
    inside = [
        float(np.mean([distance(a, b) for i, a in enumerate(side) for b in side[i + 1 :]])) for side in (ours, theirs)
    ]
    return 2 * across - sum(inside)


def text_distance(ours: str, theirs: str) -> float:
    """Share of words that the two do not have in common, 0 to 1, each as often as it stands there."""
    mine, its = Counter(scored_words(ours)), Counter(scored_words(theirs))
    total = mine.total() + its.total()
    return 1 - 2 * (mine & its).total() / total if total else 0.0


def prosody_distance(ours: NDArray[np.float64], theirs: NDArray[np.float64], spread: NDArray[np.float64]) -> float:
    """Euclidean, over what both have."""
    apart = (ours - theirs) / spread
    known = ~np.isnan(apart)
    return float(np.sqrt(np.mean(np.square(apart[known])))) if known.any() else 0.0


def _spread(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    if not values:
        return np.ones(5)
    rows = np.stack(values)
    with np.errstate(all="ignore"):
        spread = np.array([np.std(column[~np.isnan(column)]) if (~np.isnan(column)).any() else 1 for column in rows.T])
    return np.where(spread > 0, spread, 1.0)


def _heard_otherwise(deliveries: Sequence[Delivery], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    shares: defaultdict[str, list[bool]] = defaultdict(list)
    for each in deliveries:
        heard = [rows[_name(each, sample, 0)]["user_text"] for sample in ("a", "b")]
        shares[each.way].append(heard[0] != heard[1])
    return {way: float(np.mean(own)) for way, own in shares.items()}
