"""Speech that nobody said: units of any text, put together from pieces of speech whose phones are known.

A language model that is to transcribe every word must have heard every word, but recordings are few and a natural
synthesiser takes seconds a second. Their units can be cut at phones and joined anew, for any text that a lexicon
pronounces: concatenative synthesis (Hunt and Black, ICASSP 1996), without sound. Of a piece that begins as the text
wants it as much is taken as goes on so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_prep.alignment.phone_head import PAUSE
from data_prep.alignment.pocketsphinx_phones import FlitePronunciation
from data_prep.embedded_model.not_understood import NOTHING_SAID
from usdm.data.speech_corpus import Utterance, read_speech_corpora
from usdm.data.unit_corpus import UnitCorpus, UnitCorpusWriter, UnitUtterance
from usdm.interleave import spoken_form, spoken_words
from usdm.runs import Places, Shards, Task, claim, in_processes
from usdm.types import AlignedWord, InputError

SUFFIX = ".parquet"
_VARIED = re.compile(r"^varied\d+-")  # what `extract_units` writes before the id of a varied turn
_TOKEN = re.compile(r"([a-z']+)([,.?]?)")
_DRAWN = 4  # places, of which the piece that goes on longest is taken
_PAUSES = {"": 0.03, ",": 0.5, ".": 0.9, "?": 0.9}  # how often one follows a word, by its punctuation


@dataclass(frozen=True)
class ComposedReport:
    """What was made."""

    turns: int
    units: int
    phones_a_piece: float  # on average, of this run: how much was taken at once
    failed: tuple[str, ...]  # a message for each dialog that could not be composed


@dataclass(frozen=True)
class Composed:
    """A text in units."""

    units: NDArray[np.uint16]  # (U,)
    words: tuple[AlignedWord, ...]  # start and end in units, not in seconds
    pieces: int
    phones: int


def compose_units(
    dialogs_file: str | Path,
    corpora: Sequence[str | Path],
    unit_corpora: Sequence[str | Path],
    output_dir: str,
    *,
    agents: Sequence[str],
    least_phones: int,
    shard_dialogs: int,
    max_failed_share: float,
    processes: int,
    seed: int,
    retry_errors: bool = False,
    overwrite: bool = False,
) -> ComposedReport:
    """Write the turns of dialogs as units into Parquet files in `output_dir`, a unit corpus.

    Each dialog draws a user and an agent among the speakers of the corpora, and takes pieces of others where a speaker
    never said what is wanted. Only split "train" of the corpora is cut up. What a dialog becomes depends on the seed
    and its own line alone.

    Args:
        dialogs_file: as `synthesize_corpus` takes it.
        corpora: speech corpora with phone times (of `synthesize_corpus` with flite, or of `usdm align`).
        unit_corpora: what `extract_units` made of them, plain or varied.
        agents: speakers that say the agents' turns, by their names in the corpora; the others say users'.
        least_phones: that a user must have said; who said less only helps out.
        max_failed_share: of the dialogs that may have a phone that nobody says; they are left out and told.
        processes: one is this one; each of several has one thread.

    Raises:
        InputError: more dialogs fail, a corpus or the dialogs cannot be read, nothing in them has both phone times and
            units, an agent says nothing there, flite is not installed, or what came of other inputs lies in
            `output_dir`.
    """
    source = Path(dialogs_file)
    if not source.is_file():
        raise InputError(f"{source} does not exist: run `usdm prepare_dialogs` first, or give dialogs_file=.")
    settings = {"agents": list(agents), "least_phones": least_phones, "seed": seed}
    inputs: dict[str, Places] = {"dialogs_file": source, "corpora": list(corpora), "unit_corpora": list(unit_corpora)}
    with claim(
        output_dir, settings, inputs, results=(f"*{SUFFIX}", "rows/*"), grows=("dialogs_file",), overwrite=overwrite
    ) as claimed:
        shards = Shards(Path(output_dir), SUFFIX)
        share = shards.share([source], shard_dialogs, overwrite=overwrite, retry_failed=retry_errors)
        worker = partial(_Composer, shards, list(corpora), list(unit_corpora), list(agents), least_phones, seed)
        made = in_processes(worker, share.tasks, processes)
        turns = units = pieces = phones = 0
        for done in tqdm(made, total=len(share.tasks), unit="shard", desc="compose_units"):
            pieces, phones = pieces + done[0], phones + done[1]
        corpus = UnitCorpus([shard.path for shard in shards.done()])
        turns = sum(parquet.num_rows for parquet in map(_metadata, corpus.files))
        units = sum(group.units for group in corpus.groups)
        failed = tuple(f"{row.id}: {row.message}" for row in shards.outcome(share).failed)
        if len(failed) > max_failed_share * len(share.own):
            raise InputError(
                f"{len(failed)} dialogs could not be composed, at most a share of {max_failed_share:g} may fail: "
                f"{'; '.join(failed[:5])}"
            )
        report = ComposedReport(turns, units, round(phones / max(1, pieces), 2), failed)
        claimed.finish({"turns": turns, "units": units, "phones_a_piece": report.phones_a_piece, "failed": len(failed)})
    return report


class Pieces:
    """Phones of a corpus with their units, found by what stands beside them.

    Args:
        utterances: with phone times.
        units: of each, one or more versions, by id.
        unit_rate: Hz.
    """

    def __init__(self, utterances: Sequence[Utterance], units: dict[str, list[NDArray[np.uint16]]], unit_rate: float):
        names: dict[str, int] = {PAUSE: 0}
        phones: list[int] = [0]  # a pause, which is nobody's, before the first utterance and after each
        bounds: list[int] = [0]  # in `units`, where each phone begins; its end is the next one's beginning
        speakers: list[int] = [-1]
        parts: list[NDArray[np.uint16]] = []
        self.speakers: list[str] = []
        self.lexicon: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
        total = 0
        numbers: dict[str, int] = {}
        for utterance in utterances:
            self._learn_words(utterance)
            speaker = numbers.setdefault(utterance.speaker, len(numbers))
            for row in units[utterance.id]:
                cuts = _cuts(utterance, len(row), unit_rate)
                phones += [names.setdefault(phone.text, len(names)) for phone in utterance.phones]
                bounds += [total + cut for cut in cuts[:-1]]
                speakers += [speaker] * len(utterance.phones)
                phones.append(0)
                bounds.append(total + cuts[-1])
                speakers.append(-1)
                parts.append(row[: cuts[-1]])
                total += cuts[-1]
        bounds.append(total)
        self.speakers = list(numbers)
        self.units = np.concatenate(parts) if parts else np.empty(0, np.uint16)
        self._names, self._phones, self._speakers = names, np.array(phones), np.array(speakers)
        self._bounds = np.array(bounds)
        self._places = self._index()

    def said(self, speaker: str) -> int:
        """Phones of a speaker, every version counted."""
        return int((self._speakers == self.speakers.index(speaker)).sum()) if speaker in self.speakers else 0

    def compose(
        self, words: Sequence[tuple[str, Sequence[str], bool]], speaker: str, random: np.random.Generator
    ) -> Composed:
        """Words, their phones and whether a pause follows -> units.

        Raises:
            InputError: a phone that nobody said.
        """
        silence = [(PAUSE, -1)] if (-1, 0) in self._places else []
        spoken = list(silence)  # phones, and the number of the word that each belongs to
        for number, (_, phones, pause) in enumerate(words):
            spoken += [(phone, number) for phone in phones]
            if pause and number < len(words) - 1:
                spoken += silence
        spoken += silence
        wanted = [phone for phone, _ in spoken]
        if strange := [phone for phone in wanted if (-1, self._names.get(phone, -1)) not in self._places]:
            raise InputError(f"nobody in the corpora says the phone {strange[0]!r}")
        target = np.array([self._names[phone] for phone in wanted])
        places: list[int] = []
        pieces = 0
        number = self.speakers.index(speaker)
        while len(places) < len(target):
            place, length = self._longest(target, len(places), number, random)
            places += range(place, place + length)
            pieces += 1
        lengths = self._bounds[np.array(places) + 1] - self._bounds[places]
        units = np.concatenate([self.units[self._bounds[place] : self._bounds[place + 1]] for place in places])
        ends = np.cumsum(lengths)
        spans: dict[int, tuple[int, int]] = {}
        for index, (_, word) in enumerate(spoken):
            if word >= 0:
                start = spans[word][0] if word in spans else int(ends[index] - lengths[index])
                spans[word] = (start, int(ends[index]))
        times = tuple(AlignedWord(words[word][0], *span) for word, span in spans.items())
        return Composed(units, times, pieces, len(target))

    def _longest(
        self, target: NDArray[np.int64], index: int, speaker: int, random: np.random.Generator
    ) -> tuple[int, int]:
        """A place that fits `target` from `index` on, of a few drawn the one that goes on longest, and how long.

        A piece ends before its last phone where the next one differs: the phone itself is then taken from a place
        where both its neighbours are right.
        """
        before = int(target[index - 1]) if index else 0
        after = int(target[index + 1]) if index + 1 < len(target) else 0
        phone = int(target[index])
        found = next(
            places
            for key in (
                (speaker, before, phone, after),
                (-1, before, phone, after),
                (speaker, phone, after),
                (-1, phone, after),
                (-1, before, phone, -1),
                (-1, phone),
            )  # fmt: skip
            if len(places := self._places.get(key, ())) > 0
        )
        best = (0, 0)
        for place in found[random.integers(len(found), size=_DRAWN)]:
            length = 1
            most = min(len(target) - index, len(self._phones) - int(place))
            while (
                length < most
                and self._phones[place + length] == target[index + length]
                and (self._speakers[place + length] >= 0)
            ):
                length += 1
            if length > 1 and index + length < len(target):
                length -= 1
            if length > best[1]:
                best = (int(place), length)
        return best

    def _learn_words(self, utterance: Utterance) -> None:
        """How words are said: their phones, by time."""
        starts = [phone.start for phone in utterance.phones]
        for word in utterance.words:
            first, last = np.searchsorted(starts, [word.start - 1e-3, word.end - 1e-3])
            said = tuple(phone.text for phone in utterance.phones[first:last] if phone.text != PAUSE)
            if said and (name := spoken_form(word.text)) and " " not in name:
                self.lexicon[name][said] += 1

    def _index(self) -> dict[tuple[int, ...], NDArray[np.int64]]:
        places: dict[tuple[int, ...], list[int]] = defaultdict(list)
        phones = self._phones.tolist()
        for place, (phone, speaker) in enumerate(zip(phones, self._speakers.tolist(), strict=True)):
            if speaker < 0:
                continue
            before, after = phones[place - 1], phones[place + 1]
            for key in (
                (speaker, before, phone, after), (-1, before, phone, after),
                (speaker, phone, after), (-1, phone, after), (-1, before, phone, -1), (-1, phone),
            ):  # fmt: skip
                places[key].append(place)
        return {key: np.array(found) for key, found in places.items()}


class _Composer:
    """Composes dialogs, in one process."""

    def __init__(
        self,
        shards: Shards,
        corpora: list[str | Path],
        unit_corpora: list[str | Path],
        agents: list[str],
        least_phones: int,
        seed: int,
        number: int,
    ) -> None:
        self.shards, self.seed, self.agents = shards, seed, agents
        units = UnitCorpus(unit_corpora)
        self.source = units.source
        self.pieces = read_pieces(corpora, units)
        if silent := [agent for agent in agents if not self.pieces.said(agent)]:
            raise InputError(f"agents={agents}: {silent[0]} says nothing in {', '.join(map(str, corpora))}")
        said = {name: self.pieces.said(name) for name in self.pieces.speakers}
        self.users = [name for name, count in said.items() if count >= least_phones and name not in agents]
        if not self.users:
            raise InputError(f"least_phones={least_phones}: the most that a user says is {max(said.values())}")
        self._pronounce = FlitePronunciation()

    def __call__(self, task: Task) -> tuple[int, int]:
        """Numbers of pieces and of phones."""
        pieces = phones = 0
        with self.shards.making(task) as (part, failed), UnitCorpusWriter(part, self.source) as writer:
            for _, line in task.rows:
                dialog = json.loads(line)
                try:
                    rows = list(self._rows(dialog))
                except InputError as error:
                    failed[dialog["dialog"]] = str(error)
                    continue
                for row, composed in rows:
                    writer.write(row)
                    pieces, phones = pieces + composed.pieces, phones + composed.phones
        return pieces, phones

    def _rows(self, dialog: dict) -> Iterator[tuple[UnitUtterance, Composed]]:
        digest = hashlib.sha256(f"{self.seed}/{dialog['dialog']}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        user = self.users[int(random.integers(len(self.users)))]
        agent = self.agents[int(random.integers(len(self.agents)))] if self.agents else user
        for index, turn in enumerate(dialog["turns"]):
            if turn["text"] == NOTHING_SAID:
                return
            speaker = agent if turn["role"] == "agent" else user
            composed = self.pieces.compose(list(self._words(turn["text"], random)), speaker, random)
            rate = self.source.unit_rate
            times = [AlignedWord(word.text, word.start / rate, word.end / rate) for word in composed.words]
            spoken = spoken_words(times, len(composed.units), rate)
            yield (
                UnitUtterance(
                    id=f"composed{self.seed}-{dialog['dialog']}-{index}",
                    speaker=speaker,
                    role=turn["role"],
                    dialog=f"composed{self.seed}-{dialog['dialog']}",
                    turn=index,
                    split=dialog["split"],
                    text=turn["text"],
                    units=composed.units,
                    words=spoken.words,
                    word_ends=spoken.ends,
                ),
                composed,
            )

    def _words(self, text: str, random: np.random.Generator) -> Iterator[tuple[str, Sequence[str], bool]]:
        """Each word as somebody in the corpora says it, or else as flite does."""
        for word, mark in _TOKEN.findall(text):
            if known := self.pieces.lexicon.get(word):
                ways = list(known)
                counts = np.array([known[way] for way in ways], dtype=float)
                phones: Sequence[str] = ways[int(random.choice(len(ways), p=counts / counts.sum()))]
            else:
                phones = self._pronounce(word)
            yield word, phones, bool(random.random() < _PAUSES[mark])


def read_pieces(corpora: Sequence[str | Path], units: UnitCorpus) -> Pieces:
    """Raises InputError if nothing has both phone times and units."""
    versions: dict[str, list[NDArray[np.uint16]]] = defaultdict(list)
    for row in units.utterances("train"):
        versions[_VARIED.sub("", row.id)].append(row.units)
    known = [row for row in read_speech_corpora(corpora, "train") if row.phones and row.id in versions]
    if not known:
        raise InputError(
            f"{', '.join(map(str, corpora))}: no utterance of split 'train' has both phone times and units; run `usdm "
            "align`, and give the unit corpora that were extracted from these corpora"
        )
    return Pieces(known, versions, units.source.unit_rate)


def _cuts(utterance: Utterance, count: int, unit_rate: float) -> list[int]:
    """Where each phone begins, in units, and where the last one ends; the first and last take what is left."""
    starts = np.rint(np.array([phone.start for phone in utterance.phones[1:]]) * unit_rate).astype(int)
    return [0, *np.clip(np.maximum.accumulate(starts), 0, count).tolist(), count] if len(starts) else [0, count]


def _metadata(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_metadata(path)
