"""What a reader of an inspection should look at first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from usdm.inspection.audio import SILENCE_LEVEL, AudioFigures
from usdm.inspection.corpus import Inspection, SpeechFigures
from usdm.inspection.rows import RowFigures
from usdm.inspection.units import UnitFigures

LEAST_USED = 0.5  # of K

Kind = Literal["fault", "notice"]
Found = tuple[Kind, str, int]


@dataclass(frozen=True)
class Finding:
    """`fault`: training or its figures would suffer; `notice`: perhaps meant so."""

    kind: Kind
    where: str
    what: str
    count: int


def findings(inspection: Inspection) -> list[Finding]:
    """Faults first; what does not occur is left out."""
    parts: list[tuple[str, Iterator[Found]]] = []
    if inspection.speech is not None:
        parts.append(("speech corpus", _in_speech(inspection.speech)))
    if inspection.units is not None:
        parts.append(("unit corpus", _in_units(inspection.units)))
        if not inspection.units.all_in_speech:
            parts.append(("unit corpus", _in_rows(inspection.units.rows)))
    found = [Finding(kind, where, what, count) for where, part in parts for kind, what, count in part if count]
    return sorted(found, key=lambda finding: finding.kind)


def _in_speech(speech: SpeechFigures) -> Iterator[Found]:
    yield from _in_audio(speech.audio)
    yield "fault", "recordings whose utterances are in more than one split", speech.leaking_sounds.contents
    yield "fault", "identical sounds in more than one split", speech.leaking_audio.contents
    yield "notice", "sounds that are there under several names", speech.identical_audio.contents
    yield "notice", "recordings that are several utterances", speech.shared_sounds.contents
    yield (
        "fault",
        "utterances with words outside of their sound, or that end before they start",
        speech.alignment.impossible,
    )
    yield "notice", "utterances without word times", speech.rows.utterances - speech.alignment.utterances
    yield from _in_rows(speech.rows)


def _in_audio(audio: AudioFigures) -> Iterator[Found]:
    yield "fault", "sounds that cannot be read", len(audio.unreadable)
    yield "fault", f"silent sounds, which never rise above {SILENCE_LEVEL:.0f} dBFS", audio.silent
    yield "fault", "sounds that last otherwise than the corpus says", audio.wrong_length
    yield "notice", "sounds that are clipped somewhere", audio.clipped
    yield "notice", "sample rates beside the most usual one", max(0, len(audio.sample_rates) - 1)


def _in_rows(rows: RowFigures) -> Iterator[Found]:
    yield "fault", "dialogs with utterances in more than one split", rows.leaking_dialogs.contents
    yield "fault", "ids that are given more than once", rows.repeated_ids.contents
    yield "fault", "utterances without a length", rows.without_length
    yield "notice", "texts that a speaker says more than once", rows.repeated_texts.contents
    yield "notice", "utterances without text", rows.text.without_text
    yield "notice", "utterances with numbers in figures", rows.text.with_digits
    yield "notice", "speakers in more than one split", rows.speakers.across_splits


def _in_units(units: UnitFigures) -> Iterator[Found]:
    unused = units.source.num_units - units.usage.used
    few = unused > (1 - LEAST_USED) * units.source.num_units
    yield ("fault" if few else "notice"), f"units that never occur, of {units.source.num_units:,}", unused
    yield "fault", "sequences of units in more than one split", units.leaking_sequences.contents
    yield "notice", "sequences of units that are there more than once", units.repeated_sequences.contents
    yield "notice", "utterances without words and their ends", units.without_words
    if (speech := units.speech) is not None:
        rate = units.source.unit_rate
        yield "fault", f"utterances with other than {rate} units a second", speech.wrong_length
        yield "fault", "utterances of the speech corpus without units", speech.without_units
        yield "notice", "utterances that are not in the speech corpus", speech.without_speech
