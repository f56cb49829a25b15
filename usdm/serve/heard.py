"""Which words of a reply had been said when its sound stopped."""

from __future__ import annotations

from torch import Tensor

from usdm.chain import SpokenDialogPipeline


def heard_text(pipeline: SpokenDialogPipeline, chain: str, text: str, units: Tensor, num_heard: int) -> str:
    """The beginning of `text`, in whole words, that the first `num_heard` of the (U,) `units` of its speech say."""
    words = text.split()
    if num_heard >= len(units):
        return text
    spoken = 0
    said = num_heard / len(units) * sum(map(len, words))
    count = 0
    for word in words:
        spoken += len(word)
        if spoken > said:
            break
        count += 1
    return " ".join(words[:count])
