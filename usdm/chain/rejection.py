"""Refusing a turn that a model was not made for: the reply is one that says so, instead of a guess.

What is judged is the turn alone, without those before it, when its words are known and nothing of the reply is. One
forward reads it and, after it, the refusal: it gives the states after the words, how sure the model was of the words
that it heard, and how likely it would refuse by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from usdm.checkpoint import CONFIG_FILE, WEIGHTS_FILE, make_readable, read_config, read_weights
from usdm.lm import LanguageModel
from usdm.lm.reader import SequenceReader
from usdm.metrics.out_of_domain import Gaussians
from usdm.runs import content_digest, digest
from usdm.tokens import DialogTemplate, TurnContent
from usdm.types import InputError

REJECTION_FOLDER = "rejection"  # in a model's bundle
SCORES = ("mahalanobis", "log_probability", "refusal", "combined")


@dataclass(frozen=True)
class Refusing:
    """What a user asks for; see `usdm.chain.SpokenDialogPipeline.refuse_by`."""

    score: str | None = None  # one of `SCORES`; None: every turn is answered
    folder: str | Path | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class HeardTurn:
    """Ids of one turn alone, up to the reply."""

    layout: str
    ids: tuple[int, ...]
    transcript: slice  # of `ids`: the words that were heard and the id that ends them; empty of a typed turn


@dataclass(frozen=True)
class Evidence:
    """What the language model makes of N turns of one layout."""

    states: Tensor  # (N, width) float32: means over the words of the turn and what follows them
    transcripts: Tensor  # (N,) log-probability of what was heard; 0 of typed turns
    refusals: Tensor  # (N,) log-probability of the refusal as the reply


@dataclass(frozen=True)
class Limits:
    """Of one layout: what turns inside look like, on turns that nothing was learnt from."""

    means: Mapping[str, float]  # by score, all but "combined"
    deviations: Mapping[str, float]
    thresholds: Mapping[str, float]  # by score: a turn below it is refused


@dataclass(frozen=True)
class RejectionConfig:
    """`config.json`, key by key."""

    reply: str  # what is said to a turn that is refused
    kept: float  # share of turns inside that the thresholds let pass
    llm: str  # digest of the language model's weights, and of the scales of a task
    limits: Mapping[str, Limits]  # by layout


@dataclass(frozen=True)
class Rejection:
    """Decides by one of `SCORES` whether a turn is refused.

    Args:
        gaussians: of the states of turns inside, by layout.
        score: by which it decides.
        threshold: instead of the fitted one; None: that one.
    """

    config: RejectionConfig
    gaussians: Mapping[str, Gaussians]
    score: str = "combined"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise InputError(f"reject={self.score}: there are {', '.join(SCORES)}, and none")

    def check_layout(self, layout: str) -> None:
        """Raises InputError for a chain that it was not fitted for."""
        if layout not in self.config.limits:
            raise InputError(
                f"chain={layout}: turns are refused in {', '.join(self.config.limits)} alone; take reject=none, or fit "
                "it for this chain with usdm fit_rejection"
            )

    def refuses(self, reader: EvidenceReader, turn: HeardTurn) -> bool:
        """Whether the refusal is the reply."""
        score = float(self.scores(turn.layout, reader([turn]))[0])
        limit = self.config.limits[turn.layout].thresholds[self.score] if self.threshold is None else self.threshold
        return score < limit

    def scores(self, layout: str, evidence: Evidence) -> Tensor:
        """(N,), the higher, the more inside."""
        return all_scores(evidence, self.gaussians[layout], self.config.limits[layout])[self.score]

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent=1) + "\n", encoding="utf-8")
        tensors: dict[str, Tensor] = {}
        for layout, gaussians in self.gaussians.items():
            root = torch.linalg.cholesky(gaussians.precision.double())
            rows, columns = torch.tril_indices(*root.shape)
            tensors |= {f"{layout}.means": gaussians.means.half(), f"{layout}.root": root[rows, columns].half()}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)
        make_readable(folder)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        llm: str | Path,
        score: str = "combined",
        threshold: float | None = None,
        scales: str | Path | None = None,
    ) -> Rejection:
        """Raises InputError if there is none, it is damaged, or was fitted to another language model than `llm` under
        `scales`."""
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(
                f"{folder}: this model cannot tell turns outside its domain; fit that with usdm fit_rejection, or take "
                "reject=none"
            )
        stored = read_config(folder)
        try:
            limits = {layout: Limits(**values) for layout, values in stored.pop("limits").items()}
            config = RejectionConfig(**stored, limits=limits)
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{folder / CONFIG_FILE}: says nothing of what is to be refused ({error!r})") from error
        if weights_digest(llm, scales) != config.llm:
            named = llm if scales is None else f"{llm} under {scales}"
            raise InputError(
                f"{folder}: it was fitted to another language model than {named}; fit one for it with "
                "usdm fit_rejection"
            )
        tensors = read_weights(folder)
        try:
            gaussians = {layout: _gaussians(tensors, layout) for layout in limits}
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{folder / WEIGHTS_FILE}: does not fit {CONFIG_FILE} beside it ({error})") from error
        return cls(config, gaussians, score, threshold)


def weights_digest(llm: str | Path, scales: str | Path | None = None) -> str:
    """Of a language model's weights, whatever else lies in its folder, and of the scales of a task on it."""
    paths = [*sorted(Path(llm).glob("*.safetensors")), *([] if scales is None else [Path(scales)])]
    return digest([content_digest(path) for path in paths])


