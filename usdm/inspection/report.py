"""An inspection as `inspection.json` and as one page that needs no other file: `inspection.html`."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from html import escape
from pathlib import Path

from usdm.inspection.audio import (
    CLIPPED_RUN,
    FRAME_SECONDS,
    FULL_SCALE,
    SHORTEST_PAUSE,
    SILENCE_BELOW_SPEECH,
    SILENCE_LEVEL,
    AudioFigures,
)
from usdm.inspection.clips import CLIP_SECONDS, clip
from usdm.inspection.corpus import Inspection, Outlier, SpeechFigures
from usdm.inspection.findings import Finding, findings
from usdm.inspection.page import (
    MOST_ROWS,
    NONE,
    Raw,
    figure,
    number,
    page,
    pairs,
    percent,
    quiet,
    spread,
    table,
)
from usdm.inspection.plots import histogram, silence, speaker_hours, unit_frequencies
from usdm.inspection.rows import RowFigures
from usdm.inspection.statistics import Repeats
from usdm.inspection.units import UnitFigures
from usdm.metrics.facts import installed_version
from usdm.runs import write_text
from usdm.types import InputError

JSON_FILE = "inspection.json"
HTML_FILE = "inspection.html"
UNITS = {  # of the outliers' values
    "longest": "s",
    "shortest": "s",
    "length off by most": "s",
    "most clipped": "%",
    "most silent": "%",
    "most words per second": "words/s",
    "fewest words per second": "words/s",
    "lowest confidence": "",
}


def write_report(inspection: Inspection, folder: str | Path) -> None:
    """Write `inspection.json` and `inspection.html`; the page reads the outliers' sounds once more."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = findings(inspection)
    facts = {"usdm": installed_version("usdm"), "date": date.today().isoformat()}
    figures = {"facts": facts, "findings": [asdict(one) for one in found], **asdict(inspection)}
    text = json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / JSON_FILE, text + "\n")
    write_text(folder / HTML_FILE, page("Inspection of a corpus", _body(inspection, found, facts)))


def _body(inspection: Inspection, found: Sequence[Finding], facts: Mapping[str, str | None]) -> Iterator[str]:
    yield "<h1>Inspection of a corpus</h1>"
    yield quiet(f"{facts['date']}, usdm {facts['usdm'] or 'from source'}. All figures: {JSON_FILE}.")
    settings = {
        name: ", ".join(value) if isinstance(value, list) else value for name, value in inspection.settings.items()
    }
    yield pairs({name: value for name, value in settings.items() if value is not None and value != ""})
    yield "<h2>To look at first</h2>"
    rows = [[Raw(f'<span class="{one.kind}">{one.kind}</span>'), one.where, one.what, one.count] for one in found]
    yield table(["", "where", "what", "how many"], rows, most=None) if rows else "<p>Nothing stands out.</p>"
    if inspection.speech is not None:
        yield from _speech(inspection.speech)
    if inspection.units is not None:
        yield from _units(inspection.units)


def _speech(speech: SpeechFigures) -> Iterator[str]:
    rows, audio, alignment = speech.rows, speech.audio, speech.alignment
    yield "<h2>Speech corpus</h2>"
    yield pairs(
        {
            **_common(rows),
            "with word times": f"{percent(alignment.share)} of utterances",
            "within a word": f"{percent(alignment.covered)} of all time",
            "confidence of word times": spread(alignment.confidence, ""),
        }
    )
    yield "<h3>Sound</h3>"
    yield quiet(_how_measured(audio))
    yield pairs(_sound(audio))
    yield '<div class="plots">'
    yield from _row_plots(rows)
    plots = {
        "Level": (audio.level, "root mean square, dBFS", "sounds"),
        "Silence": (audio.silence_share, "silence, share of the sound", "sounds"),
        "Within a word": (alignment.coverage, "share of the utterance", "utterances"),
        "Confidence of word times": (alignment.confidence, "mean of an utterance, 0 to 1", "utterances"),
    }
    for caption, (found, label, counted) in plots.items():
        if found is not None:
            yield figure(caption, histogram(found, label, counted))
    if audio.measured:
        yield figure("Where it is silent", silence(audio.silence))
    yield "</div>"
    yield from _groups(rows)
    yield from _repeats(
        {
            "Recordings whose utterances are in more than one split": speech.leaking_sounds,
            "Identical sounds in more than one split": speech.leaking_audio,
            "Dialogs in more than one split": rows.leaking_dialogs,
            "Ids given more than once": rows.repeated_ids,
            "Identical sounds under several names": speech.identical_audio,
            "Recordings that are several utterances": speech.shared_sounds,
            "Texts that a speaker says more than once": rows.repeated_texts,
        }
    )
    yield from _unreadable(audio)
    yield from _outliers(speech.outliers)


