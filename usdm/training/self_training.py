"""A model that answers, judges its own answers, and is trained on what it prefers (SELF-JUDGE, arXiv 2402.11253).

The judge and the reference of DPO are the model at the start, which stays as it is. Training goes in rounds: the model
as it is answers some questions, the judge makes pairs of them, and the next model is trained on these. Each round has a
folder of its own, so that a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from usdm.chain.candidates import Asked, Candidate, draw_candidates
from usdm.chain.hearing import heard_errors
from usdm.chain.judging import Comparison, PairJudge
from usdm.chain.stages import LanguageModelChain, Question
from usdm.data.dialog_pairs import Exchange
from usdm.data.preference_folder import prepare_preferences
from usdm.data.unit_corpus import UnitSource
from usdm.lm import load_for_generation, load_model
from usdm.runs import Arguments, arguments_of, claim, publishing
from usdm.tokens import DialogTemplate, SpeechTextVocabulary, TemplateSettings
from usdm.tokens.template import normalise_text
from usdm.training.language_model import finetune
from usdm.training.lm_settings import LanguageModelSettings
from usdm.training.objectives import DirectPreference
from usdm.training.run_folder import MODEL_FOLDER, finished
from usdm.types import InputError, Role, Sampling, Turn

logger = logging.getLogger(__name__)

EXCHANGES_AT_ONCE = 64
HEARD_TOKENS = 64  # of what the model hears of its own speech


@dataclass(frozen=True)
class JudgedAnswers:
    """Two sampled answers of a model to each question, and which of them a judge prefers.

    The question's words are given, as the corpus has them. Answers that are the same, or equally good, make no pair.

    Raises InputError if a judge was not taught to judge, or its tokenizer cannot tell the verdicts apart.
    """

    llm: str | Path  # folder of the model that answers
    judge: str | Path | None = None  # of the one that judges; None: the same
    stage: Literal["respond", "speak"] = "respond"  # speak: the judge hears what was said, and fewer errors win
    temperature: float = 1.0
    top_p: float = 0.9
    max_new_tokens: int = 64
    capacity: int = 32  # sequences that are written at once
    seed: int = 0

    def pairs(self, exchanges: Sequence[Exchange]) -> Iterator[dict[str, Any]]:
        chain, judging = _chain(self.llm), _chain(self.llm if self.judge is None else self.judge)
        judge = PairJudge(judging.model, judging.template) if self.stage == "respond" else None
        for start in range(0, len(exchanges), EXCHANGES_AT_ONCE):
            some = exchanges[start : start + EXCHANGES_AT_ONCE]
            questions = [_question(each, self.stage) for each in some]
            asked = [Asked(question, self._sampling(start + i)) for i, question in enumerate(questions)]
            for i, drawn in enumerate(draw_candidates(chain, asked, self.stage, 2, self.capacity)):
                if isinstance(drawn, InputError):
                    raise InputError(f"{some[i].id}: {drawn}") from drawn
                if (better := self._better(questions[i], drawn, judge, judging)) is not None:
                    chosen, rejected = (self._side(drawn[place]) for place in (better, 1 - better))
                    prompt = dict(some[i].prompt)
                    if self.stage == "speak":
                        prompt["agent_text"] = some[i].agent_text
                    yield {"prompt": prompt, "chosen": chosen, "rejected": rejected, "source": "self"}

    def _sampling(self, number: int) -> dict[str, Sampling]:
        own = Sampling(
            self.temperature, 0, self.top_p, 1.0, self.max_new_tokens, seed=2 * number + 1_000_003 * self.seed
        )
        return {self.stage: own}

    def _better(
        self, question: Question, drawn: Sequence[Candidate], judge: PairJudge | None, judging: LanguageModelChain
    ) -> int | None:
        """Which of two answers; None if neither."""
        if judge is None:
            scores = [-float(errors) for errors in heard_errors(judging, drawn, HEARD_TOKENS)]
        else:
            a, b = (normalise_text(each.answer.agent_text or "") for each in drawn)
            if not a or not b or a == b:
                return None
            [verdict] = judge([Comparison(question, a, b)])
            scores = list(verdict.scores)
        return None if scores[0] == scores[1] else int(scores[1] > scores[0])

    def _side(self, candidate: Candidate) -> dict[str, Any]:
        if self.stage == "respond":
            return {"agent_text": candidate.answer.agent_text}
        assert candidate.answer.agent_units is not None
        return {"agent_units": candidate.answer.agent_units.tolist()}


def self_train(
    pretrained: str | Path,
    corpora: Sequence[str | Path],
    output_dir: str | Path,
    loop: LanguageModelSettings,
    *,
    rounds: int = 4,
    questions: int = 256,
    stage: Literal["respond", "speak"] = "respond",
    beta: float = 0.1,
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_new_tokens: int = 64,
    capacity: int = 32,
    dev_every: int = 20,
    agent_roles: Sequence[Role] = ("agent",),
    history_turns: int = 0,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, float]:
    """Train on pairs of the model's own answers, in rounds; the model is in `output_dir/model`.

    One round is off-policy training: all pairs are of the start model. Many short rounds come near to on-policy.

    Args:
        pretrained: folder of a model that was taught to judge; also the judge, and the reference of DPO.
        corpora: unit corpora; questions are of split "train".
        loop: of each round.
        rounds, questions: so many times, so many questions, of which some make no pair.
        stage: "respond": replies that the model judges; "speak": the same reply said twice, and heard by the model.
        beta, dev_every: see `DirectPreference`.
        temperature, top_p, max_new_tokens: how answers are sampled.
        capacity: sequences that are written at once.

    Raises:
        InputError: as `finetune` does, and if the model was not taught to judge.
    """
    given = arguments_of(self_train, locals(), but=("output_dir", "overwrite"))
    if stage not in ("respond", "speak"):
        raise InputError(f"stage={stage!r}: there are respond and speak")
    if rounds < 1 or questions < dev_every:
        raise InputError(f"rounds={rounds}, questions={questions}: give 1 or more, and dev_every={dev_every} or more")
    if stage == "respond":
        judge = _chain(pretrained)
        PairJudge(judge.model, judge.template)
    results = ["round_*", MODEL_FOLDER]
    with claim(output_dir, given.settings, given.inputs, results=results, overwrite=overwrite) as claimed:
        if finished(claimed):
            return dict(claimed.record.figures)
        model, figures, pairs = Path(pretrained), dict[str, float](), 0
        for number in range(rounds):
            folder = claimed.path / f"round_{number + 1:03d}"
            source = JudgedAnswers(
                model, pretrained, stage, temperature, top_p, max_new_tokens, capacity, seed + 1000 * number
            )
            counts = prepare_preferences(
                source,
                corpora,
                folder / "pairs",
                splits=["train"],
                limit=questions,
                skip=number * questions,
                agent_roles=agent_roles,
                history_turns=history_turns,
                seed=seed,
            )
            objective = DirectPreference(folder / "pairs" / "train.jsonl", beta, None, stage, pretrained, dev_every)
            figures = finetune(
                load_model(model),
                SpeechTextVocabulary.from_pretrained(model),
                [],
                folder,
                replace(loop, seed=loop.seed + number),
                template=TemplateSettings.load(model),
                unit_source=UnitSource.load(model),
                objective=objective,
                origin=Arguments(inputs={"pretrained": model}),
            )
            pairs += counts["train"]
            logger.info("round %d of %d: %d pairs, %s", number + 1, rounds, counts["train"], figures)
            model = folder / MODEL_FOLDER
        with publishing(claimed.path / MODEL_FOLDER, folder=True) as part:
            shutil.copytree(model, part, dirs_exist_ok=True)
        figures = {**figures, "pairs": float(pairs)}
        claimed.finish(figures)
        return figures


def _chain(folder: str | Path) -> LanguageModelChain:
    vocabulary = SpeechTextVocabulary.from_pretrained(folder)
    return LanguageModelChain(load_for_generation(folder), DialogTemplate(vocabulary, TemplateSettings.load(folder)))


def _question(exchange: Exchange, stage: str) -> Question:
    prompt = exchange.prompt
    return Question(
        units=torch.tensor(prompt["user_units"], dtype=torch.int64),
        text=prompt["user_text"],
        history=tuple(Turn(role, text) for role, text in prompt["history"]),
        reply=exchange.agent_text if stage == "speak" else None,
    )
