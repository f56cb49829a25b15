"""Dialog text of one narrow domain: what the embedded model is taught to talk about.

Source: the Schema-Guided Dialogue text (CC BY-SA 4.0) as JSON lines, one dialog a line
(`{"dialog", "services", "turns": [{"speaker", "text"}]}`), and the small talk of `small_talk.py`.
The domain is set by the number of different words: turns that use any other word are left out and counted, but
for some that teach the agent to say that it did not understand (`not_understood.py`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.embedded_model import not_understood
from data_prep.embedded_model.small_talk import INTENTS
from usdm.data.labels import LABELS_FILE, labels_text
from usdm.runs import arguments_of, claim, write_text
from usdm.tokens.spoken_text import spoken_text, spoken_words
from usdm.types import InputError

logger = logging.getLogger(__name__)

DIALOGS_FILE, DOMAIN_FILE = "dialogs.jsonl", "domain.json"
_NOT_UNDERSTOOD_TEST_SHARE = 0.05


@dataclass(frozen=True)
class Exchange:
    """A user turn and the reply to it, in the words that are spoken."""

    user: str
    agent: str

    @property
    def words(self) -> list[str]:
        return spoken_words(self.user) + spoken_words(self.agent)


@dataclass(frozen=True)
class DomainReport:
    """How wide the domain is, and what was left out of it."""

    vocabulary: int  # different words
    dialogs: dict[str, int]  # by split
    exchanges: dict[str, int]  # by split
    left_out: dict[str, int]  # by reason
    services: dict[str, int]


def prepare_dialogs(
    train_file: str | Path,
    held_out_file: str | Path,
    output_dir: str | Path,
    *,
    vocabulary_size: int,
    max_user_words: int,
    max_agent_words: int,
    max_train_exchanges: int,
    max_copies: int,
    max_train_occurrences: int,
    small_talk_copies: int,
    noise_turns: int,
    unknown_words_turns: int,
    unknown_words_recordings: Sequence[str | Path],
    dev_share: float,
    seed: int,
    overwrite: bool = False,
) -> DomainReport:
    """Write `dialogs.jsonl` (one dialog a line, split train, dev or test), `labels.jsonl` and `domain.json` into
    `output_dir`. A dialog's `label` is the domain of its first service, `fine` that service.

    Consecutive exchanges inside the domain stay together as one dialog. Test dialogs come from the held-out
    file and their user texts are unseen: one that training has a few times is left out of training, one that it has
    often ("yes, please.") is left out of the test.

    Args:
        vocabulary_size: the domain is the most frequent words, this many.
        max_copies: the same exchange (user and agent text) is kept this often at most.
        max_train_occurrences: a held-out user text that training has more often stays in training.
        small_talk_copies: how often training has each exchange of small talk, each time in a voice of its own: a
            stranger begins with it, and the dialogs hardly have it.
        noise_turns: user turns without words that the agent does not understand.
        unknown_words_turns: the same with at least two words outside the domain, at most this many.
        unknown_words_recordings: folders of transcribed recordings; those with a word outside the domain become
            user turns that the agent does not understand, and bring their sound.
        dev_share: share of training dialogs that become split "dev".
        overwrite: delete other dialogs in `output_dir`.

    Raises:
        InputError: a file is missing or has a line that is no dialog, or other dialogs are there.
    """
    given = arguments_of(prepare_dialogs, locals(), but=("output_dir", "overwrite"))
    results = (DIALOGS_FILE, DOMAIN_FILE, LABELS_FILE)
    with claim(output_dir, given.settings, given.inputs, results=results, overwrite=overwrite) as claimed:
        train = [(row, list(_exchanges(row, max_user_words, max_agent_words))) for row in _read_dialogs(train_file)]
        counts = Counter(word for _, runs in train for run in runs for exchange in run for word in exchange.words)
        vocabulary = {word for word, _ in counts.most_common(vocabulary_size)}
        vocabulary |= {word for text in not_understood.REPLIES for word in spoken_words(text)}
        vocabulary |= {
            word for users, agents in INTENTS.values() for text in users + agents for word in spoken_words(text)
        }

        left_out: Counter[str] = Counter()
        services: Counter[str] = Counter()
        copies: Counter[Exchange] = Counter()
        held_out = [
            (row, list(_exchanges(row, max_user_words, max_agent_words))) for row in _read_dialogs(held_out_file)
        ]
        often = {
            text for text, count in _user_texts(runs for _, runs in train).items() if count > max_train_occurrences
        } | {_words_of(user) for users, _ in INTENTS.values() for user in users[:-1]}
        unseen = set(_user_texts(runs for _, runs in held_out)) - often
        unseen |= {_words_of(users[-1]) for users, _ in INTENTS.values()}
        dialogs: list[dict] = []
        order = sorted(train, key=lambda item: _draw(seed, item[0]["dialog"]))
        kept = 0
        for row, runs in order:
            if kept >= max_train_exchanges:
                left_out["beyond the wanted number of exchanges"] += sum(map(len, runs))
                continue
            split = "dev" if _draw(seed + 1, row["dialog"]) < dev_share else "train"
            for run in _inside(runs, vocabulary, left_out):
                fresh = [exchange for exchange in run if copies[exchange] < max_copies]
                left_out["copies"] += len(run) - len(fresh)
                learnt = [exchange for exchange in fresh if _words_of(exchange.user) not in unseen]
                left_out["user text that is held out"] += len(fresh) - len(learnt)
                if not learnt:
                    continue
                copies.update(learnt)
                kept += len(learnt)
                services.update(row["services"])
                dialogs.append(_dialog(f"{row['dialog']}-{len(dialogs)}", split, row["services"], learnt))
        dialogs.extend(_small_talk(small_talk_copies))
        for row, runs in held_out:
            for run in _inside(runs, vocabulary, left_out):
                tested = [exchange for exchange in run if _words_of(exchange.user) in unseen]
                left_out["held-out user text that training has often"] += len(run) - len(tested)
                if tested:
                    dialogs.append(_dialog(f"{row['dialog']}-{len(dialogs)}", "test", row["services"], tested))

        strange = [text for _, runs in order for text in _unknown(runs, vocabulary) if _words_of(text) not in unseen]
        recorded = list(not_understood.recorded_turns(unknown_words_recordings))
        outside = [(text, audio) for text, audio in recorded if not set(spoken_words(text)) <= vocabulary]
        left_out["recordings with no word outside the domain"] = len(recorded) - len(outside)
        for kind, turns in (
            ("noise", [(not_understood.NOTHING_SAID, None)] * noise_turns),
            ("unknown-words", [(text, None) for text in strange[:unknown_words_turns]]),
            ("recording", outside),
        ):
            dialogs.extend(_not_understood(kind, turns, seed))

        splits = Counter(dialog["split"] for dialog in dialogs)
        exchanges: Counter[str] = Counter()
        for dialog in dialogs:
            exchanges[dialog["split"]] += len(dialog["turns"]) // 2
        report = DomainReport(
            len(vocabulary), dict(splits), dict(exchanges), dict(left_out), dict(services.most_common())
        )
        write_text(claimed.path / DIALOGS_FILE, "".join(json.dumps(dialog) + "\n" for dialog in dialogs))
        write_text(claimed.path / LABELS_FILE, labels_text(map(_label, dialogs)))
        write_text(claimed.path / DOMAIN_FILE, json.dumps(asdict(report) | {"words": sorted(vocabulary)}, indent=1))
        claimed.finish(asdict(report))
        logger.info("%s", report)
        return report


def _read_dialogs(file: str | Path) -> Iterator[dict]:
    path = Path(file)
    if not path.is_file():
        raise InputError(f"Dialog text {path} does not exist: give a .jsonl or .jsonl.gz file, one dialog a line.")
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for line in lines:
                number += 1
                yield _dialog_of(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}, line {number} is no dialog ({error!r}): need dialog, services and turns.") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged, or not compressed by gzip ({error}): fetch it again.") from error
    if not number:
        raise InputError(f"{path} is empty: give dialogs, one a line.")


def _dialog_of(row: Any) -> dict:
    """Raises ValueError, KeyError or TypeError if it lacks anything that is needed."""
    turns = [{"speaker": turn["speaker"], "text": turn["text"]} for turn in row["turns"]]
    if not all(isinstance(text, str) for text in (row["dialog"], *row["services"], *(turn["text"] for turn in turns))):
        raise ValueError("a name or a text is no string")
    return {"dialog": row["dialog"], "services": row["services"], "turns": turns}


def _exchanges(row: dict, max_user_words: int, max_agent_words: int) -> Iterator[list[Exchange]]:
    """Runs of consecutive exchanges that are short enough."""
    run: list[Exchange] = []
    turns = [turn for turn in row["turns"]]
    for user, agent in zip(turns, turns[1:], strict=False):
        if user["speaker"] != "user" or agent["speaker"] != "agent":
            continue
        exchange = Exchange(spoken_text(user["text"]), spoken_text(agent["text"]))
        lengths = len(spoken_words(exchange.user)), len(spoken_words(exchange.agent))
        if 0 < lengths[0] <= max_user_words and 0 < lengths[1] <= max_agent_words:
            run.append(exchange)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _inside(runs: Iterable[list[Exchange]], vocabulary: set[str], left_out: Counter[str]) -> Iterator[list[Exchange]]:
    """The same runs, cut wherever an exchange has a word outside the vocabulary."""
    for run in runs:
        part: list[Exchange] = []
        for exchange in run:
            if all(word in vocabulary for word in exchange.words):
                part.append(exchange)
                continue
            left_out["words outside the domain"] += 1
            if part:
                yield part
            part = []
        if part:
            yield part


def _user_texts(dialogs: Iterable[Iterable[list[Exchange]]]) -> Counter[tuple[str, ...]]:
    return Counter(_words_of(exchange.user) for runs in dialogs for run in runs for exchange in run)


def _words_of(text: str) -> tuple[str, ...]:
    return tuple(spoken_words(text))


def _small_talk(copies: int) -> Iterator[dict]:
    """A dialog for each user form, reply and copy; of a held-out form one alone."""
    for intent, (users, agents) in INTENTS.items():
        for position, user in enumerate(users):
            split, times = ("test", 1) if position == len(users) - 1 else ("train", copies * len(agents))
            for number in range(times):
                agent = agents[number % len(agents)]
                name = f"small-talk-{intent}-{position}-{number}"
                yield _dialog(name, split, ["small talk"], [Exchange(user, agent)])


def _unknown(runs: Iterable[list[Exchange]], vocabulary: set[str]) -> Iterator[str]:
    """User texts with at least two words outside the vocabulary."""
    for run in runs:
        for exchange in run:
            if len(set(spoken_words(exchange.user)) - vocabulary) >= 2:
                yield exchange.user


def _not_understood(kind: str, turns: Sequence[tuple[str, Path | None]], seed: int) -> Iterator[dict]:
    """A dialog for each turn, some of them held out; `audio` in a turn is its sound."""
    for number, (text, audio) in enumerate(turns):
        name = f"not-understood-{kind}-{number}"
        drawn_by = name if text == not_understood.NOTHING_SAID else text  # who says it twice says it in one split
        split = "test" if _draw(seed, drawn_by) < _NOT_UNDERSTOOD_TEST_SHARE else "train"
        dialog = _dialog(name, split, ["not understood"], [Exchange(text, not_understood.reply(number))])
        if audio is not None:
            dialog["turns"][0]["audio"] = str(audio)
        yield dialog


def _dialog(name: str, split: str, services: list[str], exchanges: list[Exchange]) -> dict:
    turns = []
    for exchange in exchanges:
        turns += [{"role": "user", "text": exchange.user}, {"role": "agent", "text": exchange.agent}]
    return {"dialog": name, "split": split, "services": services, "turns": turns}


def _label(dialog: dict) -> dict[str, str]:
    """Services are called DOMAIN_NUMBER."""
    service = dialog["services"][0]
    return {"id": dialog["dialog"], "label": service.partition("_")[0], "fine": service}


def _draw(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on the seed and the name alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") / 2**64
