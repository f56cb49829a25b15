"""What the language model is trained for: next tokens, next tokens with weights, or preferred replies.

An objective of one's own is a dataclass that extends `Objective`, in any module that Python can import. Its fields are
its settings, and belong to what a run is told apart by.

A step may be cut into several passes, and shared out over processes. So an objective gives sums, and says how much went
into them; the trainer divides the sum of a step by the amount of a step, however the step is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from usdm.data.preferences import PreferencePair, read_pairs
from usdm.data.sequences import KIND_INDEX, KINDS
from usdm.tokens import IGNORED, DialogTemplate, SpeechTextVocabulary
from usdm.types import InputError

Batch = Mapping[str, Tensor]  # (B, L) int64 each: input_ids, labels (not shifted), position_ids, kinds


class Scored(NamedTuple):
    """The N tokens of a batch that have a label, in order."""

    logits: Tensor  # (N, V) float32, of each token before it was read
    labels: Tensor  # (N,) int64
    kinds: Tensor  # (N,) int64, indices of `usdm.data.sequences.KINDS`
    sequences: Tensor  # (N,) int64, which sequence of the batch each belongs to


def scored_tokens(model: nn.Module, batch: Batch) -> Scored:
    """What a model predicts where there is a label. (B, L) rows of packed sequences."""
    logits = model(**model_inputs(batch), use_cache=False).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    scored = labels != IGNORED
    starts = (batch["position_ids"] == 0).flatten().cumsum(0).view_as(batch["labels"]) - 1
    return Scored(logits[scored].float(), labels[scored], batch["kinds"][:, 1:][scored], starts[:, 1:][scored])


def model_inputs(batch: Batch) -> dict[str, Tensor]:
    """What a model reads of a batch. There is no attention mask: see `usdm.data.packing`."""
    return {name: batch[name] for name in ("input_ids", "position_ids")}


class Objective:
    """What the trainer minimises. `loss` is all that an objective of one's own must have."""

    needs_reference: ClassVar[bool] = False  # a frozen copy of the model that training began with

    def loss(self, model: nn.Module, batch: Batch, reference: nn.Module | None) -> Tensor:
        """() summed over what `amount` counts. `reference`: the frozen copy, if it `needs_reference`."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def knowing(self, vocabulary: SpeechTextVocabulary) -> Objective:
        """Itself, or one that knows which ids are which, before training begins."""
        return self

    def amount(self, batch: Batch) -> Tensor:
        """() how much of a step this batch is: the number of its scored tokens."""
        return (batch["labels"][:, 1:] != IGNORED).sum()

    def validate(self, model: nn.Module, batch: Batch, reference: nn.Module | None) -> dict[str, Tensor]:
        """Figures of validation, each (2,) float64: a sum, and the number that it is to be divided by.

        Every batch gives the same names. Here: the loss (nats a token) over all tokens and by kind.
        """
        tokens = scored_tokens(model, batch)
        losses = functional.cross_entropy(tokens.logits, tokens.labels, reduction="none").double()
        sums, counts = (torch.bincount(tokens.kinds, each, len(KINDS)) for each in (losses, torch.ones_like(losses)))
        whole = {"loss": torch.stack([sums.sum(), counts.sum()])}
        return whole | {f"loss_{kind}": torch.stack([sums[i], counts[i]]) for i, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class NextToken(Objective):
    """The mean of -log p over all tokens that have a label: what the template or the interleaving wants learnt."""

    def loss(self, model: nn.Module, batch: Batch, reference: nn.Module | None) -> Tensor:
        # The model's own loss: fused kernels (liger) never hold all logits. A divisor of 1 asks it for a sum.
        given = {**model_inputs(batch), "labels": batch["labels"], "num_items_in_batch": 1}
        loss: Tensor = model(**given).loss
        return loss.sum()


@dataclass(frozen=True)
class WeightedNextToken(Objective):
    """The same, weighted by what kind of sequence a token is in: the sum of w (-log p) divided by the sum of w.

    Raises InputError for an unknown kind, or a weight below 0.
    """

    weights: Mapping[str, float] = field(default_factory=dict)  # by `usdm.data.sequences.KINDS`; the others weigh 1

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.weights) - set(KINDS)):
            raise InputError(f"objective.weights has {', '.join(unknown)}: there are {', '.join(KINDS)}")
        if low := {kind: weight for kind, weight in self.weights.items() if weight < 0}:
            raise InputError(f"objective.weights={low}: a weight is 0 or more")

    def loss(self, model: nn.Module, batch: Batch, reference: nn.Module | None) -> Tensor:
        tokens = scored_tokens(model, batch)
        losses = functional.cross_entropy(tokens.logits, tokens.labels, reduction="none")
        return (self._by_kind(tokens.kinds.device)[tokens.kinds] * losses).sum()

    def amount(self, batch: Batch) -> Tensor:
        scored = batch["labels"][:, 1:] != IGNORED
        return self._by_kind(scored.device)[batch["kinds"][:, 1:][scored]].sum()

    def _by_kind(self, device: torch.device) -> Tensor:
        weights = torch.ones(len(KINDS), device=device)
        for kind, weight in self.weights.items():
            weights[KIND_INDEX[kind]] = weight
        return weights


@dataclass(frozen=True)
class DirectPreference(Objective):
    """DPO (arXiv 2305.18290): -log sigmoid(beta (r(chosen) - r(rejected))), r = log p - log p of the start model.

    Its rows are pairs of replies (`usdm.data.preferences`). Every process holds a frozen copy of the whole start model.

    Raises InputError for a beta that is not positive, or fewer than two pairs between those kept for validation.
    """

    pairs: str | Path  # .jsonl or .parquet
    beta: float = 0.1
    layout: str | None = None  # of the turns; None: the template's own
    stage: str | None = None  # the last that is written: "respond" for replies in text alone; None: all of the layout
    reference: str | Path | None = None  # folder of the start model; None: the model that this training begins with
    dev_every: int = 20  # each 20th pair is kept for validation

    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.dev_every < 2:
            raise InputError(f"beta={self.beta}, dev_every={self.dev_every}: give a beta above 0, and 2 or more")

    def read(self, template: DialogTemplate, max_length: int) -> dict[str, list[PreferencePair]]:
        """The pairs of splits "train" and "dev". Raises InputError as `read_pairs` does, or if none is left for one."""
        pairs = read_pairs(self.pairs, template, self.layout, max_length, self.stage)
        dev = pairs[self.dev_every - 1 :: self.dev_every]
        if not dev:
            raise InputError(
                f"{self.pairs} holds {len(pairs)} pairs, and objective.dev_every={self.dev_every} keeps none of them "
                "for validation: give more pairs, or a smaller number"
            )
        return {"train": [pair for i, pair in enumerate(pairs, start=1) if i % self.dev_every], "dev": dev}

    def loss(self, model: nn.Module, batch: Batch, reference: nn.Module | None) -> Tensor:
        chosen, rejected = self._rewards(model, batch, reference)
        return -functional.logsigmoid(chosen - rejected).sum()

    def amount(self, batch: Batch) -> Tensor:
        """The number of pairs."""
        scored = batch["labels"][:, 1:] != IGNORED
        sequences = (batch["position_ids"] == 0).flatten().cumsum(0).view_as(batch["labels"])[:, 1:][scored]
        return torch.tensor(len(sequences.unique()) // 2, device=scored.device)

    def validate(self, model: nn.Module, batch: Batch, reference: nn.Module | None) -> dict[str, Tensor]:
        """Of the pairs: the loss, how many have the chosen reply the likelier than it was, the mean margin, and the
        rewards (beta r) that it is the difference of."""
        chosen, rejected = self._rewards(model, batch, reference).double()
        margins = chosen - rejected
        figures = {
            "preference_loss": -functional.logsigmoid(margins),
            "preference_accuracy": (margins > 0).double(),
            "preference_margin": margins,
            "preference_chosen_reward": chosen,
            "preference_rejected_reward": rejected,
        }
        count = margins.new_tensor(len(margins))
        return {name: torch.stack([values.sum(), count]) for name, values in figures.items()}

    def _rewards(self, model: nn.Module, batch: Batch, reference: nn.Module | None) -> Tensor:
        """(2, P) beta r of the chosen and of the rejected reply of each pair."""
        assert reference is not None
        with torch.no_grad():
            start = _sequence_log_probabilities(reference, batch)
        rewards = _sequence_log_probabilities(model, batch) - start
        return self.beta * rewards.view(-1, 2).T


def _sequence_log_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """(S,) of the scored tokens of each sequence that has some, in order."""
    tokens = scored_tokens(model, batch)
    losses = functional.cross_entropy(tokens.logits, tokens.labels, reduction="none")
    _, own = tokens.sequences.unique(return_inverse=True)
    count = int(own.max()) + 1 if len(own) else 0
    return losses.new_zeros(count).index_add(0, own, -losses)
