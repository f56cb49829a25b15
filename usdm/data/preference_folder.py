"""A folder of pairs of replies, one file a split, made once of a corpus' exchanges."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from usdm.data.dialog_pairs import Exchange, read_exchanges
from usdm.data.unit_corpus import UnitCorpus
from usdm.interleave import keyed_generator
from usdm.runs import arguments_of, claim, write_text
from usdm.types import InputError, Role

logger = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")


class PreferenceSource(Protocol):
    """Where pairs come from: a dataclass, whose fields are its settings."""

    def pairs(self, exchanges: Sequence[Exchange]) -> Iterable[dict[str, Any]]:
        """Lines of a file of pairs (`usdm.data.preferences`), none or some an exchange."""


def prepare_preferences(
    preference_source: PreferenceSource,
    corpora: Sequence[str | Path],
    output_dir: str | Path,
    *,
    splits: Sequence[str] = SPLITS,
    limit: int | None = None,
    skip: int = 0,
    agent_roles: Sequence[Role] = ("agent",),
    history_turns: int = 0,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write `<split>.jsonl` for each split, and count its pairs. What is done there is not done again.

    Args:
        corpora: unit corpora with dialogs.
        limit: exchanges of a split, drawn; None: all.
        skip: of the drawn order the first so many are left out; from the end it goes on at the beginning.
        agent_roles: whose turns are replies.
        history_turns: earlier turns that a pair has before it, at most.
        overwrite: delete pairs of another source or other settings in `output_dir`.

    Raises:
        InputError: a split has no exchange, the source cannot work with them, or other pairs are there.
    """
    given = arguments_of(prepare_preferences, locals(), but=("output_dir", "overwrite"))
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit}: give 1 exchange or more, or null for all")
    results = [f"{split}.jsonl" for split in SPLITS]
    with claim(output_dir, given.settings, given.inputs, results=results, overwrite=overwrite) as claimed:
        if claimed.record.done and all((claimed.path / f"{split}.jsonl").is_file() for split in splits):
            return {name: int(count) for name, count in claimed.record.figures.items()}
        corpus = UnitCorpus(corpora)
        counts = {}
        for split in splits:
            exchanges = _drawn(read_exchanges(corpus, split, agent_roles, history_turns), limit, skip, seed)
            if not exchanges:
                raise InputError(
                    f"split {split!r} has no reply of {' or '.join(agent_roles)}; check the corpus, or splits"
                )
            rows = [json.dumps(pair, ensure_ascii=False) for pair in preference_source.pairs(exchanges)]
            logger.info("%s: %d pairs of %d exchanges", split, len(rows), len(exchanges))
            if not rows:
                raise InputError(f"none of the {len(exchanges)} exchanges of split {split!r} makes a pair; give more")
            write_text(claimed.path / f"{split}.jsonl", "".join(f"{row}\n" for row in rows))
            counts[split] = len(rows)
        claimed.finish(counts)
        return counts


def _drawn(exchanges: Sequence[Exchange], limit: int | None, skip: int, seed: int) -> list[Exchange]:
    order = keyed_generator(seed, 0, "exchanges for pairs").permutation(len(exchanges)).tolist()
    number = len(order) if limit is None else min(limit, len(order))
    return [exchanges[order[(skip + i) % len(order)]] for i in range(number)]
