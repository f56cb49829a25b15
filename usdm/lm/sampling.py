"""Drawing one token after another from logits, with a generator of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from usdm.types import LARGEST_SEED, InputError, Sampling


class Sampler:
    """Draws for one stage. The same seed gives the same draws on every device: they are made on the CPU.

    Repetition is penalised (as in CTRL, arXiv 1909.05858) among the stage's own tokens: what it repeats of
    the prompt is often just right. Raises InputError for settings that mean nothing.
    """

    def __init__(self, sampling: Sampling) -> None:
        check_sampling(sampling)
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)
        self._drawn: set[int] = set()

    def draw(self, logits: Tensor) -> int:
        """(A,) logits of the allowed tokens -> index of the drawn one."""
        sampling = self.sampling
        if sampling.repetition_penalty != 1.0 and self._drawn:
            logits = self._penalised(logits)
        if sampling.temperature == 0.0:
            index = int(logits.argmax())
        else:
            probabilities = distribution(logits.float().cpu(), sampling)
            index = int(torch.multinomial(probabilities, 1, generator=self._generator))
        self._drawn.add(index)
        return index

    @property
    def is_argmax(self) -> bool:
        """Whether it takes the likeliest token, whatever came before."""
        return self.sampling.temperature == 0.0 and self.sampling.repetition_penalty == 1.0

    def _penalised(self, logits: Tensor) -> Tensor:
        drawn = torch.tensor(sorted(self._drawn), device=logits.device)
        scores, penalty = logits[drawn], self.sampling.repetition_penalty
        return logits.index_copy(0, drawn, torch.where(scores > 0, scores / penalty, scores * penalty))


def draw_all(samplers: Sequence[Sampler], logits: Tensor) -> list[int]:
    """(R, A) logits -> what each of R samplers draws from its row."""
    if all(sampler.is_argmax for sampler in samplers):
        return logits.argmax(dim=1).tolist()
    return [sampler.draw(row) for sampler, row in zip(samplers, logits.cpu(), strict=True)]


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """(A,) logits -> (A,) probabilities after temperature, top-k and top-p (nucleus, arXiv 1904.09751)."""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < len(logits):
        kth = logits.topk(sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    probabilities = logits.softmax(dim=0)
    if sampling.top_p < 1.0:
        ordered, order = probabilities.sort(descending=True)
        before = ordered.cumsum(dim=0) - ordered  # the mass of what is likelier
        probabilities[order[before >= sampling.top_p]] = 0.0
    return probabilities


def check_sampling(sampling: Sampling) -> None:
    """Raises InputError that names the first setting outside its range."""
    rules = (
        ("temperature", sampling.temperature >= 0, "0 (greedy) or more"),
        ("top_k", sampling.top_k >= 0, "0 (all) or more"),
        ("top_p", 0 < sampling.top_p <= 1, "in (0, 1]"),
        ("repetition_penalty", sampling.repetition_penalty > 0, "above 0"),
        ("max_new_tokens", sampling.max_new_tokens >= 1, "1 or more"),
        ("seed", 0 <= sampling.seed <= LARGEST_SEED, f"from 0 to {LARGEST_SEED}"),
        ("num_beams", sampling.num_beams >= 1, "1 (no search) or more"),
    )
    for name, holds, rule in rules:
        if not holds:
            raise InputError(f"{name}={getattr(sampling, name)}: it must be {rule}")
    for name, neutral in (("temperature", 0.0), ("repetition_penalty", 1.0)):
        if sampling.num_beams > 1 and (value := getattr(sampling, name)) != neutral:
            raise InputError(
                f"{name}={value} with num_beams={sampling.num_beams}: a beam search takes the model's own "
                f"probabilities; set {name}={neutral:g} or num_beams=1"
            )
