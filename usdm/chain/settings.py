"""How a reply is made, where a caller leaves it to the model's bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from usdm.chain.stages import check_stages
from usdm.tokens import find_normaliser
from usdm.types import InputError, Sampling
from usdm.unit_to_speech import DecoderSampling

GENERATION_FILE = "generation.json"


@dataclass(frozen=True)
class GenerationSettings:
    """How a bundle wants to be used where a caller does not say: `generation.json` beside its parts."""

    sampling: Mapping[str, Sampling] = field(default_factory=dict)  # by stage; greedy where there is none
    decoder: DecoderSampling = DecoderSampling()
    voice: str | None = None  # name of one of the bundle's voices
    normaliser: str | None = None  # of texts that are given, by its name in `usdm.tokens.normalisers`; None: as written

    def __post_init__(self) -> None:
        check_stages(self.sampling)
        find_normaliser(self.normaliser)

    def save(self, folder: str | Path) -> None:
        """Write `generation.json`."""
        (Path(folder) / GENERATION_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> GenerationSettings:
        """`generation.json` in `folder`, or the defaults where there is none. Raises InputError if it is wrong."""
        path = Path(folder) / GENERATION_FILE
        if not path.exists():
            return cls()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            sampling = {stage: Sampling(**settings) for stage, settings in values["sampling"].items()}
            return cls(sampling, DecoderSampling(**values["decoder"]), values.get("voice"), values.get("normaliser"))
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(f"{path}: not settings of generation ({error}); save them again") from error
