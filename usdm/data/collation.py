"""Packed rows as the tensors that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from usdm.data.packing import PackedRow


def collate_rows(rows: Sequence[PackedRow]) -> dict[str, Tensor]:
    """B rows of L ids -> (B, L) int64 `input_ids`, `labels`, `position_ids`; no attention mask on purpose."""
    return {
        name: torch.from_numpy(np.stack([getattr(row, name) for row in rows])).long()
        for name in ("input_ids", "labels", "position_ids")
    }


def flatten_rows(rows: Sequence[PackedRow]) -> dict[str, Tensor]:
    """The same as one row: (1, B * L). Each row begins with a sequence, at position 0 and without a label."""
    return {name: tensor.view(1, -1) for name, tensor in collate_rows(rows).items()}


def with_kinds(
    collate: Callable[[Sequence[PackedRow]], dict[str, Tensor]], rows: Sequence[PackedRow]
) -> dict[str, Tensor]:
    """What `collate` makes of the rows, and `kinds` of the same shape: all that an objective looks at."""
    batch = collate(rows)
    kinds = torch.from_numpy(np.stack([row.kinds for row in rows])).long()
    return {**batch, "kinds": kinds.view_as(batch["labels"])}
