"""Many mels through a vocoder at once, each as it sounds alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from usdm.vocoder.loading import Vocoder


@torch.inference_mode()
def vocode_batch(vocoder: Vocoder, mels: Sequence[Tensor]) -> list[Tensor]:
    """Log-mels (num_mels, M), not normalised, of any lengths -> their sounds (M * hop_length,) float32.

    A vocoder hears the padding behind a shorter mel as if it were a sound. So the padded batch gives all but the
    last frames of those, and their ends are vocoded once more, where they really end. Lengths that are alike waste
    least.
    """
    hop, context = vocoder.mel.hop_length, vocoder.context_frames
    sounds = [torch.zeros(0, device=mel.device) for mel in mels]
    lengths = [mel.shape[1] for mel in mels]
    long = [row for row, length in enumerate(lengths) if length > 2 * context]
    for row in set(range(len(mels))).difference(long):
        if lengths[row]:
            sounds[row] = vocoder(mels[row][None])[0].float()
    if long:
        padded = pad_sequence([mels[row].T for row in long], batch_first=True).transpose(1, 2)
        beginnings = vocoder(padded).float()
        for row, beginning in zip(long, beginnings, strict=True):
            sounds[row] = beginning
        if shorter := [row for row in long if lengths[row] < padded.shape[2]]:
            ends = vocoder(torch.stack([mels[row][:, -2 * context :] for row in shorter]))[:, context * hop :].float()
            for row, end in zip(shorter, ends, strict=True):
                sounds[row] = torch.cat([sounds[row][: (lengths[row] - context) * hop], end])
    return sounds
