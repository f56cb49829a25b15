"""Corpora as they are distributed, through Lhotse's recipes (package `lhotse`): one function a corpus.

Each takes the folder that the corpus was unpacked to. Recordings stay where they are; segments of long ones are named
by their times, sides of telephone calls by their channel.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.corpora import transcripts
from data_prep.corpora.calls import ROLES, turns
from data_prep.corpora.item import Item
from data_prep.corpora.lenient import lenient, segments
from usdm.types import AlignedWord, InputError

if TYPE_CHECKING:
    from lhotse import RecordingSet, SupervisionSet


def librispeech(folder: str, alignments: str | None = None) -> Iterator[Item]:
    """LibriSpeech or its mini edition; `alignments`: the folder of the word times that Lhotse can download."""
    root = _folder(folder)
    with lenient("librispeech") as recipe:
        parts = recipe.prepare_librispeech(root, alignments_dir=alignments)
    for part, manifests in sorted(parts.items()):
        yield from _utterances(**manifests, split=_first_word(part), clean=str.lower)
        named = (line.split(maxsplit=1)[0] for line in _lines((root / part).rglob("*.trans.txt")))
        yield from _lost(named, manifests["supervisions"])


def libritts(folder: str) -> Iterator[Item]:
    """LibriTTS or LibriTTS-R, normalised text."""
    root = _folder(folder)
    with lenient("libritts") as recipe:
        present = _present(root, recipe.LIBRITTS)
        parts = recipe.prepare_libritts(root, dataset_parts=present)
    for part, manifests in sorted(parts.items()):
        yield from _utterances(**manifests, split=_first_word(part))
        named = (line.split("\t")[0] for line in _lines((root / part).rglob("[!.]*.trans.tsv")))
        yield from _lost(named, manifests["supervisions"])


def multilingual_librispeech(folder: str, opus: bool = True) -> Iterator[Item]:
    """Every `mls_<language>` of the folder; `opus`: as opposed to FLAC."""
    with lenient("mls") as recipe:
        languages = recipe.prepare_mls(_folder(folder), opus=opus)
    for _, splits in sorted(languages.items()):
        for split, manifests in sorted(splits.items()):
            yield from _utterances(**manifests, split=split)


def gigaspeech(folder: str, subsets: Sequence[str] = ("XL", "DEV", "TEST")) -> Iterator[Item]:
    """The segments of `GigaSpeech.json`, which is read as a stream (package `ijson`): it is larger than memory."""
    import ijson

    root = _folder(folder)
    wanted = {f"{{{subset}}}" for subset in subsets}
    if not (root / "GigaSpeech.json").is_file():
        raise InputError(f"{root}: GigaSpeech.json is missing; give the folder that has it and audio/.")
    with lenient("gigaspeech") as recipe, (root / "GigaSpeech.json").open("rb") as file:
        for audio in ijson.items(file, "audios.item", use_float=True):
            audio["segments"] = [segment for segment in audio["segments"] if wanted & set(segment["subsets"])]
            if audio["segments"]:
                tested = {"{DEV}": "dev", "{TEST}": "test"}
                split = next((tested[name] for name in audio["subsets"] if name in tested), "train")
                recording, spoken = recipe.parse_utterance(audio, root)
                yield from _utterances([recording], spoken, split=split, clean=transcripts.gigaspeech)


def voxpopuli(folder: str, language: str = "en") -> Iterator[Item]:
    """Transcribed segments of `raw_audios/<language>`; `asr_<language>.tsv.gz` must lie in the folder or below."""
    root, name = _folder(folder), f"asr_{language}.tsv.gz"
    annotations = next(iter(sorted(root.rglob(name))), None)
    if annotations is None:
        raise InputError(f"{root}: {name} is missing; download it to there from VoxPopuli's annotations/asr.")
    with tempfile.TemporaryDirectory() as beside, lenient("voxpopuli") as recipe:
        shutil.copy(annotations, beside)  # where the recipe looks before it downloads
        splits = recipe.prepare_voxpopuli(root, beside, lang=language)
    for split, manifests in sorted(splits.items()):
        yield from _utterances(**manifests, split=split)


def peoples_speech(folder: str) -> Iterator[Item]:
    """The subsets of People's Speech that are there. Speakers are not known: each session counts as one."""
    root = _folder(folder)
    with lenient("peoples_speech") as recipe:
        present = [part for part in recipe.PEOPLES_SPEECH if (root / f"{part}.json").is_file()]
        if not present:
            raise InputError(f"{root}: none of {', '.join(f'{part}.json' for part in recipe.PEOPLES_SPEECH)} is there.")
        for part in present:  # the recipe's whole wants all of them
            recordings, supervisions = recipe._prepare_subset(part, root)
            split = {"validation": "dev"}.get(_first_word(part), _first_word(part))
            for item, segment in zip(_utterances(recordings, supervisions, split=split), supervisions, strict=True):
                yield replace(item, speaker=segment.custom["session_id"])


def common_voice(folder: str, language: str = "en") -> Iterator[Item]:
    """The released splits of one language; `folder` holds the languages' folders."""
    root = _folder(folder)
    with tempfile.TemporaryDirectory() as beside, lenient("commonvoice") as recipe:
        splits = recipe.prepare_commonvoice(root, beside, languages=language)[language]
        for split, manifests in sorted(splits.items()):
            yield from _utterances(**manifests, split=split)
            with (root / language / f"{split}.tsv").open(encoding="utf-8") as table:
                named = [
                    Path(row["path"]).stem for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
                ]
            yield from _lost(named, manifests["supervisions"])


