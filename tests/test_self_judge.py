"""The model as a judge: of replies in words, of its own speech, and of what it is trained on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_models import quick_runs  # noqa: F401 (used by itself)
from test_lm_training import (  # noqa: F401 (fixtures)
    SETTINGS,
    SOURCE,
    TEMPLATE,
    corpus,
    read_log,
    stopped_after,
    tiny_model,
    vocabulary,
)
from tiny_models import SHORT_TEMPLATE, llama_tokenizer, save_random_llm
from tokenizers import normalizers

from usdm.chain import LanguageModelChain, Question
from usdm.chain.candidates import Asked, Candidate, draw_candidates
from usdm.chain.choosing import ChoosingChain
from usdm.chain.hearing import BestHeard
from usdm.chain.judging import Comparison, PairJudge, Tournament, Verdict, knock_out
from usdm.cli.main import main
from usdm.data.dialog_pairs import DialogPairs, Exchange, read_exchanges
from usdm.data.dialogs import DialogSequences
from usdm.data.preference_folder import prepare_preferences
from usdm.data.sequences import KIND_INDEX
from usdm.data.unit_corpus import UnitCorpus, UnitSource
from usdm.lm import in_transformers, load_model
from usdm.metrics.text import word_errors
from usdm.tokens import IGNORED, DialogTemplate, SpeechTextVocabulary, TemplateSettings, TurnContent, extend_tokenizer
from usdm.training.language_model import finetune
from usdm.training.self_training import JudgedAnswers, self_train
from usdm.types import InputError, Sampling

LAYOUTS = {"multi_step": 0.2, "judge": 0.5, "judge_typed": 0.3}
QUICK = dataclasses.replace(
    SETTINGS, steps=30, learning_rate=2e-2, schedule="constant", validate_every=None, save_every=30, log_every=10
)


class Scripted:
    """Prefers what is worth more, but for a liking of whatever is shown first."""

    def __init__(self, worth: dict[str, float], liking: float = 0.0) -> None:
        self.worth, self.liking = worth, liking
        self.asked: list[tuple[str, str]] = []

    def __call__(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        self.asked += [(each.a, each.b) for each in comparisons]
        return [Verdict(self._order(each.a, each.b), self._order(each.b, each.a)) for each in comparisons]

    def _order(self, a: str, b: str) -> tuple[float, float]:
        first = min(1.0, 0.5 + self.worth[a] - self.worth[b] + self.liking)
        return first, 1 - first


# Verdicts and tournaments


def test_both_orders_cancel_a_liking_for_a_place() -> None:
    judge = Scripted({"good": 0.2, "bad": 0.1}, liking=0.3)
    [verdict] = judge([Comparison(Question(text="?"), "good", "bad")])
    assert verdict.ab == pytest.approx((0.9, 0.1)) and verdict.ba == pytest.approx((0.7, 0.3))
    assert verdict.scores == pytest.approx((0.6, 0.4)) and not verdict.is_consistent
    assert Verdict((0.7, 0.3), (0.2, 0.8)).is_consistent and Verdict((0.1, 0.2), (0.5, 0.3)).is_consistent


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_a_tournament_finds_what_brute_force_finds(count: int) -> None:
    for seed in range(6):
        worth = [0.05 * rank for rank in range(count)]
        Random(seed).shuffle(worth)
        replies = [f"reply {i}" for i in range(count)]
        judge = Scripted(dict(zip(replies, worth, strict=True)), liking=0.1)  # type: ignore[arg-type]
        best = knock_out(judge, Question(text="?"), replies, seed)  # type: ignore[arg-type]
        assert best == worth.index(max(worth))
        assert len(judge.asked) == count - 1
        again = Scripted(judge.worth)
        knock_out(again, Question(text="?"), replies, seed)  # type: ignore[arg-type]
        assert again.asked == judge.asked  # the seed says who meets whom


def test_verdicts_and_winners_are_those_of_the_published_code() -> None:
    """Numbers of `get_batch_judgments` and `tournament_rejection_sampling`, whose judge is a script too."""
    stored = json.loads((Path(__file__).parent / "references" / "self_judge.json").read_text())

    def judge(probabilities: list, asked: list) -> Callable[[Sequence[Comparison]], list[Verdict]]:
        def verdicts(comparisons: Sequence[Comparison]) -> list[Verdict]:
            places = [(int(each.a), int(each.b)) for each in comparisons]
            asked.extend(places)
            return [Verdict(tuple(probabilities[a][b]), tuple(probabilities[b][a])) for a, b in places]

        return verdicts

    judgments = stored["judgments"]
    for pair in judgments["pairs"]:
        first, second = pair["replies"]
        comparison = Comparison(Question(text="?"), str(first), str(second))
        [verdict] = judge(judgments["probabilities"], [])([comparison])
        better = first if verdict.scores[0] > verdict.scores[1] else second
        assert better == pair["chosen"]
    for tournament in stored["tournaments"]:
        probabilities, asked = tournament["probabilities"], []
        replies = [str(reply) for reply in range(len(probabilities))]
        for seed in range(5):
            asked.clear()
            best = knock_out(judge(probabilities, asked), Question(text="?"), replies, seed)  # type: ignore[arg-type]
            assert best == tournament["winner"] and 2 * len(asked) == tournament["prompts"]


def test_ties_go_to_the_first_and_equal_replies_meet_once() -> None:
    judge = Scripted({"a": 0.0, "b": 0.0, "c": 0.0})
    assert knock_out(judge, Question(text="?"), ["a", "b", "c"], 1) == 0 or len(judge.asked) == 2  # type: ignore[arg-type]
    for pair in (["a", "b"], ["b", "a"]):
        assert knock_out(Scripted({"a": 0.0, "b": 0.0}), Question(text="?"), pair, 3) == 0  # type: ignore[arg-type]
    judge = Scripted({"x": 0.3, "y": 0.0})
    assert knock_out(judge, Question(text="?"), ["y", "x", "y", "x", "y"], 0) == 1  # type: ignore[arg-type]
    assert len(judge.asked) == 1
    assert knock_out(judge, Question(text="?"), ["y", "y"], 0) == 0 and len(judge.asked) == 1  # type: ignore[arg-type]


# The layout


def test_the_loss_of_a_judges_turn_is_on_its_verdict(vocabulary: SpeechTextVocabulary) -> None:  # noqa: F811
    template = DialogTemplate(vocabulary, TEMPLATE)
    content = TurnContent(torch.tensor([1, 2]), "a table", reply_a="at two", reply_b="please", verdict="b")
    for layout in ("judge", "judge_typed"):
        built = template.training_example(content, layout=layout)
        scored = built.labels[built.labels != IGNORED].tolist()
        first, second = template.verdict_ids(layout)
        assert scored == [second, template.stop_id("judge", layout)]
        assert template.allowed("judge", layout).nonzero()[:, 0].tolist() == sorted(
            {first, second, template.stop_id("judge", layout)}
        )
        place = int((built.labels != IGNORED).int().argmax())
        assert template.prompt("judge", content, layout=layout) == built.input_ids[:place].tolist()
        text = vocabulary.decode_text(built.input_ids[:place])
        assert text.index("at two") < text.index("please")


def test_a_turn_can_end_where_a_stage_stops(vocabulary: SpeechTextVocabulary) -> None:  # noqa: F811
    template = DialogTemplate(vocabulary, TEMPLATE)
    content = TurnContent(torch.tensor([1, 2]), "a table", "for two", torch.tensor([3]))
    whole, part = template.training_example(content), template.training_example(content, stage="respond")
    length = len(part.input_ids)
    assert whole.input_ids[:length].tolist() == part.input_ids.tolist()
    assert whole.labels[:length].tolist() == part.labels.tolist()
    assert part.input_ids[-1] == template.stop_id("respond")


def test_a_tokenizer_that_writes_both_verdicts_alike_is_refused() -> None:
    tokenizer = llama_tokenizer()
    before = tokenizer.backend_tokenizer.normalizer
    replace = normalizers.Replace("b", "a")
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([before, replace] if before else [replace])
    template = DialogTemplate(SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, 4)), SHORT_TEMPLATE)
    with pytest.raises(InputError, match="begins both a and b with 'a'"):
        template.verdict_ids("judge")


# Pairs from dialogs


@pytest.fixture(scope="module")
def dialogs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus' dialogs, of three services in turn."""
    path = tmp_path_factory.mktemp("dialogs") / "dialogs.jsonl"
    rows = [{"dialog": f"d{i}", "services": [f"{'ABC'[i % 3]}_{i}"]} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def preferences(corpus: Path, dialogs_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("preferences")
    source = DialogPairs(dialogs_file)
    counts = prepare_preferences(source, [corpus], folder, splits=["train", "dev"])
    assert counts == prepare_preferences(source, [corpus], folder, splits=["train", "dev"]) and set(counts) == {
        "train",
        "dev",
    }
    return folder


def test_the_rejected_reply_is_of_another_dialog(corpus: Path, preferences: Path) -> None:  # noqa: F811
    exchanges = {each.agent_text: each for each in read_exchanges(UnitCorpus([corpus]), "train")}
    pairs = [json.loads(line) for line in (preferences / "train.jsonl").read_text().splitlines()]
    assert len(pairs) == 64
    for pair in pairs:
        chosen, rejected = (exchanges[pair[side]["agent_text"]] for side in ("chosen", "rejected"))
        assert chosen.dialog != rejected.dialog
        same = int(chosen.dialog[1:]) % 3 == int(rejected.dialog[1:]) % 3
        assert pair["source"] == ("same service" if same else "other service")
        assert pair["prompt"]["user_units"] == chosen.prompt["user_units"]
    assert 16 < sum(pair["source"] == "same service" for pair in pairs) < 48


def test_replies_that_are_written_alike_make_no_pair(tmp_path: Path) -> None:
    said = ["Thank you", "thank  you", "at two"]
    prompt = {"user_text": "a", "user_units": [1], "history": []}
    exchanges = [Exchange(f"u{i}", f"d{i}", prompt, text, [1]) for i, text in enumerate(said)]
    rows = [json.dumps({"dialog": f"d{i}", "services": ["A_1"]}) + "\n" for i in range(3)]
    (tmp_path / "dialogs.jsonl").write_text("".join(rows))
    pairs = list(DialogPairs(tmp_path / "dialogs.jsonl").pairs(exchanges))
    assert [pair["rejected"]["agent_text"] for pair in pairs[:2]] == ["at two", "at two"]
    drawn: Any = [SimpleNamespace(answer=SimpleNamespace(agent_text=text)) for text in said[:2]]
    judge: Any = Scripted({})
    assert JudgedAnswers("nowhere")._better(Question(text="?"), drawn, judge, judge) is None and not judge.asked


def test_pairs_and_layouts_of_a_judge_go_together(
    vocabulary: SpeechTextVocabulary,  # noqa: F811
    corpus: Path,  # noqa: F811
    preferences: Path,
    tmp_path: Path,
) -> None:
    template = DialogTemplate(vocabulary, TEMPLATE)
    given = DialogSequences(UnitCorpus([corpus]), template, 96, layouts=LAYOUTS, preferences=[preferences])
    sequences = list(given.sequences(0, given.blocks(0)[0], 0))
    verdicts = [each for each in sequences if (each.kinds == KIND_INDEX["verdict"]).any()]
    first = [int(each.labels[each.labels != IGNORED][0]) for each in verdicts]
    a, b = template.verdict_ids("judge")
    assert len(sequences) > len(given) and first == [a, b] * (len(first) // 2)  # every pair in both orders
    for layouts, folders in ((LAYOUTS, []), ({"multi_step": 1.0}, [preferences]), (None, [preferences])):
        with pytest.raises(InputError, match="give both or neither"):
            DialogSequences(UnitCorpus([corpus]), template, 96, layouts=layouts, preferences=folders)
    pair = json.loads((preferences / "train.jsonl").read_text().splitlines()[0])
    written_otherwise = {"agent_text": f" {pair['chosen']['agent_text'].upper()}"}
    for same in (pair["chosen"], written_otherwise):
        (tmp_path / "train.jsonl").write_text(json.dumps({**pair, "rejected": same}) + "\n")
        with pytest.raises(InputError, match="pair 1: .*the same reply"):
            DialogSequences(UnitCorpus([corpus]), template, 96, layouts=LAYOUTS, preferences=[tmp_path])


def test_dialogs_that_cannot_give_pairs_are_told(corpus: Path, dialogs_file: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match="same_service_share=2"):
        DialogPairs(dialogs_file, 2.0)
    (tmp_path / "dialogs.jsonl").write_text('{"dialog": "other", "services": []}\n')
    with pytest.raises(InputError, match=r"has no dialog d\d"):
        prepare_preferences(DialogPairs(tmp_path / "dialogs.jsonl"), [corpus], tmp_path / "out", splits=["train"])
    with pytest.raises(InputError, match="split 'test' has no reply"):
        prepare_preferences(DialogPairs(dialogs_file), [corpus], tmp_path / "again", splits=["test"])


# A model that was taught to judge


@pytest.fixture(scope="module")
def taught(
    vocabulary: SpeechTextVocabulary,  # noqa: F811
    corpus: Path,  # noqa: F811
    preferences: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    figures = finetune(
        tiny_model(vocabulary),
        vocabulary,
        [corpus],
        folder,
        QUICK,
        template=TEMPLATE,
        layouts=LAYOUTS,
        preferences=[preferences],
        unit_source=SOURCE,
    )
    assert figures["loss_verdict"] < 0.7  # of the verdict, ln 2 by guessing, and of the newline after it
    return folder / "model"


def chain_of(folder: Path) -> LanguageModelChain:
    return LanguageModelChain(
        load_model(folder), DialogTemplate(SpeechTextVocabulary.from_pretrained(folder), TemplateSettings.load(folder))
    )


def test_a_judge_gives_the_models_probabilities_in_both_orders(taught: Path) -> None:
    chain = chain_of(taught)
    judge = PairJudge(chain.model, chain.template)
    heard = Question(units=torch.tensor([1, 1, 2, 2]), text="like a")
    pairs = [Comparison(heard, "at two", "please"), Comparison(Question(text="a table"), "for", "new thai place")]
    for pair, verdict in zip(pairs, judge(pairs), strict=True):
        layout = "judge" if pair.question.units is not None else "judge_typed"
        for (a, b), found in (((pair.a, pair.b), verdict.ab), ((pair.b, pair.a), verdict.ba)):
            content = TurnContent(pair.question.units, pair.question.text, reply_a=a, reply_b=b)
            ids = torch.tensor([chain.template.prompt("judge", content, layout=layout)])
            whole = in_transformers(chain.model)(ids).logits[0, -1].softmax(0)
            assert found == pytest.approx([whole[id_].item() for id_ in chain.template.verdict_ids(layout)], abs=1e-5)


def test_the_best_of_a_tournament_is_answered(taught: Path) -> None:
    chain = chain_of(taught)
    few = {stage: Sampling(max_new_tokens=6) for stage in ("transcribe", "respond", "speak")}
    question = Question(units=torch.tensor([1, 1, 2, 2, 5, 5]))
    answer = ChoosingChain(chain, Tournament, 5).answer(question, few)
    [found] = draw_candidates(chain, [Asked(question, few)], "respond", 5)
    assert not isinstance(found, InputError)
    replies = [each.answer.agent_text or "" for each in found]
    heard = dataclasses.replace(question, text=found[0].answer.user_text)
    best = knock_out(PairJudge(chain.model, chain.template), heard, replies, 0)
    assert answer.agent_text == replies[best] and answer.agent_units is not None


def test_what_the_model_hears_best_is_said(taught: Path) -> None:
    chain = chain_of(taught)
    question = Question(text="a table", reply="for two please")
    few = {"speak": Sampling(max_new_tokens=10)}
    [found] = draw_candidates(chain, [Asked(question, few)], "speak", 4)
    assert not isinstance(found, InputError)
    errors = []
    for each in found:
        heard = None
        if each.answer.agent_units is not None and len(each.answer.agent_units):
            again = Question(units=each.answer.agent_units)
            heard = chain.answer(again, {"transcribe": Sampling(max_new_tokens=64)}, speak=False).user_text
        errors.append(word_errors("for two please", heard or "").errors)
    assert BestHeard(chain).best(question, found) == errors.index(min(errors))
    with pytest.raises(InputError, match="choose=heard with chain=units_to_units"):
        BestHeard(LanguageModelChain(chain.model, chain.template, "units_to_units"))


def test_a_model_that_was_not_taught_is_no_judge(tmp_path: Path, corpus: Path) -> None:  # noqa: F811
    save_random_llm(tmp_path, 20, TEMPLATE)
    chain = chain_of(tmp_path)
    with pytest.raises(InputError, match="was not taught to judge"):
        ChoosingChain(chain, Tournament, 4)
    SOURCE.save(tmp_path)
    with pytest.raises(InputError, match="was not taught to judge"):
        self_train(tmp_path, [corpus], tmp_path / "out", QUICK, questions=40)
    with pytest.raises(InputError, match="stage='transcribe': there are respond and speak"):
        self_train(tmp_path, [corpus], tmp_path / "out", QUICK, questions=40, stage="transcribe")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


# Self-training


def test_self_training_goes_on_where_it_was_stopped(
    taught: Path,
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = dataclasses.replace(QUICK, steps=4, learning_rate=1e-3, log_every=1, save_every=2, max_length=256)
    asked = {"rounds": 2, "questions": 30, "max_new_tokens": 6, "dev_every": 5}
    figures = self_train(taught, [corpus], tmp_path / "whole", loop, **asked)  # type: ignore[arg-type]
    first, second = ((tmp_path / "whole" / f"round_00{i}" / "pairs" / "train.jsonl").read_text() for i in (1, 2))
    assert first != second and figures["pairs"] == len(first.splitlines()) + len(second.splitlines())
    pair = json.loads(first.splitlines()[0])
    chain = chain_of(taught)
    question = Question(units=torch.tensor(pair["prompt"]["user_units"]), text=pair["prompt"]["user_text"])
    replies = [pair[side]["agent_text"] for side in ("chosen", "rejected")]
    [verdict] = PairJudge(chain.model, chain.template)([Comparison(question, *replies)])
    assert verdict.scores[0] > verdict.scores[1]  # by the judge that stays as it was
    losses = [read_log(tmp_path / "whole" / f"round_00{i}")[0]["loss"] for i in (1, 2)]
    assert losses[0] == pytest.approx(0.6931472, abs=1e-5) and abs(losses[1] - 0.6931472) > 1e-5  # not from itself on
    with pytest.raises(KeyboardInterrupt), stopped_after(3, monkeypatch):
        self_train(taught, [corpus], tmp_path / "again", loop, **asked)  # type: ignore[arg-type]
    assert self_train(taught, [corpus], tmp_path / "again", loop, **asked) == figures  # type: ignore[arg-type]
    with pytest.raises(InputError, match="beta"):
        self_train(taught, [corpus], tmp_path / "again", loop, beta=0.2, **asked)  # type: ignore[arg-type]
    assert UnitSource.load(tmp_path / "whole" / "model") == SOURCE


def test_of_two_ways_to_say_a_reply_the_one_that_is_heard_better_is_chosen(
    taught: Path,
    corpus: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchanges = read_exchanges(UnitCorpus([corpus]), "train")[:6]
    errors = iter([[2, 1], [1, 2], [1, 1]] * 2)
    asked: list[Sequence[Candidate]] = []

    def heard_errors(chain: LanguageModelChain, answers: Sequence[Candidate], max_new_tokens: int) -> list[int]:
        asked.append(answers)
        return next(errors)

    monkeypatch.setattr("usdm.training.self_training.heard_errors", heard_errors)
    pairs = list(JudgedAnswers(taught, stage="speak", max_new_tokens=8).pairs(exchanges))
    assert [pair["prompt"]["agent_text"] for pair in pairs] == [exchanges[i].agent_text for i in (0, 1, 3, 4)]
    for pair, drawn, better in zip(pairs, [asked[i] for i in (0, 1, 3, 4)], (1, 0, 1, 0), strict=True):
        units = [each.answer.agent_units for each in drawn]
        said = [None if each is None else each.tolist() for each in units]
        assert [pair[side]["agent_units"] for side in ("chosen", "rejected")] == [said[better], said[1 - better]]


def test_the_verbs(
    taught: Path,
    corpus: Path,  # noqa: F811
    dialogs_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shared = [f"corpora=[{corpus}]", "shared.folder=run"]
    pairs = ["prepare_preferences", *shared, "splits=[train]"]
    assert main([*pairs, f"preference_source.dialogs_file={dialogs_file}", "limit=8", "output_dir=dialogs"]) == 0
    assert len((tmp_path / "dialogs" / "train.jsonl").read_text().splitlines()) == 8
    own = [f"preference_source.{key}" for key in (f"llm={taught}", "max_new_tokens=5")]
    assert main([*pairs, "preference_source=self", *own, "limit=12", "output_dir=own"]) == 0
    small = ["loop.steps=1", "loop.save_every=1", "loop.log_every=1", "loop.warmup_steps=0", "loop.max_length=256"]
    training = ["self_train", *shared, f"pretrained={taught}", "rounds=1", "questions=20", "dev_every=4", *small]
    assert main([*training, "max_new_tokens=5", "output_dir=trained"]) == 0
    assert (tmp_path / "trained" / "model" / "template.json").is_file()
