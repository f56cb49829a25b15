"""`train_turn_head`: a unit extractor and people's turns -> a head that knows when a turn is over."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from usdm.data.speech_corpus import Utterance
from usdm.data.utterance_index import UtteranceIndex
from usdm.runs import arguments_of, claim
from usdm.training.run_folder import MODEL_FOLDER, finished
from usdm.turns import SAMPLE_RATE, TurnHead, turn_states
from usdm.turns.moments import Moment, PauseLengths, moments
from usdm.types import InputError
from usdm.units import UnitExtractor

logger = logging.getLogger(__name__)

BATCH = 64
WEIGHT_DECAY = 0.05
SHORTEST, LONGEST = 0.5, 8.0  # seconds of a turn that is learnt from


@dataclass(frozen=True)
class TurnHeadQuality:
    """On moments of dev utterances."""

    ranking: float  # share of pairs of a whole and a cut turn in which the whole one is likelier to be over (AUC)
    over_right: float  # share of whole turns that are taken for over
    unfinished_right: float  # share of cut turns that are not
    parameters: int
    moments: int  # that it learnt from


def train_turn_head(
    unit_extractor: str | Path,
    corpora: Sequence[str | Path],
    output_dir: str | Path,
    *,
    utterances: int,
    dev_utterances: int,
    cuts: int,
    lengths: PauseLengths,
    hidden: int,
    steps: int,
    learning_rate: float,
    seed: int,
    overwrite: bool = False,
) -> TurnHeadQuality:
    """Learn from whole turns, turns cut short, and pauses within; write `output_dir/model`. The encoder stays as it is.

    Args:
        unit_extractor: folder of a finished unit extractor.
        corpora: speech corpora. User turns with word times are cut after words, others where people stopped.
        utterances: drawn of the train split of each corpus; `dev_utterances` of its dev split.
        cuts: of each turn, at most.
        hidden: width of the head's inner layer.
        overwrite: delete the head of other units, other speech or other settings in `output_dir`.

    Raises:
        InputError: the units or a corpus are missing, or `output_dir` has another head.
    """
    given = arguments_of(train_turn_head, locals(), but=("output_dir", "overwrite"))
    with claim(output_dir, given.settings, given.inputs, results=[MODEL_FOLDER], overwrite=overwrite) as run:
        if finished(run):
            return TurnHeadQuality(**run.record.figures)
        extractor = UnitExtractor.from_pretrained(unit_extractor)
        random = np.random.default_rng(seed)
        train = _states(extractor, _turns(corpora, "train", utterances, random), cuts, lengths, random)
        dev = _states(extractor, _turns(corpora, "dev", dev_utterances, random), cuts, lengths, random)
        torch.manual_seed(seed)
        head = TurnHead.for_units(extractor, hidden)
        fit(head, *train, steps, learning_rate)
        quality = judge(head, *dev, len(train[0]))
        head.save_pretrained(Path(output_dir) / MODEL_FOLDER)
        run.finish(asdict(quality))
    return quality


def _turns(corpora: Sequence[str | Path], split: str, number: int, random: np.random.Generator) -> Iterator[Utterance]:
    """`number` user turns of each corpus, or as many as there are, in drawn order."""
    for corpus in corpora:
        index = UtteranceIndex.read([corpus], split, _can_be_learnt)
        if not len(index):
            raise InputError(f"{corpus}: no user turn of {SHORTEST} to {LONGEST} s in split {split}")
        yield from index.take(random.permutation(len(index))[:number])


def _can_be_learnt(utterance: Utterance) -> bool:
    says_words = bool(utterance.words or utterance.pronunciation)
    return utterance.role == "user" and says_words and SHORTEST <= utterance.duration <= LONGEST


def _states(
    extractor: UnitExtractor, turns: Iterable[Utterance], cuts: int, lengths: PauseLengths, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """(M, width) states and (M,) whether the turn was over, for all moments of the turns."""
    met = (moment for turn in turns for moment in _moments(turn, cuts, lengths, random))
    states, over = [], []
    with tqdm(unit="moment", desc="train_turn_head") as progress:
        while batch := list(islice(met, 8)):
            states.append(turn_states(extractor, [moment.sound for moment in batch]))
            over += [moment.over for moment in batch]
            progress.update(len(batch))
    return torch.cat(states), torch.tensor(over, dtype=torch.float32)


def _moments(turn: Utterance, cuts: int, lengths: PauseLengths, random: np.random.Generator) -> list[Moment]:
    sound = turn.read(SAMPLE_RATE).samples
    ends = [min(word.end, len(sound) / SAMPLE_RATE) for word in turn.words]
    return moments(sound, ends, cuts, lengths, random)


def fit(head: TurnHead, states: Tensor, over: Tensor, steps: int, learning_rate: float) -> None:
    """Both kinds of moments weigh the same, however many there are of each."""
    share = over.mean()
    weight = torch.where(over > 0, 0.5 / share, 0.5 / (1 - share))
    optimizer = torch.optim.AdamW(head.parameters(), learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    head.train()
    for _ in range(steps):
        drawn = torch.randint(len(over), (BATCH,))
        loss = functional.binary_cross_entropy_with_logits(head(states[drawn]), over[drawn], weight[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    head.eval()


@torch.inference_mode()
def judge(head: TurnHead, states: Tensor, over: Tensor, learnt_from: int) -> TurnHeadQuality:
    likely = torch.sigmoid(head(states))
    whole, cut = likely[over > 0], likely[over == 0]
    if not (len(whole) and len(cut)):
        raise InputError("dev_utterances: among them is no turn that could be cut; give more")
    above = (whole[:, None] > cut).float() + 0.5 * (whole[:, None] == cut).float()
    parameters = sum(weight.numel() for weight in head.parameters())
    return TurnHeadQuality(
        float(above.mean()),
        float((whole >= 0.5).float().mean()),
        float((cut < 0.5).float().mean()),
        parameters,
        learnt_from,
    )
