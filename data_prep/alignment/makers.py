"""The CTC aligners by name: one function for each kind of model."""

from __future__ import annotations

from pathlib import Path

from data_prep.alignment.character_models import HubCtc, mms_forced_aligner
from data_prep.alignment.ctc import CtcAligner
from data_prep.alignment.phone_head import PhoneHead


def hub_ctc(*, model: str | Path, language: str, device: str, batch_seconds: float) -> CtcAligner:
    """Over any CTC model of the Hugging Face hub. See `HubCtc`."""
    return CtcAligner(HubCtc(str(model), language=language, device=device), batch_seconds=batch_seconds)


def mms(*, language: str, device: str, batch_seconds: float) -> CtcAligner:
    """Over torchaudio's MMS_FA. See `mms_forced_aligner`."""
    return CtcAligner(mms_forced_aligner(language=language, device=device), batch_seconds=batch_seconds)


def phones(*, folder: str | Path, device: str, batch_seconds: float) -> CtcAligner:
    """Over the recipe's own encoder. See `PhoneHead`."""
    return CtcAligner(PhoneHead(folder, device=device), batch_seconds=batch_seconds)