def _common(rows: RowFigures) -> dict[str, object]:
    text, speakers = rows.text, rows.speakers
    return {
        "hours": f"{rows.hours:,.2f}",
        "utterances": f"{rows.utterances:,}",
        "length": spread(rows.duration, "s"),
        "words": f"{text.words:,}, {text.distinct_words:,} of them distinct",
        "speed": spread(rows.words_per_second, "words/s"),
        "speakers": f"{speakers.count:,}; as varied as {number(speakers.effective)} that are equally heard; the most "
        f"heard has {percent(speakers.largest_share)} of the time; {speakers.across_splits:,} in more than one split",
    }


def _sound(audio: AudioFigures) -> dict[str, object]:
    parts = ", ".join(f"{place} {percent(share)}" for place, share in audio.silence.items() if place != "total")
    rates = ", ".join(f"{int(rate):,} Hz ({count:,})" for rate, count in audio.sample_rates.items())
    return {
        "measured": f"{audio.measured:,} of {audio.sounds:,} sounds, {audio.hours:,.2f} h",
        "cannot be read": f"{len(audio.unreadable):,}",
        "sample rates": rates or NONE,
        "silence": f"{percent(audio.silence['total'])} of the time ({parts})",
        "silence before": spread(audio.leading, "s"),
        "silence after": spread(audio.trailing, "s"),
        "clipped": f"{audio.clipped:,} sounds, {percent(audio.clipped_share)} of all samples",
        "level": spread(audio.level, "dBFS"),
        "peak": spread(audio.peak, "dBFS"),
    }


def _how_measured(audio: AudioFigures) -> str:
    tried = audio.measured + len(audio.unreadable)
    which = (
        "Every sound was measured"
        if tried == audio.sounds
        else f"A random sample of {tried:,} of {audio.sounds:,} sounds was measured, and only these were compared"
    )
    return (
        f"{which}; a sound that several utterances share counts once. Silence: {FRAME_SECONDS * 1000:.0f} ms frames "
        f"{SILENCE_BELOW_SPEECH:.0f} dB below the sound's own loud frames (95th percentile) or below "
        f"{SILENCE_LEVEL:.0f} dBFS, pauses from {SHORTEST_PAUSE:g} s on. Clipped: {CLIPPED_RUN} or more samples in a "
        f"row at {FULL_SCALE:.1%} of full scale or above. In the plots, dashed lines are medians, and the outermost "
        "bars hold what lies beyond."
    )


def _row_plots(rows: RowFigures) -> Iterator[str]:
    if rows.duration is not None:
        yield figure("Length", histogram(rows.duration, "seconds"))
    if rows.words_per_second is not None:
        yield figure("Speed", histogram(rows.words_per_second, "words per second"))
    if rows.speakers.hours and rows.hours:
        yield figure("Speakers", speaker_hours(list(rows.speakers.hours.values())))


def _groups(rows: RowFigures) -> Iterator[str]:
    yield '<div class="tables">'
    for title, name, groups in (("Splits", "split", rows.splits), ("Roles", "role", rows.roles)):
        body = [[each or "(none)", group.utterances, group.hours, group.speakers] for each, group in groups.items()]
        yield f"<div><h3>{title}</h3>{table([name, 'utterances', 'hours', 'speakers'], body)}</div>"
    whole = rows.hours or 1.0
    speakers = [[name or "(none)", hours, percent(hours / whole)] for name, hours in rows.speakers.hours.items()]
    yield f"<div><h3>Speakers</h3>{table(['speaker', 'hours', 'share'], speakers)}</div>"
    other = [[character, _character_name(character), count] for character, count in rows.text.other_characters.items()]
    if other:
        yield "<div><h3>Characters besides letters, digits and apostrophe</h3>"
        yield table(["character", "name", "occurrences"], other) + "</div>"
    yield "</div>"