def _gaussians(tensors: Mapping[str, Tensor], layout: str) -> Gaussians:
    means, packed = tensors[f"{layout}.means"].float(), tensors[f"{layout}.root"].float()
    width = means.shape[1]
    root = torch.zeros(width, width)
    rows, columns = torch.tril_indices(width, width)
    root[rows, columns] = packed
    return Gaussians(means, root @ root.T)


def all_scores(evidence: Evidence, gaussians: Gaussians, limits: Limits | None) -> dict[str, Tensor]:
    """(N,) each. Without `limits` all but "combined"."""
    scores = {
        "mahalanobis": gaussians.scores(evidence.states),
        "log_probability": evidence.transcripts,
        "refusal": -evidence.refusals,
    }
    if limits is not None:
        units = [(scores[name] - limits.means[name]) / limits.deviations[name] for name in limits.means]
        scores["combined"] = torch.stack(units).min(0).values  # whichever is the most suspicious
    return scores


class EvidenceReader:
    """Reads turns with one model, and the refusal after them."""

    def __init__(self, model: LanguageModel, template: DialogTemplate, reply: str) -> None:
        """Raises InputError for a reply that the model cannot write."""
        self.template = template
        self.reply = reply
        template.reply_ids(reply)  # complains about what cannot be written
        self._reader = SequenceReader(model)

    def __call__(self, turns: Sequence[HeardTurn]) -> Evidence:
        """Of turns of one layout. Raises InputError for one that outgrows the model's positions."""
        whole = [[*turn.ids, *self._refusal(turn.layout)] for turn in turns]
        means, transcripts, refusals = [], [], []
        for turn, ids, states in zip(turns, whole, self._reader.states(whole), strict=True):
            end = len(turn.ids)
            refusals.append(self._sum(states[end - 1 : -1], ids[end:], "respond", turn.layout))
            heard = turn.transcript
            means.append(states[max(heard.start - 1, 0) : end].float().mean(0).cpu())
            before = states[heard.start - 1 : heard.stop - 1]
            said = self._sum(before, ids[heard], "transcribe", turn.layout) if heard.stop else 0.0
            transcripts.append(said)
        return Evidence(torch.stack(means), torch.tensor(transcripts), torch.tensor(refusals))

    def _refusal(self, layout: str) -> list[int]:
        """As a reply, with the id that ends it."""
        return [*self.template.reply_ids(self.reply, layout), self.template.stop_id("respond", layout)]

    def _sum(self, states: Tensor, ids: Sequence[int], stage: str, layout: str) -> float:
        return float(self._reader.log_probabilities(states, ids, self.template.allowed(stage, layout)).sum())


def heard_turn(
    template: DialogTemplate, layout: str, content: TurnContent, heard: Sequence[int] | None = None
) -> HeardTurn:
    """heard: the ids that the model itself has written as the transcript; None: the words are given.

    Raises InputError as `DialogTemplate.prompt` does.
    """
    if "transcribe" not in template.layout(layout).stages:
        return HeardTurn(layout, tuple(template.prompt("respond", content, (), layout)), slice(0, 0))
    unheard = replace(content, user_text=None)  # or what was heard would be checked as if it were typed
    before = template.prompt("transcribe", unheard, (), layout)
    following = template.following("transcribe", layout)
    ids = template.prompt("respond", content, (), layout) if heard is None else [*before, *heard, *following]
    return HeardTurn(layout, tuple(ids), slice(len(before), len(ids) - len(following) + 1))
