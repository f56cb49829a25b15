"""The whole system behind one call: a question in, a spoken reply out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from usdm.audio import MelSpectrogram, resample
from usdm.chain.parts import Parts, bundle_folder, find_parts, fingerprint, load_parts
from usdm.chain.sound import Samples, speech
from usdm.chain.stages import Chain, LanguageModelChain, Question, check_stages, timed
from usdm.decoder.flow_matching import Solver
from usdm.lm import max_positions
from usdm.tokens.layout import STAGES
from usdm.types import InputError, ReferenceVoice, Sampling, SpokenReply, Turn, Waveform

GENERATION_FILE = "generation.json"


@dataclass(frozen=True)
class DecoderSampling:
    """How mels are drawn from units; see `UnitDecoder.generate`. Defaults are the published ones."""

    steps: int = 50
    solver: Solver = "heun"
    guidance: float = 1.0
    temperature: float = 1.0


@dataclass(frozen=True)
class GenerationSettings:
    """How a bundle wants to be used where a caller does not say: `generation.json` beside its parts."""

    sampling: Mapping[str, Sampling] = field(default_factory=dict)  # by stage; greedy where there is none
    decoder: DecoderSampling = DecoderSampling()

    def __post_init__(self) -> None:
        check_stages(self.sampling)

    def save(self, folder: str | Path) -> None:
        """Write `generation.json`."""
        (Path(folder) / GENERATION_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> GenerationSettings:
        """`generation.json` in `folder`, or the defaults where there is none. Raises InputError if it is wrong."""
        path = Path(folder) / GENERATION_FILE
        if not path.is_file():
            return cls()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            sampling = {stage: Sampling(**settings) for stage, settings in values["sampling"].items()}
            return cls(sampling, DecoderSampling(**values["decoder"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: not settings of generation ({error}); save them again") from error


class SpokenDialogPipeline:
    """Units, chain, decoder and vocoder of one system (USDM, arXiv 2402.05706)."""

    def __init__(
        self,
        parts: Parts,
        folders: Mapping[str, Path],
        settings: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
    ) -> None:
        """See `from_pretrained` and `from_parts`. `folders`: where each part was read from."""
        self.parts = parts
        self.folders = folders
        self.settings = settings
        self.mel = MelSpectrogram(parts.decoder.mel)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> SpokenDialogPipeline:
        """An embedded model ("tiny"), or a folder that holds `units/`, `llm/`, `decoder/` and `vocoder/`.

        `dtype` is the language model's; None keeps the stored one. Raises InputError if anything is missing,
        damaged, or not made for the rest.
        """
        folder = bundle_folder(name)
        pipeline = cls.from_parts(
            folder / "units", folder / "llm", folder / "decoder", folder / "vocoder", device=device, dtype=dtype
        )
        pipeline.settings = GenerationSettings.load(folder)
        return pipeline

    @classmethod
    def from_parts(
        cls,
        units: str | Path,
        llm: str | Path,
        decoder: str | Path,
        vocoder: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        settings: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
    ) -> SpokenDialogPipeline:
        """Each part a local folder or a hub name. Raises InputError as `from_pretrained` does."""
        folders = find_parts({"units": units, "llm": llm, "decoder": decoder, "vocoder": vocoder})
        return cls(load_parts(folders, device, dtype), folders, settings)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the parts' files: the same for the same system, wherever it lies."""
        return fingerprint(self.folders)

    @property
    def sample_rate(self) -> int:
        """Hz of what it says."""
        return self.parts.vocoder.sample_rate

    def respond(
        self,
        waveform: Samples | None = None,
        sample_rate: int | None = None,
        *,
        text: str | None = None,
        history: Sequence[Turn] = (),
        reference: Waveform | ReferenceVoice | None = None,
        sampling: Mapping[str, Sampling] | None = None,
        decoder: DecoderSampling | None = None,
        chain: str | Chain | None = None,
        speak: bool = True,
        seed: int = 0,
    ) -> SpokenReply:
        """Answer a recording, or a typed `text`.

        Args:
            waveform: (T,), (T, channels) or (channels, T), floats or integers, at `sample_rate` Hz.
            history: the turns before, oldest first; the latest that fit are used.
            reference: a recording whose voice to speak in.
            sampling: of single stages ("transcribe", "respond", "speak"), instead of the bundle's.
            decoder: instead of the bundle's.
            chain: name of a layout ("multi_step", "units_text_units", "units_to_units"), a chain of another
                kind, or None for the one that the model was trained on.
            speak: False leaves the reply as text.
            seed: of the decoder and of all stages that `sampling` does not set.

        Raises:
            InputError: neither or both of recording and text, a recording that can hold no speech or is too
                long, text that cannot be written, unknown settings.
        """
        if (waveform is None) == (text is None):
            raise InputError("give either a recording or a text")
        drawn = {**self._sampling(seed), **(sampling or {})}
        check_stages(drawn)
        timings: dict[str, float] = {}
        question = Question(text=text, history=tuple(history))
        if waveform is not None:
            heard = self._checked(speech(waveform, sample_rate))
            with timed(timings, "units"):
                question = replace(question, waveform=heard, units=self._units(heard))
        voice = self._voice(reference, timings)
        answer = self._chain(chain).answer(question, drawn, speak)
        timings |= answer.timings
        sound = None
        if speak and answer.agent_units is not None and len(answer.agent_units):
            sound = self._sound(answer.agent_units, voice, decoder, seed, timings)
        return SpokenReply(
            user_units=question.units,
            user_text=answer.user_text,
            agent_text=answer.agent_text,
            agent_units=answer.agent_units,
            waveform=sound,
            sample_rate=self.sample_rate,
            timings=timings,
            truncated=answer.truncated,
        )

    def resynthesize(
        self,
        waveform: Samples,
        sample_rate: int,
        *,
        reference: Waveform | ReferenceVoice | None = None,
        decoder: DecoderSampling | None = None,
        seed: int = 0,
    ) -> Waveform:
        """A recording as its units sound: what units, decoder and vocoder lose. Raises as `respond` does."""
        heard = self._checked(speech(waveform, sample_rate))
        timings: dict[str, float] = {}
        voice = self._voice(reference, timings)
        sound = self._sound(self._units(heard), voice, decoder, seed, timings)
        return Waveform(sound, self.sample_rate)

    def voice(self, reference: Waveform) -> ReferenceVoice:
        """A recording as the decoder takes it, to be used for many replies. Raises InputError as `respond` does."""
        heard = self._checked(speech(reference.samples, reference.sample_rate))
        samples = resample(heard.samples, heard.sample_rate, self.parts.decoder.mel.sample_rate)
        return ReferenceVoice(self._units(heard), self.mel(samples[None])[0])

    def _checked(self, heard: Waveform) -> Waveform:
        """Raises InputError for a recording with more units than the language model has positions."""
        positions = max_positions(self.parts.llm)
        if positions is not None and heard.seconds > (longest := positions / self.parts.units.unit_rate):
            raise InputError(
                f"the recording lasts {heard.seconds:.1f} s; this model holds {longest:.0f} s at most, so cut it"
            )
        return heard

    def _sampling(self, seed: int) -> dict[str, Sampling]:
        """The bundle's settings of every stage, under another seed."""
        bundle = self.settings.sampling
        return {stage: replace(bundle.get(stage, Sampling()), seed=seed) for stage in STAGES}

    def _voice(self, reference: Waveform | ReferenceVoice | None, timings: dict[str, float]) -> ReferenceVoice | None:
        if not isinstance(reference, Waveform):
            return reference
        with timed(timings, "voice"):
            return self.voice(reference)

    def _units(self, heard: Waveform) -> Tensor:
        extractor = self.parts.units
        (units,) = extractor([resample(heard.samples, heard.sample_rate, extractor.sample_rate)])
        return units

    def _chain(self, chain: str | Chain | None) -> Chain:
        if chain is None or isinstance(chain, str):
            return LanguageModelChain(self.parts.llm, self.parts.template, chain)
        return chain

    @torch.inference_mode()
    def _sound(
        self,
        units: Tensor,
        voice: ReferenceVoice | None,
        decoder: DecoderSampling | None,
        seed: int,
        timings: dict[str, float],
    ) -> Tensor:
        """(U,) units -> (T,) sound at `sample_rate`."""
        settings: dict[str, Any] = asdict(decoder or self.settings.decoder)
        generator = torch.Generator().manual_seed(seed)
        with timed(timings, "decode"):
            mel = self.parts.decoder.generate(units, reference=voice, generator=generator, **settings)
        with timed(timings, "vocode"):
            return self.parts.vocoder(mel[None])[0].float().cpu()
