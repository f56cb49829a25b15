"""Dialog text to a speech corpus with two roles: many user voices with variation, a few clean agent voices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from data_prep.augment import SAMPLE_RATE, at_rate, draw_noise, draw_variation, vary
from data_prep.embedded_model import espeak, kokoro
from data_prep.embedded_model.flite import Synthesised
from data_prep.embedded_model.not_understood import NOTHING_SAID
from data_prep.embedded_model.synthesisers import check_speakers, flite_voice, speak_as, speak_plainly
from usdm.audio import read_audio
from usdm.data.speech_corpus import MANIFEST_FILE
from usdm.runs import Shards, Task, claim, in_processes, publishing, read_run
from usdm.tokens.language import English, Language, told_apart
from usdm.types import AlignedWord, InputError

_DIALOGS_PER_PART = 25  # a natural voice needs minutes for them: no more is lost if it is interrupted
UNKNOWN_TIMES = Synthesised(np.zeros(0, np.int16), SAMPLE_RATE, (), ())


@dataclass(frozen=True)
class Voices:
    """Who speaks, by names of `SPEAKERS` in `embedded_model.synthesisers`; agents are of flite, eSpeak or Kokoro."""

    agents: Sequence[str]  # one a dialog
    user: Sequence[str]
    espeak_share: float  # of user turns, spoken by a random eSpeak voice of the language
    held_out: Sequence[str] = ()  # heard in split "test" only
    kokoro: str | Path = kokoro.HUB  # the model, on the hub or in a folder

    @property
    def kokoro_speaks(self) -> bool:
        return any(name.startswith("kokoro-") for name in (*self.agents, *self.user, *self.held_out))


@dataclass(frozen=True)
class CorpusReport:
    """What became of the dialogs."""

    turns: int  # in the manifest
    failed: tuple[str, ...]  # a message for each dialog that could not be spoken, now or in an earlier run


def synthesize_corpus(
    dialogs_file: str | Path,
    output_dir: str,
    *,
    voices: Voices,
    processes: int,
    seed: int,
    language: Language = English(),  # noqa: B008 (frozen)
    share: float = 1.0,
    after: float = 0.0,
    retry_errors: bool = False,
    overwrite: bool = False,
) -> CorpusReport:
    """Speak every dialog; write `audio/` (16 kHz FLAC) and `manifest.jsonl`, one line a turn.

    What a dialog sounds like depends on the voices, the seed and its own line alone; only eSpeak never says a thing in
    quite the same way twice. Interrupted, it goes on where it was, and a file that has grown costs its new dialogs
    alone: what is finished lies in `parts/`. The same agent text is spoken once and shared.

    Args:
        processes: one is this one; each of several has one thread.
        language: of the texts: whose eSpeak voices speak, and which alphabet the phones are of.
        share: of the dialogs, drawn by their names; the others stay silent.
        after: the share that was drawn before these, under the same seed, which another corpus speaks.
        retry_errors: dialogs that failed are tried again.
        overwrite: delete what other voices or another seed made, or what was made of dialogs that are gone.

    Raises:
        InputError: the dialogs file is missing, or has a line that is no dialog, a name twice, or a text of another
            language; a speaker is unknown or does not speak it, or a synthesiser is not installed; sound of other
            voices, another seed, or of dialogs that are gone or changed lies in `output_dir`.
    """
    source = Path(dialogs_file)
    example = _check_dialogs(source, language)
    folder = Path(output_dir)
    before = read_run(folder)
    if overwrite or before is None or not before.done:  # else they spoke, or they are others and will be refused
        _try_voices(voices, language, example)
    who = {name: value for name, value in asdict(voices).items() if name != "kokoro"}
    with claim(
        folder,
        {"voices": who, "seed": seed, "share": share, **({"after": after} if after else {}), **told_apart(language)},
        {"dialogs_file": source, "kokoro": voices.kokoro if voices.kokoro_speaks else None},
        results=(MANIFEST_FILE, "audio/*", "parts/*", "parts/rows/*"),
        grows=("dialogs_file",),
        overwrite=overwrite,
    ) as claimed:
        (folder / "audio").mkdir(exist_ok=True)
        shards = Shards(folder / "parts", ".jsonl")
        work = shards.share([source], _DIALOGS_PER_PART, overwrite=overwrite, retry_failed=retry_errors)
        speaker = partial(_Speaker, shards, folder, voices, language, seed, (after, after + share))
        made = in_processes(speaker, work.tasks, processes)
        for _ in tqdm(made, total=len(work.tasks), unit="part", desc="synthesize_corpus"):
            pass
        manifest = folder / MANIFEST_FILE
        if work.tasks or not (claimed.record.done and manifest.is_file()):  # else others may have added to its rows
            with publishing(manifest) as part, part.open("wb") as file:
                for shard in shards.done():
                    file.write(shard.path.read_bytes())
        failed = tuple(f"{row.id}: {row.message}" for row in shards.outcome(work).failed)
        report = CorpusReport(sum(1 for _ in manifest.open("rb")), failed)
        claimed.finish({"turns": report.turns, "failed": len(failed)})
    return report


def _try_voices(voices: Voices, language: Language, example: str) -> None:
    """Raises InputError for a speaker who is unknown, does not speak the language, or whose synthesiser is absent."""
    of_espeak = [f"espeak-{voice}" for voice in espeak.voices(language.espeak)] if voices.espeak_share else []
    for agent in voices.agents:
        speak_plainly(agent, example, kokoro_model=voices.kokoro)
    check_speakers([*voices.user, *voices.held_out, *of_espeak], example, kokoro_model=voices.kokoro)


def _check_dialogs(source: Path, language: Language) -> str:
    """A text of them, for voices to try."""
    if not source.is_file():
        raise InputError(f"{source} does not exist: run `usdm prepare_dialogs` first, or give dialogs_file=.")
    names, example = set(), "hello."
    with source.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                dialog = json.loads(line)
                name = _name(dialog)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{source}, line {number} is no dialog ({error!r}): {line[:60]!r}") from error
            for turn in dialog["turns"]:
                if turn["text"] != NOTHING_SAID:
                    try:
                        language.check(turn["text"])
                    except InputError as error:
                        raise InputError(f"{source}, line {number}: {error}") from error
                    if not isinstance(language, English):
                        example = turn["text"]
            if name in names:
                raise InputError(f"{source}, line {number}: dialog {name!r} was there before; give it another name")
            names.add(name)
    if not names:
        raise InputError(f"{source} is empty: run `usdm prepare_dialogs` first, or give dialogs_file=.")
    return example


def _name(dialog: dict) -> str:
    """Raises ValueError, KeyError or TypeError if it lacks anything that is needed."""
    said = [dialog["split"], *(turn[key] for turn in dialog["turns"] for key in ("role", "text"))]
    if not all(isinstance(each, str) and each for each in said):
        raise ValueError("a split, role or text is empty")
    return str(dialog["dialog"])


class _Speaker:
    """Says dialogs, in one process."""

    def __init__(
        self,
        shards: Shards,
        folder: Path,
        voices: Voices,
        language: Language,
        seed: int,
        drawn: tuple[float, float],
        number: int,
    ) -> None:
        self.shards, self.folder, self.voices, self.seed, self.drawn = shards, folder, voices, seed, drawn
        self.language = language

    def __call__(self, task: Task) -> None:
        with self.shards.making(task) as (part, failed), part.open("w", encoding="utf-8") as file:
            for _, line in task.rows:
                dialog = json.loads(line)
                if not self.drawn[0] <= _draw(f"{self.seed}/share/{dialog['dialog']}") < self.drawn[1]:
                    continue
                try:
                    rows = self._speak(dialog)
                except InputError as error:
                    failed[dialog["dialog"]] = str(error)
                else:
                    file.writelines(json.dumps(row) + "\n" for row in rows)

    def _speak(self, dialog: dict) -> list[dict]:
        digest = hashlib.sha256(f"{self.seed}/{dialog['dialog']}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        agent = self.voices.agents[int(random.integers(len(self.voices.agents)))]
        rows = []
        for index, turn in enumerate(dialog["turns"]):
            name = f"{dialog['dialog']}-{index}"
            if turn["role"] == "agent":
                audio = f"audio/agent-{agent}-{hashlib.sha256(turn['text'].encode()).hexdigest()[:16]}.flac"
                is_there = (self.folder / audio).is_file()  # the same text in the same voice, whoever wrote it
                speaker, speed = agent, 1.0
                if is_there and agent.startswith("kokoro-"):  # slow, and it knows no times
                    spoken, sound = UNKNOWN_TIMES, read_audio(self.folder / audio, SAMPLE_RATE).samples.numpy()
                else:
                    spoken = speak_plainly(agent, turn["text"], kokoro_model=self.voices.kokoro)
                    sound = at_rate(spoken.samples, spoken.sample_rate)
            else:
                audio = f"audio/{name}.flac"
                augmentation = draw_variation(random)
                speaker, spoken = self._user_sound(turn, dialog["split"], augmentation.speed, random)
                speed, sound = augmentation.speed, vary(spoken.samples, spoken.sample_rate, augmentation, random)
                is_there = False  # what has the name may be of other words
            if not is_there:
                with publishing(self.folder / audio) as part:  # two processes may say the same agent text
                    soundfile.write(part, sound, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            rows.append(
                {
                    "id": name,
                    "audio": audio,
                    "speaker": speaker,
                    "role": turn["role"],
                    "dialog": dialog["dialog"],
                    "turn": index,
                    "split": dialog["split"],
                    "text": turn["text"],
                    "duration": round(len(sound) / SAMPLE_RATE, 3),
                    "sample_rate": SAMPLE_RATE,
                    "words": _times(spoken.words, speed),
                    "phones": _times(spoken.phones, speed) or None,
                    "pronunciation": self._pronunciation(turn["text"], spoken),
                }
            )
        return rows

    def _user_sound(self, turn: dict, split: str, speed: float, random: np.random.Generator) -> tuple[str, Synthesised]:
        """A recording that the turn brings, noise alone where nothing is said, or a synthesiser's voice."""
        if "audio" in turn:
            samples = (read_audio(turn["audio"], SAMPLE_RATE).samples.numpy() * 32767).astype(np.int16)
            return "recording", Synthesised(samples, SAMPLE_RATE, (), ())
        if turn["text"] == NOTHING_SAID:
            return "noise", Synthesised(draw_noise(random), SAMPLE_RATE, (), ())
        return self._speak_user(turn["text"], split, speed, random)

    def _speak_user(self, text: str, split: str, speed: float, random: np.random.Generator) -> tuple[str, Synthesised]:
        """Slower by `speed`, which the variation will make up for: it moves the voice, not the tempo."""
        if random.random() < self.voices.espeak_share:
            choices = espeak.voices(self.language.espeak)
            speaker = f"espeak-{choices[random.integers(len(choices))]}"
        else:
            names = list(self.voices.user) + (list(self.voices.held_out) if split == "test" else [])
            speaker = names[random.integers(len(names))]
        return speaker, speak_as(speaker, text, random, speed=speed, kokoro_model=self.voices.kokoro)

    def _pronunciation(self, text: str, spoken: Synthesised) -> list[str]:
        """Phones in the language's one alphabet: flite's of English, eSpeak's own of any other."""
        if isinstance(self.language, English):
            return _pronunciation(text)
        return [phone.text for phone in spoken.phones]


def _draw(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


@lru_cache(maxsize=100_000)
def _pronunciation(text: str) -> list[str]:
    """Phones of a text whoever speaks it: kal16, the diphone voice, is the cheapest way to flite's lexicon."""
    if text == NOTHING_SAID:
        return []
    return [phone.text for phone in flite_voice("kal16").speak(text).phones if phone.text != "pau"]


def _times(spans: Sequence[AlignedWord], speed: float) -> list[list]:
    return [[span.text, round(span.start / speed, 3), round(span.end / speed, 3)] for span in spans]
