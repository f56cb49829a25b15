"""`fit_rejection`: a finished model and turns of its domain -> when to say that a turn was not understood."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from usdm.chain import Question, SpokenDialogPipeline
from usdm.chain.rejection import (
    SCORES,
    Evidence,
    EvidenceReader,
    HeardTurn,
    Limits,
    Rejection,
    RejectionConfig,
    all_scores,
    heard_turn,
    weights_digest,
)
from usdm.data.extraction import unit_source
from usdm.data.user_turns import UserTurn, check_units, read_user_turns
from usdm.interleave import keyed_generator
from usdm.lm import ContinuousBatch
from usdm.metrics.out_of_domain import Gaussians, fit_gaussians, threshold_that_keeps
from usdm.runs import arguments_of, claim
from usdm.tokens import TurnContent
from usdm.training.run_folder import MODEL_FOLDER, finished
from usdm.types import InputError, Sampling

AT_ONCE = 64  # turns that are read before the next ones are heard


@dataclass(frozen=True)
class RejectionReport:
    """What it was fitted on, and the thresholds of the chain that the model was trained on."""

    train: int
    dev: int
    thresholds: dict[str, float]  # by score


def fit_rejection(
    pipeline: SpokenDialogPipeline,
    corpora: Sequence[str | Path],
    output_dir: str | Path,
    *,
    refused_dialogs: Sequence[str],
    turns: int | None,
    dev_turns: int | None,
    kept: float,
    reply: str,
    capacity: int,
    seed: int,
    overwrite: bool = False,
) -> RejectionReport:
    """Write `output_dir/model`, to be put as `rejection/` into the model's bundle.

    The states of training turns, with their own words, say what turns inside look like. Thresholds are set on dev turns
    as the model hears them, by its own transcripts, so that `kept` of them pass. Both are done for the chain that the
    model was trained on, and for typed turns.

    Args:
        corpora: unit corpora of the model's own units.
        refused_dialogs: beginnings of names of dialogs whose turns are outside; they are left out.
        turns, dev_turns: of splits "train" and "dev", drawn by the seed; None takes all.
        kept: share of the dev turns that pass, above 0 and below 1.
        reply: what is said to a turn that is refused.
        capacity: transcripts that are written at once.
        overwrite: delete what was fitted to another model, other turns or other settings.

    Raises:
        InputError: fewer than two turns of a split are left, the units are not the model's, the reply is empty, or
            `output_dir` has another fit.
    """
    if not 0 < kept < 1:
        raise InputError(f"kept={kept}: give a share between 0 and 1, such as 0.95")
    if not reply.strip():
        raise InputError(f"reply={reply!r}: give what is to be said to a turn that is refused")
    given = arguments_of(fit_rejection, locals(), but=("pipeline", "output_dir", "capacity", "overwrite"))
    llm, scales = pipeline.folders["llm"], pipeline.folders.get("scales")
    settings = {**given.settings, "sampling": asdict(_transcribing(pipeline)), "precision": pipeline.precision["llm"]}
    inputs = {**given.inputs, "llm": llm} | ({} if scales is None else {"scales": scales})
    with claim(output_dir, settings, inputs, results=[MODEL_FOLDER], overwrite=overwrite) as run:
        folder = Path(output_dir) / MODEL_FOLDER
        if not finished(run):
            check_units(corpora, unit_source(pipeline.parts.units), str(pipeline.folders["units"]))
            found = read_user_turns(corpora)
            train = _drawn(found, "train", refused_dialogs, turns, seed)
            dev = _drawn(found, "dev", refused_dialogs, dev_turns, seed)
            rejection = _fit(pipeline, train, dev, kept, reply, capacity, weights_digest(llm, scales))
            rejection.save(folder)
            run.finish({"train": len(train), "dev": len(dev)})
    stored = Rejection.load(folder, llm, scales=scales)
    layout = pipeline.parts.template.layout().name
    counts = {name: int(run.record.figures[name]) for name in ("train", "dev")}
    return RejectionReport(counts["train"], counts["dev"], dict(stored.config.limits[layout].thresholds))


def _drawn(
    found: Sequence[UserTurn], split: str, refused: Sequence[str], number: int | None, seed: int
) -> list[UserTurn]:
    """Turns inside, in drawn order. Raises InputError if there are none, or too few to say how they vary."""
    inside = [turn for turn in found if turn.split == split and not turn.dialog.startswith(tuple(refused))]
    if not inside:
        raise InputError(f"no turn of split {split!r} is left; give a corpus of the model's domain that has some")
    order = keyed_generator(seed, 0, split).permutation(len(inside))
    drawn = [inside[place] for place in (order if number is None else order[: max(number, 0)])]
    if len(drawn) < 2:
        raise InputError(f"{len(drawn)} turns of split {split!r} say nothing of how turns vary; take 2 or more")
    return drawn


def _fit(
    pipeline: SpokenDialogPipeline,
    train: Sequence[UserTurn],
    dev: Sequence[UserTurn],
    kept: float,
    reply: str,
    capacity: int,
    llm: str,
) -> Rejection:
    template = pipeline.parts.template
    reader = EvidenceReader(pipeline.parts.llm, template, reply)
    own = template.layout().name
    heard = dict(_transcripts(pipeline, dev, capacity))  # by place: two corpora may have the same ids
    limits, gaussians = {}, {}
    for layout in (own, "typed"):
        learnt = read_all(reader, (_turn(pipeline, layout, turn) for turn in train))
        gaussians[layout] = _rounded(fit_gaussians(learnt.states, torch.zeros(len(train), dtype=torch.int64)))
        typed = layout == "typed"
        judged = read_all(
            reader,
            (_turn(pipeline, layout, turn, None if typed else heard.get(place)) for place, turn in enumerate(dev)),
        )
        limits[layout] = fit_limits(judged, gaussians[layout], kept, typed)
    return Rejection(RejectionConfig(reply, kept, llm, limits), gaussians)


def read_all(reader: EvidenceReader, turns: Iterable[HeardTurn]) -> Evidence:
    """Of any number of turns of one layout."""
    parts = [reader(group) for group in _groups(list(turns))]
    return Evidence(*(torch.cat([getattr(part, name) for part in parts]) for name in Evidence.__dataclass_fields__))


def _groups(turns: list[HeardTurn]) -> Iterator[list[HeardTurn]]:
    for first in range(0, len(turns), AT_ONCE):
        yield turns[first : first + AT_ONCE]


def fit_limits(judged: Evidence, gaussians: Gaussians, kept: float, typed: bool) -> Limits:
    """On evidence of turns inside that nothing was learnt from. A typed turn has no transcript to be sure of."""
    scores = all_scores(judged, gaussians, None)
    summed = {name: values for name, values in scores.items() if not (typed and name == "log_probability")}
    means = {name: float(values.mean()) for name, values in summed.items()}
    deviations = {name: max(float(values.std()), 1e-6) for name, values in summed.items()}
    whole = all_scores(judged, gaussians, Limits(means, deviations, {}))
    thresholds = {name: threshold_that_keeps(whole[name].double().numpy(), kept) for name in SCORES}
    return Limits(means, deviations, thresholds)


def _rounded(gaussians: Gaussians) -> Gaussians:
    """As they are stored, so that thresholds hold for what is read again."""
    root = torch.linalg.cholesky(gaussians.precision.double()).half().float()
    return Gaussians(gaussians.means.half().float(), root @ root.T)


def _turn(pipeline: SpokenDialogPipeline, layout: str, turn: UserTurn, heard: Sequence[int] | None = None) -> HeardTurn:
    """With its own words, or with the transcript of the model."""
    return heard_turn(pipeline.parts.template, layout, TurnContent(turn.units, turn.text), heard)


def _transcribing(pipeline: SpokenDialogPipeline) -> Sampling:
    return pipeline.settings.sampling.get("transcribe", Sampling())


def _transcripts(
    pipeline: SpokenDialogPipeline, turns: Sequence[UserTurn], capacity: int
) -> Iterator[tuple[int, list[int]]]:
    """The ids that the model writes as transcripts, by the turns' places; none where nothing is transcribed."""
    chain = pipeline.own_chain()
    if "transcribe" not in pipeline.parts.template.layout(chain.name).stages:
        return
    sampling = {"transcribe": _transcribing(pipeline)}
    programs = ((place, chain.transcript_ids(Question(units=turn.units), sampling)) for place, turn in enumerate(turns))
    for place, ids in ContinuousBatch(pipeline.parts.llm, capacity).run(programs):
        if isinstance(ids, Exception):
            raise ids
        yield place, ids
