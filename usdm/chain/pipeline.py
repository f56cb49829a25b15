"""The whole system behind one call: a question in, a spoken reply out."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from usdm.audio import read_audio, resample
from usdm.chain.components import Components, fingerprint, load_components
from usdm.chain.listening import Listener
from usdm.chain.locations import bundle_folder, bundle_locations, find_parts
from usdm.chain.options import LoadOptions
from usdm.chain.rejection import REJECTION_FOLDER, EvidenceReader, Refusing, Rejection
from usdm.chain.replies import ReplyOptions, Request, units_to_sound, whole_reply
from usdm.chain.settings import GenerationSettings
from usdm.chain.sound import LengthLimit, Samples, speech
from usdm.chain.stages import Chain, LanguageModelChain, Question, check_stages, timed
from usdm.chain.streaming import StreamEvent, streamed_reply
from usdm.chain.voices import VOICES_FOLDER, find_voices, voice_file
from usdm.lm import TokenStream, max_positions
from usdm.runs import digest, hub_commit
from usdm.tokens.layout import STAGES
from usdm.types import InputError, ReferenceVoice, Sampling, SpokenReply, Turn, Waveform
from usdm.unit_to_speech import DecoderSampling

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SpokenDialogPipeline:
    """Units, chain and unit-to-speech of one system (USDM, arXiv 2402.05706)."""

    def __init__(
        self,
        parts: Components,
        folders: Mapping[str, Path],
        settings: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
        voices: str | Path | None = None,
    ) -> None:
        """See `from_pretrained` and `from_parts`. `folders`: where each part was read from."""
        self.parts = parts
        self.folders = folders
        self.settings = settings
        self.limit = LengthLimit(max_positions(parts.llm), parts.units.unit_rate)
        self._voice_files = {} if voices is None else find_voices(voices)
        self._known_voices: dict[str, ReferenceVoice] = {}
        self.rejection: Rejection | None = None  # which turns are refused; see `refuse_by`
        self._evidence_reader: EvidenceReader | None = None
        if settings.voice is not None:
            voice_file(self._voice_files, settings.voice)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
        *,
        units: str | Path | None = None,
        llm: str | Path | None = None,
        decoder: str | Path | None = None,
        vocoder: str | Path | None = None,
        scales: str | Path | None = None,
    ) -> SpokenDialogPipeline:
        """An embedded model ("tiny"), or a folder that holds `units/`, `llm/`, `decoder/` and, where it makes mels,
        `vocoder/`.

        It may hold `voices/NAME.flac` too: voices to speak in. A part that is given, as a folder or a hub name, takes
        the place of the bundle's own. `scales` are of one task (see `usdm.lm.task_scales`), trained on the language
        model with adapter=peqa. Raises InputError if anything is missing, damaged, or not made for the rest.
        """
        folder = bundle_folder(name)
        settings, voices = GenerationSettings.load(folder), folder / VOICES_FOLDER
        given = {"units": units, "llm": llm, "decoder": decoder, "vocoder": vocoder}
        return cls.from_parts(
            **bundle_locations(name, given),
            scales=scales,
            options=options,
            settings=settings,
            voices=voices if voices.is_dir() else None,
        )

    @classmethod
    def from_parts(
        cls,
        units: str | Path,
        llm: str | Path,
        decoder: str | Path,
        vocoder: str | Path | None = None,
        scales: str | Path | None = None,
        *,
        options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
        settings: GenerationSettings = GenerationSettings(),  # noqa: B008 (frozen)
        voices: str | Path | None = None,
    ) -> SpokenDialogPipeline:
        """Each part a local folder or a hub name, `voices` a folder of recordings such as NAME.flac.

        `vocoder` is None for a decoder that makes sound by itself: a unit HiFi-GAN, or a codec's folder. Raises
        InputError as `from_pretrained` does.
        """
        places: dict[str, str | Path] = {"units": units, "llm": llm, "decoder": decoder}
        places |= {part: place for part, place in (("vocoder", vocoder), ("scales", scales)) if place is not None}
        folders = find_parts(places)
        return cls(load_components(folders, options, settings.normaliser), folders, settings, voices)

    def refuse_by(self, refusing: Refusing) -> None:
        """From now on turns outside of the model's domain get a refusal as their reply, or no turn does.

        Where no folder is given, `rejection/` of the model's bundle is meant. Raises InputError as `Rejection.load`.
        """
        if refusing.score is None:
            self.rejection = self._evidence_reader = None
            return
        llm = self.folders["llm"]
        place = llm.parent / REJECTION_FOLDER if refusing.folder is None else Path(refusing.folder)
        self.rejection = Rejection.load(place, llm, refusing.score, refusing.threshold, self.folders.get("scales"))
        self._evidence_reader = EvidenceReader(self.parts.llm, self.parts.template, self.rejection.config.reply)

    @property
    def fingerprint(self) -> str:
        """Digest of the parts' files, and of what it refuses: the same for the same system, wherever it lies.

        Large files are read the first time alone, and those in the hub's cache never.
        """
        if self.rejection is None:
            return self._parts_digest
        own = self.rejection
        return digest([self._parts_digest, asdict(own.config), own.score, own.threshold])

    @cached_property
    def _parts_digest(self) -> str:
        return fingerprint(self.folders)

    @cached_property
    def precision(self) -> dict[str, str]:
        """Types of the weights of language model and decoder as they were loaded; several where some are quantised."""
        loaded = {"llm": self.parts.llm, "decoder": self.parts.speech}
        types = {part: {str(value.dtype) for value in model.state_dict().values()} for part, model in loaded.items()}
        return {part: " ".join(sorted(each.removeprefix("torch.") for each in own)) for part, own in types.items()}

    @property
    def commits(self) -> dict[str, str]:
        """Of the hub, by part, for the parts that came from there."""
        return {part: commit for part, folder in self.folders.items() if (commit := hub_commit(folder)) is not None}

    @property
    def sample_rate(self) -> int:
        """Hz of what it says."""
        return self.parts.speech.sample_rate

    @property
    def voices(self) -> list[str]:
        """Names of the voices that it can speak in, apart from any reference recording."""
        return sorted(self._voice_files)

    def respond(
        self,
        waveform: Samples | None = None,
        sample_rate: int | None = None,
        *,
        text: str | None = None,
        history: Sequence[Turn] = (),
        chain: str | Chain | None = None,
        **options: Unpack[ReplyOptions],
    ) -> SpokenReply:
        """Answer a recording, or a typed `text`.

        Args:
            waveform: (T,), (T, channels) or (channels, T), floats or integers, at `sample_rate` Hz.
            history: the turns before, oldest first; the latest that fit are used.
            chain: name of a layout ("multi_step", "units_text_units", "units_to_units"), a chain of another
                kind, or None for the one that the model was trained on.
            options: transcript, reply, reference, voice, sampling, decoder, speak, seed; see `ReplyOptions`.

        Raises:
            InputError: neither or both of recording and text, a recording that can hold no speech or is too
                long, text that is empty or cannot be written, unknown settings or an unknown voice.
        """
        start = time.perf_counter()
        question = self._question(waveform, sample_rate, text, history)
        return whole_reply(self.parts, self.request(question, self.chain(chain), start, **options))

    def stream(
        self,
        waveform: Samples | None = None,
        sample_rate: int | None = None,
        *,
        text: str | None = None,
        history: Sequence[Turn] = (),
        chain: str | Chain | None = None,
        **options: Unpack[ReplyOptions],
    ) -> Generator[StreamEvent, None, None]:
        """`respond` as it happens: `SpokenText` when a text is known, `SpokenChunk` while the reply is still being
        made, and the whole `SpokenReply` at last. Close the generator to stop early.

        The sound is as long as that of `respond`, made chunk by chunk (see `usdm.decoder.StreamingDecoder`). Takes
        and raises what `respond` does, the latter at the first step.
        """
        start = time.perf_counter()
        question = self._question(waveform, sample_rate, text, history)
        yield from streamed_reply(self.parts, self.request(question, self.chain(chain), start, **options))

    def listen(self, sample_rate: int, *, history: Sequence[Turn] = (), chain: str | Chain | None = None) -> Listener:
        """Hear a turn while it is spoken: `push` blocks of it, then `respond` or `stream`.

        `history` and `chain` as for `respond`. Raises InputError for an impossible `sample_rate` (Hz).
        """
        own = self.chain(chain, TokenStream(self.parts.llm))
        return Listener(self.parts, sample_rate, self.limit, tuple(history), own, self.request)

    def resynthesize(
        self,
        waveform: Samples,
        sample_rate: int,
        *,
        reference: Waveform | ReferenceVoice | None = None,
        voice: str | None = None,
        decoder: DecoderSampling | None = None,
        seed: int = 0,
    ) -> Waveform:
        """A recording as its units sound: what units, decoder and vocoder lose. Raises as `respond` does."""
        heard = speech(waveform, sample_rate, self.limit)
        timings: dict[str, float] = {}
        speaker = self.speaker(reference, voice, timings)
        sound = units_to_sound(self.parts, self._units(heard), speaker, decoder or self.settings.decoder, seed, timings)
        return Waveform(sound, self.sample_rate)

    def voice(self, reference: Waveform) -> ReferenceVoice:
        """A recording as the decoder takes it, to be used for many replies. Raises InputError as `respond` does."""
        heard = speech(reference.samples, reference.sample_rate, self.limit)
        return self.parts.speech.voice(self._units(heard), heard)

    def speaker(
        self,
        reference: Waveform | ReferenceVoice | None = None,
        voice: str | None = None,
        timings: dict[str, float] | None = None,
    ) -> ReferenceVoice | None:
        """The voice to speak in: a recording's, a named one's, or else the bundle's own choice (None: it has none).

        The seconds that it takes to read one go into `timings`. Raises InputError as `respond` does.
        """
        if reference is not None and voice is not None:
            raise InputError(f"voice={voice} and a reference recording: give one of them")
        if isinstance(reference, ReferenceVoice):
            return reference
        spent = {} if timings is None else timings
        if reference is not None:
            with timed(spent, "voice"):
                return self.voice(reference)
        name = voice or self.settings.voice
        if name is None:
            return None
        if name not in self._known_voices:
            path = voice_file(self._voice_files, name)
            with timed(spent, "voice"):
                self._known_voices[name] = self.voice(read_audio(path))
        return self._known_voices[name]

    def chain(self, chain: str | Chain | None = None, stream: TokenStream | None = None) -> Chain:
        """The chain of that name; one that is given stays itself. `stream` is for a chain of the model's own.

        Raises InputError for a name that is unknown.
        """
        if chain is None or isinstance(chain, str):
            return self.own_chain(chain, stream)
        return chain

    def own_chain(self, layout: str | None = None, stream: TokenStream | None = None) -> LanguageModelChain:
        """A chain of the model's own, which refuses what the pipeline refuses. Raises InputError as `chain` does."""
        llm, template = self.parts.llm, self.parts.template
        return LanguageModelChain(llm, template, layout, stream, self.rejection, self._evidence_reader)

    def request(
        self,
        question: Question,
        chain: Chain,
        start: float,
        *,
        transcript: str | None = None,
        reply: str | None = None,
        reference: Waveform | ReferenceVoice | None = None,
        voice: str | None = None,
        sampling: Mapping[str, Sampling] | None = None,
        decoder: DecoderSampling | None = None,
        speak: bool = True,
        seed: int = 0,
    ) -> Request:
        """Everything that a reply needs, checked; of a recording its units too.

        `start`: when it was asked for, on `time.perf_counter`; for the rest and what is raised see `respond`.
        """
        timings: dict[str, float] = {}
        drawn = {**self._sampling(seed), **(sampling or {})}
        check_stages(drawn)
        question = _with_texts(question, transcript, reply)
        speaker = self.speaker(reference, voice, timings)
        if question.waveform is not None and question.units is None:
            with timed(timings, "units"):
                question = replace(question, units=self._units(question.waveform))
        return Request(question, chain, drawn, speaker, decoder or self.settings.decoder, speak, seed, start, timings)

    def _question(
        self, waveform: Samples | None, sample_rate: int | None, text: str | None, history: Sequence[Turn]
    ) -> Question:
        if (waveform is None) == (text is None):
            raise InputError("give either a recording or a text")
        if waveform is not None:
            heard = speech(waveform, sample_rate, self.limit)
            return Question(waveform=heard, history=tuple(history))
        return Question(text=text, history=tuple(history))

    def _sampling(self, seed: int) -> dict[str, Sampling]:
        """The bundle's settings of every stage, under another seed."""
        bundle = self.settings.sampling
        return {stage: replace(bundle.get(stage, Sampling()), seed=seed) for stage in STAGES}

    def _units(self, heard: Waveform) -> Tensor:
        extractor = self.parts.units
        (units,) = extractor([resample(heard.samples, heard.sample_rate, extractor.sample_rate)])
        return units


def _with_texts(question: Question, transcript: str | None, reply: str | None) -> Question:
    """The question and what is already settled of its turn. Raises InputError if that cannot be."""
    if transcript is not None and question.waveform is None:
        raise InputError(f"transcript={transcript!r} of a question that is typed: give the words as text alone")
    for name, text in (("text", question.text), ("reply", reply)):
        if text is not None and not text.strip():
            raise InputError(f"{name}={text!r}: there are no words in it; give some")
    return replace(
        question,
        text=question.text if transcript is None else transcript,
        reply=question.reply if reply is None else reply,
    )
