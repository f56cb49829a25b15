"""Sequence-level unlikelihood (Welleck et al., arXiv 1908.04319) on loops of units: next tokens, and beside them what
the model itself says to the end of a reply, in which runs of units that it has said before are made less likely.

HyperCLOVA X (arXiv 2404.01954, section 3.3) adds it against repetition of text. A loop of units is heard as stammer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor, nn

from usdm.data.sequences import KIND_INDEX
from usdm.tokens import SpeechTextVocabulary
from usdm.training.objectives import Batch, NextToken, Objective
from usdm.types import InputError

_SMALLEST = 1e-5  # of 1 - p, whose logarithm would else be infinite
_UNITS = [KIND_INDEX[kind] for kind in ("units", "text_to_units", "continue_units", "agent_units")]


@dataclass(frozen=True)
class Unlikelihood(Objective):
    """-log p of the next tokens, plus `weight` times the mean of -log(1 - p) over the units in loops.

    From each batch some sequences are taken up to the first `given` units of a span of units; the model writes
    `written` units more, greedily. A unit is in a loop if it belongs to a run of `ngram` units that was there before in
    what was written, and that has at least two different ones: a pause or a held sound is no loop.

    Raises InputError for numbers that cannot be.
    """

    weight: float = 1.0
    ngram: int = 6
    given: int = 8  # units
    written: int = 32  # units
    sequences: int = 2  # of each batch

    _units: ClassVar[tuple[int, int] | None] = None  # first id of a unit, and the id after the last

    def __post_init__(self) -> None:
        if self.weight < 0 or min(self.ngram, self.given, self.sequences) < 1 or self.written <= self.ngram:
            raise InputError(
                f"weight={self.weight}, ngram={self.ngram}, given={self.given}, written={self.written}, sequences="
                f"{self.sequences}: give a weight of 0 or more, positive numbers, and more units written than a run has"
            )

    def knowing(self, vocabulary: SpeechTextVocabulary) -> Unlikelihood:
        known, first = copy.copy(self), vocabulary.layout.unit_offset
        object.__setattr__(known, "_units", (first, first + vocabulary.num_units))  # frozen are the settings
        return known

    def loss(self, model: nn.Module, batch: Batch, reference: nn.Module | None) -> Tensor:
        loss = NextToken().loss(model, batch, reference)
        prompts = self._prompts(batch)
        if not prompts or self.weight == 0:
            return loss
        return loss + self.weight * self.amount(batch) * self._unlikelihood(model, prompts)

    def validate(self, model: nn.Module, batch: Batch, reference: nn.Module | None) -> dict[str, Tensor]:
        """As for next tokens, and `looped`: the share of greedily written units that are in loops."""
        figures = super().validate(model, batch, reference)
        looped = [self._loops(each) for each in self._write(model, self._prompts(batch))]
        counts = [float(sum(map(sum, looped))), float(sum(map(len, looped)))]
        return figures | {"looped": torch.tensor(counts, dtype=torch.float64, device=figures["loss"].device)}

    def _prompts(self, batch: Batch) -> list[list[int]]:
        """Beginnings of sequences up to some units of a span that is to be learnt."""
        first, end_of_units = self._known_units
        kinds = torch.tensor(_UNITS, device=batch["kinds"].device)
        ids, labels = batch["input_ids"], batch["labels"]
        learnt = torch.isin(batch["kinds"], kinds) & (labels >= first) & (labels < end_of_units)
        prompts: list[list[int]] = []
        for row, positions in enumerate(batch["position_ids"]):
            starts = [*(positions == 0).nonzero()[:, 0].tolist(), len(positions)]
            for start, end in zip(starts, starts[1:], strict=False):
                places = learnt[row, start:end].nonzero()[:, 0]
                if len(places) >= self.given:
                    prompts.append(ids[row, start : start + int(places[0]) + self.given].tolist())
                if len(prompts) == self.sequences:
                    return prompts
        return prompts

    @torch.no_grad()
    def _write(self, model: nn.Module, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The prompts with the likeliest units after them, one by one.

        All in one packed row and without a cache, as the model is trained: its attention may know nothing else.
        """
        first, end = self._known_units
        sequences = [list(prompt) for prompt in prompts]
        training = model.training
        model.eval()
        for _ in range(self.written if sequences else 0):
            logits = model(**_packed(sequences, model), use_cache=False).logits[0, _ends(sequences)]
            for sequence, unit in zip(sequences, logits[:, first:end].argmax(-1).tolist(), strict=True):
                sequence.append(first + unit)
        model.train(training)
        return sequences

    def _unlikelihood(self, model: nn.Module, prompts: Sequence[Sequence[int]]) -> Tensor:
        """() mean of -log(1 - p) over the units in loops of what the model writes; 0 if there are none."""
        sequences = self._write(model, prompts)
        batch = _packed(sequences, model)
        logits = model(**batch, use_cache=False).logits[0, :-1].float()
        chosen = logits.softmax(-1).gather(1, batch["input_ids"][0, 1:, None])[:, 0]
        unlikely = -torch.log((1 - chosen).clamp(min=_SMALLEST))
        looped = [[False] * (len(each) - self.written) + self._loops(each) for each in sequences]
        mask = torch.tensor([flag for each in looped for flag in each][1:], device=unlikely.device)
        return (unlikely * mask).sum() / mask.sum().clamp(min=1)

    def _loops(self, sequence: Sequence[int]) -> list[bool]:
        """Of the units that the model wrote."""
        return in_loops(sequence[-self.written :], self.ngram)

    @property
    def _known_units(self) -> tuple[int, int]:
        assert self._units is not None, "`knowing` comes first"
        return self._units


def _packed(sequences: Sequence[Sequence[int]], model: nn.Module) -> dict[str, Tensor]:
    """(1, L) ids and positions, as a model reads packed sequences."""
    device = next(model.parameters()).device
    ids = [id_ for sequence in sequences for id_ in sequence]
    positions = [place for sequence in sequences for place in range(len(sequence))]
    return {
        "input_ids": torch.tensor([ids], device=device),
        "position_ids": torch.tensor([positions], device=device),
    }


def _ends(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Places of the last ids in the packed row."""
    return [end - 1 for end in accumulate(map(len, sequences))]


def in_loops(units: Sequence[int], ngram: int) -> list[bool]:
    """Of each unit whether it belongs to a run of `ngram` that was there before, and that has two different units."""
    found = [False] * len(units)
    seen: set[tuple[int, ...]] = set()
    for start in range(len(units) - ngram + 1):
        run = tuple(units[start : start + ngram])
        if run in seen and len(set(run)) > 1:
            found[start : start + ngram] = [True] * ngram
        seen.add(run)
    return found
