"""Vocoding while frames still come: windows with context on both sides, of which the inner part is kept.

Vocoders look a limited number of frames around each sample. With as much context, a window's inner part is what
the whole mel gives. The frames after it must be waited for, so a little less is taken there: the farthest ones
weigh next to nothing, and across each seam the windows are blended over one hop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from usdm.vocoder.loading import Vocoder


class StreamingVocoder:
    """Log-mel frames in as they come, sound out; one object for one reply.

    `left_context` and `right_context` in frames; None takes the vocoder's own.
    """

    def __init__(self, vocoder: Vocoder, left_context: int | None = None, right_context: int | None = None) -> None:
        self.vocoder = vocoder
        self.hop = vocoder.mel.hop_length
        self.left_context = vocoder.context_frames if left_context is None else left_context
        self.right_context = vocoder.lookahead_frames if right_context is None else right_context
        self._mel = torch.zeros(vocoder.mel.num_mels, 0)  # context of what is done, and what is not done
        self._done = 0  # frames of `_mel` that were given as sound
        self._tail = torch.zeros(0)  # the last window's view of the sound that comes next

    def push(self, mel: Tensor, ahead: Tensor | None = None) -> Tensor:
        """(num_mels, m), the next log-mel frames, not normalised -> (t,) float32, the next samples; t may be 0.

        `ahead` (num_mels, a): what the frames after these will roughly be. It serves as context on the right,
        so that fewer frames must be held back.
        """
        self._mel = torch.cat([self._mel.to(mel.device), mel], dim=1)
        view = self._mel if ahead is None else torch.cat([self._mel, ahead], dim=1)
        return self._vocode(view, min(self._mel.shape[1], view.shape[1] - self.right_context))

    def finish(self) -> Tensor:
        """(t,) float32, the samples of all frames that are left."""
        return self._vocode(self._mel, self._mel.shape[1])

    @torch.inference_mode()
    def _vocode(self, view: Tensor, end: int) -> Tensor:
        """Sound of the frames from those done to `end`, with all of `view` as context."""
        if end <= self._done:
            return torch.zeros(0)
        sound = self.vocoder(view[None])[0].float().cpu()
        start, stop = self._done * self.hop, end * self.hop
        given = _blend(self._tail, sound[start:stop])
        self._tail = sound[stop : stop + self.hop]
        kept = max(0, end - self.left_context)
        self._mel, self._done = self._mel[:, kept:], end - kept
        return given


def _blend(before: Tensor, after: Tensor) -> Tensor:
    """`after`, taking over from `before` in the length of `before`."""
    length = min(len(before), len(after))
    weight = torch.linspace(0, 1, length + 2)[1:-1]
    return torch.cat([torch.lerp(before[:length], after[:length], weight), after[length:]])