def _character_name(character: str) -> str:
    return unicodedata.name(character, f"U+{ord(character):04X}").lower()


def _repeats(kinds: Mapping[str, Repeats]) -> Iterator[str]:
    there = {title: repeats for title, repeats in kinds.items() if repeats.contents}
    if there:
        yield "<h3>Leaks and duplicates</h3>"
    for title, repeats in there.items():
        splits = ", ".join(f"{number:,} in {split or '(none)'}" for split, number in repeats.by_split.items())
        yield f"<h4>{escape(title)}: {repeats.contents:,}</h4>"
        yield quiet(f"{repeats.utterances:,} utterances: {splits}.")
        if repeats.examples:
            yield table((), [[", ".join(names)] for names in repeats.examples], most=None)


def _unreadable(audio: AudioFigures) -> Iterator[str]:
    if audio.unreadable:
        yield "<h3>Sounds that cannot be read</h3>"
        yield table(["id", "why"], [[one.id, one.error] for one in audio.unreadable], most=MOST_ROWS)


def _outliers(outliers: Mapping[str, Sequence[Outlier]]) -> Iterator[str]:
    yield "<h3>Outliers to listen to</h3>"
    yield quiet(f"The first {CLIP_SECONDS:g} s of each. Length, speed and confidence are told from the whole corpus.")
    for kind, found in outliers.items():
        if found:
            yield f"<h4>{kind[0].upper()}{kind[1:]}</h4>"
            head = ["value", "listen", "id", "speaker", "split", "text"]
            yield table(head, [_outlier(UNITS[kind], outlier) for outlier in found], most=None)


def _outlier(unit: str, outlier: Outlier) -> list[object]:
    value = number(100 * outlier.value if unit == "%" else outlier.value)
    try:
        player = Raw(f'<audio controls preload="none" src="{clip(outlier)}"></audio>')
    except InputError as error:
        player = Raw(f'<span class="fault">{escape(str(error))}</span>')
    return [f"{value}\u00a0{unit}", player, outlier.id, outlier.speaker, outlier.split, outlier.text]


def _units(units: UnitFigures) -> Iterator[str]:
    source, usage, speech = units.source, units.usage, units.speech
    yield "<h2>Unit corpus</h2>"
    facts = {
        "units": f"{units.units:,} at {source.unit_rate} Hz, in {units.files:,} files",
        "centroids": source.centroid_hash,
        "units in use": f"{usage.used:,} of {source.num_units:,}",
        "entropy": f"{usage.entropy:.2f} bits; perplexity {number(usage.perplexity)} of {source.num_units:,}",
        "most frequent 1 % of units": f"{percent(usage.top_share)} of all",
        "said in a row": f"{number(units.run_length)} times on average",
        **_common(units.rows),
        "without words and their ends": f"{units.without_words:,} utterances",
    }
    if speech is not None:
        facts |= {
            "units a second of sound": f"{spread(speech.units_per_second, '')}; {source.unit_rate} by definition",
            "against the speech corpus": f"{speech.without_units:,} of its utterances have no units, "
            f"{speech.without_speech:,} here are not in it, {speech.wrong_length:,} have another length",
        }
    yield pairs(facts)
    yield '<div class="plots">'
    if units.units:
        yield figure("Use of the units", unit_frequencies(usage.counts))
    if speech is not None and speech.units_per_second is not None:
        yield figure("Units a second of sound", histogram(speech.units_per_second, "units per second"))
    if not units.all_in_speech:
        yield from _row_plots(units.rows)
    yield "</div>"
    if not units.all_in_speech:
        yield from _groups(units.rows)
    repeats = {
        "Sequences of units in more than one split": units.leaking_sequences,
        "Sequences of units that are there more than once": units.repeated_sequences,
    }
    if not units.all_in_speech:
        repeats |= {
            "Dialogs in more than one split": units.rows.leaking_dialogs,
            "Ids given more than once": units.rows.repeated_ids,
            "Texts that a speaker says more than once": units.rows.repeated_texts,
        }
    yield from _repeats(repeats)
