"""How likely a model finds sequences that are there already: the log-probability of each of their ids.

Sequences are read in one line through the packed forward, several at once; each attends to itself alone, so that what
a sequence gets does not depend on the others beyond rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from usdm.lm.generation import check_room
from usdm.lm.head import AllowedIds, pick_allowed
from usdm.lm.mistral import LanguageModel, in_transformers
from usdm.lm.model import max_positions, num_rows
from usdm.lm.packed import PackedForward
from usdm.lm.slots import ForwardInput, SlotCache
from usdm.lm.weights import is_llama_like
from usdm.types import InputError

IDS_AT_ONCE = 4096  # in one forward


@torch.inference_mode()
def log_probabilities(
    model: LanguageModel, sequences: Sequence[Sequence[int]], allowed: Tensor, first: int | Sequence[int] = 1
) -> list[Tensor]:
    """For each sequence of L ids the log-probabilities of those from `first` on, (L - first,) float32 on the CPU.

    Args:
        allowed: (V,) bool; the probability is shared out among these ids alone. What is read before may be others.
        first: place of the first id that is scored, 1 or more; one for all sequences, or one for each.

    Raises:
        InputError: a sequence has no id there, or more ids than the model takes; an id to be scored is not allowed.
    """
    limit = max_positions(model)
    firsts = [first] * len(sequences) if isinstance(first, int) else list(first)
    for ids, start in zip(sequences, firsts, strict=True):
        if len(ids) <= start:
            raise InputError(f"a sequence of {len(ids)} ids: those from number {start} on are scored, so give more")
        if limit is not None:
            check_room(len(ids), limit)
    choices = AllowedIds.of(allowed, model.device)
    places = torch.full((len(allowed),), -1)
    places[torch.tensor(choices.ids)] = torch.arange(len(choices.ids))
    scored: list[Tensor] = []
    read = _packed if is_llama_like(model) else _padded
    starts = iter(firsts)
    for group in groups(sequences):
        for ids, logits in zip(group, read(model, group, choices), strict=True):
            start = next(starts)
            targets = places[torch.tensor(list(ids[start:]))].to(logits.device)
            if (targets < 0).any():
                raise InputError("an id to be scored is none of the allowed ones: score units with the mask of units")
            picked = logits[start - 1 :].log_softmax(dim=-1).gather(1, targets[:, None])[:, 0]
            scored.append(picked.cpu())
    return scored


@torch.inference_mode()
def next_log_probabilities(model: LanguageModel, sequences: Sequence[Sequence[int]], wanted: Sequence[int]) -> Tensor:
    """(N, W) float32 on the CPU: for each of N sequences the log-probability that each of the W `wanted` ids comes
    next, among all ids there are.

    Raises InputError for a sequence that is empty or has more ids than the model takes.
    """
    limit = max_positions(model)
    for ids in sequences:
        check_room(len(ids) + 1, limit or sys.maxsize)
        if not ids:
            raise InputError("what comes next of nothing: give sequences of 1 id or more")
    every = AllowedIds.of(torch.ones(num_rows(model), dtype=torch.bool), model.device)
    read = _last_of_packed if is_llama_like(model) else _last_of_padded
    found = [read(model, group, every).float().log_softmax(dim=-1)[:, list(wanted)] for group in groups(sequences)]
    return torch.cat(found).cpu()


def groups(sequences: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """In order, each with about `IDS_AT_ONCE` ids."""
    group: list[Sequence[int]] = []
    for ids in sequences:
        if group and sum(map(len, group)) + len(ids) > IDS_AT_ONCE:
            yield group
            group = []
        group.append(ids)
    if group:
        yield group


def filled_up(group: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(N, L) with the last id of each sequence behind it, where nobody before it sees it."""
    longest = max(map(len, group))
    return torch.tensor([[*each, *[each[-1]] * (longest - len(each))] for each in group], device=device)


def _packed(model: LanguageModel, group: Sequence[Sequence[int]], allowed: AllowedIds) -> Iterator[Tensor]:
    """(L - 1, A) float32 logits of each sequence."""
    forward = PackedForward(model, SlotCache(model.config.get_text_config().num_hidden_layers, len(group)))
    for states in forward.states([ForwardInput(slot, 0, list(ids)) for slot, ids in enumerate(group)]):
        yield forward.logits(states[:-1], allowed).float()


def _last_of_packed(model: LanguageModel, group: Sequence[Sequence[int]], allowed: AllowedIds) -> Tensor:
    """(N, V) logits after each sequence."""
    forward = PackedForward(model, SlotCache(model.config.get_text_config().num_hidden_layers, len(group)))
    return forward.logits(forward([ForwardInput(slot, 0, list(ids)) for slot, ids in enumerate(group)]), allowed)


def _last_of_padded(model: LanguageModel, group: Sequence[Sequence[int]], allowed: AllowedIds) -> Tensor:
    logits: Tensor = in_transformers(model)(filled_up(group, model.device), use_cache=False).logits
    return pick_allowed(torch.stack([row[len(own) - 1] for row, own in zip(logits, group, strict=True)]), allowed)


def _padded(model: LanguageModel, group: Sequence[Sequence[int]], allowed: AllowedIds) -> Iterator[Tensor]:
    """The same by `transformers`."""
    logits: Tensor = in_transformers(model)(filled_up(group, model.device), use_cache=False).logits
    for row, own in zip(logits, group, strict=True):
        yield pick_allowed(row[: len(own) - 1], allowed).float()
