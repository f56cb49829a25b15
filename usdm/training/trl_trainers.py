"""What trainers of the package trl have in common here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from usdm.tokens import SpeechTextVocabulary, read_tokenizer
from usdm.types import InputError


class Silent:
    """In front of a trainer of trl: it sends no word to anybody, and writes no card of its own."""

    def _send_telemetry(self) -> None: ...

    def create_model_card(self, *_: Any, **__: Any) -> None: ...


def require_trl() -> None:
    """Raises InputError, with the way out, where the package is not installed."""
    if find_spec("trl") is None:
        raise InputError("this training needs the package trl: pip install 'usdm[align]'")


def common_arguments(folder: Path) -> dict[str, Any]:
    """Of trl's configurations. They are silent, compute in float32, and on a GPU where there is one."""
    return {
        "output_dir": str(folder),
        "save_total_limit": 1,
        "bf16": False,
        "activation_checkpointing": False,
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
    }


def trainers_tokenizer(folder: str | Path, vocabulary: SpeechTextVocabulary) -> PreTrainedTokenizerFast:
    """What trl asks for; it tokenizes nothing, and says which id fills rows up."""
    tokenizer = read_tokenizer(folder)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(vocabulary.pad_id)
    return tokenizer
