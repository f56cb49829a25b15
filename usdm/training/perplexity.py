"""Perplexity of a pretrained model by what it predicts: units, text, correspondences and continuations of both kinds.

Whatever it was trained on, a model is asked about the same sequences, so that figures of several models compare.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from math import exp
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from usdm.data.order import Shuffled
from usdm.data.sequences import IGNORED, KINDS, TrainingSequence
from usdm.data.speech_text import SpeechTextSequences
from usdm.data.unit_corpus import UnitCorpus
from usdm.interleave import Pattern, PatternInterleaving
from usdm.metrics.facts import surroundings
from usdm.metrics.intervals import Counted, ratio_of
from usdm.metrics.table import markdown_table
from usdm.tokens import SpeechTextVocabulary
from usdm.types import InputError

TYPES = ("units", "text", "units_to_text", "text_to_units", "continue_units", "continue_text")


@dataclass(frozen=True)
class Perplexity:
    """Of one type of token."""

    perplexity: float
    low: float  # 95 % interval, bootstrap over utterances
    high: float
    tokens: int
    sequences: int  # that have any


@dataclass(frozen=True)
class PerplexityTable:
    types: Mapping[str, Perplexity]  # those of `TYPES` that the sequences have
    facts: Mapping[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        rows = [
            [name, f"{each.perplexity:.2f} ({each.low:.2f} to {each.high:.2f})", str(each.tokens), str(each.sequences)]
            for name, each in self.types.items()
        ]
        asked = ", ".join(f"{name} {value}" for name, value in self.facts["asked"].items())
        return f"{markdown_table(['type', 'perplexity (95 %)', 'tokens', 'sequences'], rows)}\n\nAsked: {asked}.\n"


def evaluate_pretraining(
    model: PreTrainedModel,
    vocabulary: SpeechTextVocabulary,
    corpora: Sequence[str | Path],
    *,
    max_length: int,
    segment_units: int,
    pattern: Pattern = "unified",
    split: str = "dev",
    batch_size: int = 8,
    limit: int | None = None,
    seed: int = 0,
) -> PerplexityTable:
    """Perplexity by type on interleaved sequences of unit corpora.

    Args:
        max_length: longer sequences are left out.
        segment_units: units in a segment, about.
        pattern: how the sequences are interleaved; the published one has all types.
        limit: sequences; None takes all.

    Raises:
        InputError: the split holds no sequence.
    """
    source = SpeechTextSequences(
        UnitCorpus(corpora),
        vocabulary,
        max_length,
        split=split,
        seed=seed,
        interleaving=PatternInterleaving(pattern),
        order=Shuffled(),
        segment_units=segment_units,
    )
    every = chain.from_iterable(source.sequences(0, block, 0) for block in source.blocks(0))
    sequences = sorted(islice(every, limit), key=lambda sequence: len(sequence.input_ids))
    if not sequences:
        raise InputError(f"split={split}: {', '.join(map(str, corpora))} have no sequence of it; give another split")
    counted: dict[str, list[Counted]] = {name: [] for name in TYPES}
    model.eval()
    for place, sums in enumerate(summed_losses(model, sequences, batch_size, vocabulary.pad_id)):
        for name in TYPES:
            loss, tokens = sums[KINDS.index(name)]
            if tokens:
                counted[name].append((str(place), (loss, tokens)))
    asked = {"pattern": pattern, "segment units": segment_units, "split": split, "sequences": len(sequences)}
    asked |= {"left out": source.left_out, "seed": seed}
    types = {name: _perplexity(rows, seed) for name, rows in counted.items() if rows}
    return PerplexityTable(types, {"asked": asked, **surroundings()})


def _perplexity(rows: Sequence[Counted], seed: int) -> Perplexity:
    found = ratio_of(rows, seed)
    assert found is not None  # every row has tokens
    value, low, high = map(exp, found)
    return Perplexity(value, low, high, int(sum(tokens for _, (_, tokens) in rows)), len(rows))


@torch.inference_mode()
def summed_losses(
    model: PreTrainedModel, sequences: Sequence[TrainingSequence], batch_size: int, pad_id: int
) -> Iterator[list[tuple[float, float]]]:
    """For each sequence and each of `KINDS`: summed loss in nats, and number of tokens."""
    for start in range(0, len(sequences), batch_size):
        batch = sequences[start : start + batch_size]
        ids = _padded([each.input_ids for each in batch], pad_id).to(model.device)  # what is behind is not seen
        labels = _padded([each.labels for each in batch], IGNORED).to(model.device)[:, 1:]
        kinds = _padded([each.kinds for each in batch], 0)[:, 1:]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        losses = functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        for loss, label, kind in zip(losses.double().cpu(), labels.cpu(), kinds, strict=True):
            scored = label != IGNORED
            sums = torch.bincount(kind[scored], loss[scored], len(KINDS)).tolist()
            yield list(zip(sums, torch.bincount(kind[scored], minlength=len(KINDS)).tolist(), strict=True))


def _padded(rows: Sequence[Any], filling: int) -> torch.Tensor:
    """(B, L) int64."""
    return pad_sequence([torch.from_numpy(row).long() for row in rows], batch_first=True, padding_value=filling)
