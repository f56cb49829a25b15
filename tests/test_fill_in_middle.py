"""Fill in the middle: strings as Bavarian et al. define them, and a model that is trained on them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_lm_training import (  # noqa: F401 (fixtures)
    SETTINGS,
    SOURCE,
    WORDS,
    corpus,
    quick_runs,
    read_log,
    tiny_model,
    vocabulary,
)

from usdm.data.fill_in_middle import FillInMiddle
from usdm.data.mixture import MixtureMember
from usdm.data.text_corpus import TextSequences
from usdm.tokens import SpeechTextVocabulary, extend_tokenizer
from usdm.training.language_model import pretrain
from usdm.training.tokenizer import train_tokenizer
from usdm.types import InputError

TAGS = FillInMiddle().tags
DOCUMENT = "a table for two please"


@pytest.fixture(scope="module")
def tagged() -> SpeechTextVocabulary:
    tokenizer = train_tokenizer([" ".join(WORDS)] * 4, 330)
    return SpeechTextVocabulary.from_tokenizer(extend_tokenizer(tokenizer, SOURCE.num_units, TAGS))


def written(fill: FillInMiddle, document: str, seed: int) -> str:
    """The parts in order with their tags."""
    parts = fill.parts(document, np.random.default_rng(seed))
    return "".join(f"{tag or ''}{document[start:end]}" for tag, start, end in parts)


def test_strings_are_those_of_the_definition() -> None:
    kinds: Counter[str] = Counter()
    prefix, suffix, middle = map(re.escape, TAGS)
    for seed in range(400):
        text = written(FillInMiddle(rate=0.8, spm_share=0.5), DOCUMENT, seed)
        if psm := re.fullmatch(f"{prefix}(.*){suffix}(.*){middle}(.*)", text):
            before, after, inside = psm.groups()
            if text.startswith(TAGS[0] + TAGS[1]):  # SPM: <prefix><suffix> suffix <middle> prefix middle
                assert inside + after == DOCUMENT
                kinds["spm"] += 1
            else:  # PSM: <prefix> prefix <suffix> suffix <middle> middle
                assert before + inside + after == DOCUMENT
                kinds["psm"] += 1
        else:
            assert text == DOCUMENT
            kinds["whole"] += 1
    assert kinds["whole"] == pytest.approx(80, abs=25)
    assert kinds["psm"] == pytest.approx(kinds["spm"], abs=45)
    assert all(written(FillInMiddle(rate=1, spm_share=0), DOCUMENT, seed).count("<|") == 3 for seed in range(20))


def test_ids_say_the_same_document(tagged: SpeechTextVocabulary, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{DOCUMENT}\n" * 50)
    source = TextSequences([tmp_path], tagged, 96, fill_in_middle=FillInMiddle(rate=1.0))
    sequences = [each for block in source.blocks(0) for each in source.sequences(0, block, 0)]
    for ids, labels, _ in sequences:
        text = tagged.tokenizer.backend_tokenizer.decode(ids.tolist()[1:-1], skip_special_tokens=False)
        _, before, after, inside = re.split("|".join(map(re.escape, TAGS)), text)
        whole = before + inside + after  # of SPM the prefix is empty, and the middle has the prefix before it
        assert whole.replace(" ", "") == DOCUMENT.replace(" ", "")
        assert (labels[1:] == ids[1:]).all()
    assert len({tuple(each.input_ids) for each in sequences}) > 20
    again = [each for block in source.blocks(0) for each in source.sequences(0, block, 0)]
    assert all((a.input_ids == b.input_ids).all() for a, b in zip(sequences, again, strict=True))
    long = TextSequences([tmp_path], tagged, 24, fill_in_middle=FillInMiddle(rate=1.0))
    assert all(len(each.input_ids) <= 24 for block in long.blocks(0) for each in long.sequences(0, block, 0))


def test_tags_come_before_speech_and_are_checked(
    vocabulary: SpeechTextVocabulary,  # noqa: F811
    tagged: SpeechTextVocabulary,
) -> None:
    assert tagged.layout.text_size == vocabulary.layout.text_size + 3
    assert not tagged.text_mask[[tagged.tokenizer.get_vocab()[tag] for tag in TAGS]].any()  # nobody writes them
    with pytest.raises(InputError, match="is no token of this tokenizer"):
        FillInMiddle().check(vocabulary)
    with pytest.raises(InputError, match="need a tag each"):
        FillInMiddle(suffix="<|fim_prefix|>")
    with pytest.raises(InputError, match="shares of 0 to 1"):
        FillInMiddle(rate=1.5)
    with pytest.raises(InputError, match="is for text"):
        MixtureMember(units=["a"], fill_in_middle=FillInMiddle())


def test_a_model_is_trained_on_it(tagged: SpeechTextVocabulary, corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "text.txt").write_text(f"{DOCUMENT}\n" * 40)
    losses = []
    for name, fill in (("plain", None), ("middle", FillInMiddle(rate=1.0))):
        member = MixtureMember(text=[tmp_path / "text.txt"], fill_in_middle=fill)
        pretrain(tiny_model(tagged), tagged, [corpus], tmp_path / name, SETTINGS, mixture=[member], segment_units=6)
        losses.append([row["loss"] for row in read_log(tmp_path / name) if "loss" in row])
    assert losses[0] != losses[1]
    with pytest.raises(InputError, match="fill_in_middle"):
        pretrain(
            tiny_model(tagged),
            tagged,
            [corpus],
            tmp_path / "middle",
            SETTINGS,
            segment_units=6,
            mixture=[MixtureMember(text=[tmp_path / "text.txt"], fill_in_middle=FillInMiddle(rate=0.5))],
        )