def vctk(folder: str, edition: str = "0.92", microphone: str = "mic2") -> Iterator[Item]:
    """VCTK 0.92 (Edinburgh), or 0.80, which had one microphone."""
    if edition not in ("0.92", "0.80"):
        raise InputError(f"edition={edition!r}: VCTK's are 0.92 and 0.80.")
    with lenient("vctk") as recipe:
        manifests = recipe.prepare_vctk(_folder(folder), use_edinburgh_vctk_url=edition == "0.92", mic_id=microphone)
    yield from _utterances(**manifests)


def dailytalk(folder: str) -> Iterator[Item]:
    """Speaker 0 is the user, speaker 1 the agent; dialogs are not split up."""
    with lenient("daily_talk") as recipe:
        recordings, supervisions = recipe.prepare_daily_talk(_folder(folder))
    for item, segment in zip(_utterances(recordings, supervisions), supervisions, strict=True):
        name = segment.recording_id
        turn, speaker, dialog = name.removeprefix("dailytalk_").split("_")  # as the files are called
        yield replace(item, id=name, dialog=dialog, turn=int(turn), role=ROLES[int(speaker)], group=dialog)


def fisher(
    folder: str,
    audio_folders: Sequence[str] = ("LDC2004S13", "LDC2005S13"),
    transcript_folders: Sequence[str] = ("LDC2004T19", "LDC2005T19"),
    max_turn_seconds: float = 30.0,
) -> Iterator[Item]:
    """Fisher English; both parts, or those named. See `data_prep.corpora.calls.turns`."""
    with tempfile.TemporaryDirectory() as beside, lenient("fisher_english") as recipe:
        manifests = recipe.prepare_fisher_english(
            _folder(folder), beside, list(audio_folders), list(transcript_folders), absolute_paths=True
        )
        yield from turns(_calls(**manifests, clean=transcripts.fisher), max_turn_seconds)


def switchboard(folder: str, transcripts_folder: str, max_turn_seconds: float = 30.0) -> Iterator[Item]:
    """Switchboard-1 with the Mississippi State transcripts. See `data_prep.corpora.calls.turns`."""
    with lenient("switchboard") as recipe:
        manifests = recipe.prepare_switchboard(_folder(folder), _folder(transcripts_folder), absolute_paths=True)
    for turn in turns(_calls(**manifests, clean=transcripts.switchboard), max_turn_seconds):
        yield replace(turn, speaker=f"{turn.dialog}{'AB'[turn.channel or 0]}")  # Lhotse calls both sides A


def _utterances(
    recordings: RecordingSet | Iterable[Any],
    supervisions: SupervisionSet | Iterable[Any],
    *,
    split: str | None = None,
    clean: Callable[[str], str] = str,
) -> Iterator[Item]:
    """Lhotse's manifests as items, in the order of the supervisions."""
    for segment, recording in segments(recordings, supervisions):
        text = segment.text or ""
        cleaned = clean(text)
        whole = segment.start == 0 and (recording is None or segment.duration >= recording.duration - 1e-3)
        yield Item(
            id=segment.id,
            audio=None if recording is None else Path(recording.sources[0].source),
            text=cleaned,
            speaker=segment.speaker or "unknown",
            split=split,
            start=None if whole else segment.start,
            duration=None if whole else segment.duration,
            channel=segment.channel if isinstance(segment.channel, int) else None,
            words=_word_times(segment),
            speechless=bool(text.strip()) and not cleaned.strip(),
        )


def _calls(recordings: RecordingSet, supervisions: SupervisionSet, clean: Callable[[str], str]) -> Iterator[Item]:
    for item, segment in zip(_utterances(recordings, supervisions, clean=clean), supervisions, strict=True):
        call = segment.recording_id
        times = {"start": segment.start, "duration": segment.duration}
        yield replace(item, role=ROLES[segment.channel], dialog=call, group=call, **times)


def _word_times(segment: Any) -> tuple[AlignedWord, ...]:
    """Seconds from the segment's start; Lhotse counts from the recording's, and names silences with nothing."""
    return tuple(
        AlignedWord(word.symbol, word.start - segment.start, word.start + word.duration - segment.start)
        for word in (segment.alignment or {}).get("word", ())
        if word.symbol
    )


def _lost(named: Iterable[str], supervisions: Iterable[Any]) -> Iterator[Item]:
    """What the transcripts name and the recipe passed over because there is no sound."""
    found = {segment.id for segment in supervisions}
    return (
        Item(name, None, fault="no such file: transcribed, but there is no sound")
        for name in named
        if name not in found
    )


def _folder(path: str) -> Path:
    if not Path(path).is_dir():
        raise InputError(f"{path}: no such folder; give the one that the corpus was unpacked to.")
    return Path(path)


def _present(root: Path, parts: Sequence[str]) -> list[str]:
    if not (present := [part for part in parts if (root / part).is_dir()]):
        raise InputError(f"{root}: none of the parts {', '.join(parts)} is there; give the folder that holds them.")
    return present


def _lines(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        yield from (line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())


def _first_word(part: str) -> str:
    """ "train-clean-100" and "train/clean" are of split "train"."""
    return part.replace("/", "-").partition("-")[0]
