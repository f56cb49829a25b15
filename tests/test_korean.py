"""Korean whole: texts as they are spoken, voices, question-answer dialogs, pieces within morphemes, figures."""

from __future__ import annotations

import csv
import gc
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep.embedded_model.espeak import Espeak
from data_prep.questions import prepare_questions
from data_prep.recordings import import_recordings
from data_prep.speech_corpus import Voices, synthesize_corpus
from data_prep.transcripts import transcribe_corpus
from usdm.cli.main import main
from usdm.data.speech_corpus import read_speech_corpora
from usdm.metrics.cer import CharacterErrorRates, character_errors
from usdm.metrics.figures import Prediction, Reference
from usdm.metrics.meteor import meteor_exact_stem
from usdm.metrics.text import scored_words
from usdm.tokens import find_normaliser
from usdm.tokens.korean import spoken_korean
from usdm.tokens.language import English, Korean
from usdm.tokens.spoken_text import spoken_words
from usdm.training.morphemes import Kiwi
from usdm.training.tokenizer import train_tokenizer
from usdm.types import InputError, Waveform

needs_espeak = pytest.mark.system_packages("espeak-ng")
SAID = "식당 예약하고 싶어요, 몇 시에 올까요?"
PAIRS = [
    ("2명 예약해 줘", "몇 시요?"),
    ("12시요!", "네, 예약했어요."),
    ("노래 틀어 줘", "무슨 노래요?"),
    ("hello", "hi"),
]


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        (SAID, SAID),
        ("12시 30분에 2명, 3.5% OK!", "열두 시 삼십분에 두 명, 삼점오퍼센트 오케이."),
        ("13시에 20살 21개", "십삼시에 스무 살 스물한 개."),
        ("1번째 2번째, 1개월", "첫 번째 두 번째, 일개월."),
        ("SD카드 12,500원이야 ㅠㅠ", "에스디카드 만 이천오백원이야."),
        ("3박4일 놀러가고 싶다", "삼박사일 놀러가고 싶다."),
        ("010-1234-5678", "공일공 일이삼사 오육칠팔."),
        ("7:30에 -5℃", "일곱 시 삼십분에 마이너스 오도."),
        ("$20, 20대 2대", "이십달러, 이십대 두 대."),
        ("ㅋㅋㅋ ...", ""),
    ],
)
def test_korean_as_it_is_spoken(written: str, spoken: str) -> None:
    assert spoken_korean(written) == spoken
    assert spoken_korean(spoken) == spoken  # nothing more to do


def test_decomposed_hangul_is_the_same() -> None:
    import unicodedata

    assert spoken_korean(unicodedata.normalize("NFD", SAID)) == SAID
    assert spoken_words(SAID) == ["식당", "예약하고", "싶어요", "몇", "시에", "올까요"]


def test_what_is_typed_is_read_in_the_model_s_language() -> None:
    korean, both = find_normaliser("spoken_korean"), find_normaliser("spoken_korean_or_english")
    assert korean is not None and both is not None
    assert (korean("2시!"), both("2시!"), both("At 2!")) == ("두 시.", "두 시.", "at two.")
    for text, told in (("hello", "no Hangul"), ("12", "no Hangul"), ("안녕 мир", "not м и р"), ("", "no Hangul")):
        with pytest.raises(InputError, match=told):
            korean(text)
    with pytest.raises(InputError, match="reads English letters"):
        both("мир")


@needs_espeak
def test_espeak_says_each_korean_word_and_phone_in_its_time() -> None:
    spoken = Espeak().speak(SAID, "ko+f2")
    seconds = len(spoken.samples) / spoken.sample_rate
    assert [word.text for word in spoken.words] == spoken_words(SAID)
    for spans in (spoken.words, spoken.phones):
        bounds = [0.0, *(bound for span in spans for bound in (span.start, span.end)), seconds]
        assert bounds == pytest.approx(sorted(bounds), abs=2e-3)
    first, second = spoken.words[0], spoken.words[3]  # 식당, 몇
    assert [phone.text for phone in spoken.phones if phone.start < first.end - 1e-3][:2] == ["s", "i"]
    before = np.abs(spoken.samples[: int((second.start - 0.02) * spoken.sample_rate)].astype(float))
    assert before[-int(0.08 * spoken.sample_rate) :].max() < 0.1 * before.max()  # the pause that the comma makes
    assert [word.text for word in Espeak().speak("말해보세요.", "ko").words] == ["말해보세요"]
    assert Espeak().speak("hello.", "en+f2").phones == ()  # English ones are of flite's lexicon
    with pytest.raises(InputError, match="Unknown eSpeak voice 'ko-nobody'"):
        Espeak().speak(SAID, "ko-nobody")
    with pytest.raises(InputError, match="found no word"):
        Espeak().speak("...", "ko")


def write_pairs(path: Path, pairs: list[tuple[str, str]] = PAIRS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("Q", "A"), *pairs])
    return path


def prepared(file: Path, folder: Path, **changes: object) -> list[dict]:
    given = dict(
        language=Korean(), columns=["Q", "A"], vocabulary_size=50, max_words=4, copies=2, dev_share=0.0, test_share=0.0,
        seed=0,
    )  # fmt: skip
    prepare_questions(file, str(folder), **(given | changes))  # type: ignore[arg-type]
    return [json.loads(line) for line in (folder / "dialogs.jsonl").read_text(encoding="utf-8").splitlines()]


def test_pairs_become_dialogs_in_their_language(tmp_path: Path) -> None:
    file = write_pairs(tmp_path / "pairs.csv")
    dialogs = prepared(file, tmp_path / "a")
    assert [turn["text"] for turn in dialogs[0]["turns"]] == ["두 명 예약해 줘.", "몇 시요?"]
    assert len({dialog["dialog"] for dialog in dialogs}) == len(dialogs) == 6
    report = json.loads((tmp_path / "a/questions.json").read_text())
    assert report["left_out"] == {"of another language": 1} and report["pairs"] == 4
    tested = prepared(file, tmp_path / "b", test_share=1.0)
    assert len(tested) == 3 and {dialog["split"] for dialog in tested} == {"test"}
    english = prepared(write_pairs(tmp_path / "en.csv", [("At 2?", "OK!")]), tmp_path / "c", language=English())
    assert [turn["text"] for turn in english[0]["turns"]] == ["at two?", "ok."]
    with pytest.raises(InputError, match="no Hangul in it; write it in Korean, or choose language=en"):
        prepared(tmp_path / "en.csv", tmp_path / "d")
    with pytest.raises(InputError, match="no column question, only Q, A"):
        prepared(file, tmp_path / "e", columns=["question", "A"])
    with pytest.raises(InputError, match="nothing is left: raise vocabulary_size"):
        prepared(file, tmp_path / "f", vocabulary_size=1)
    korean = write_pairs(tmp_path / "ko.csv", [("몇 시요?", "네")])
    with pytest.raises(InputError, match="1 without words, so that .* choose its language"):
        prepared(korean, tmp_path / "g", language=English())
    with pytest.raises(InputError, match="no pair in it, so that nothing is left"):
        prepared(write_pairs(tmp_path / "none.csv", []), tmp_path / "h")


@needs_espeak
def test_a_korean_corpus_is_spoken(tmp_path: Path) -> None:
    prepared(write_pairs(tmp_path / "pairs.csv", PAIRS[:1]), tmp_path / "q", copies=1)
    dialogs = tmp_path / "q/dialogs.jsonl"
    voices = Voices(agents=["espeak-ko"], user=[], espeak_share=1.0)
    synthesize_corpus(dialogs, str(tmp_path / "s"), voices=voices, language=Korean(), processes=1, seed=0)
    user, agent = read_speech_corpora([tmp_path / "s"])
    assert user.speaker.startswith("espeak-ko+") and agent.speaker == "espeak-ko"
    assert [word.text for word in user.words] == ["두", "명", "예약해", "줘"]
    assert agent.pronunciation and agent.pronunciation[0] == "m"
    with pytest.raises(InputError, match="line 1: .*no Hangul"):
        (tmp_path / "en.jsonl").write_text(dialogs.read_text().replace("두 명 예약해 줘.", "for two."))
        synthesize_corpus(
            tmp_path / "en.jsonl", str(tmp_path / "t"), voices=voices, language=Korean(), processes=1, seed=0
        )
    assert not (tmp_path / "t").exists()
    english = Voices(agents=["flite-slt"], user=[], espeak_share=1.0)
    with pytest.raises(InputError, match="write it in English letters"):
        synthesize_corpus(dialogs, str(tmp_path / "u"), voices=english, language=Korean(), processes=1, seed=0)


@needs_espeak
def test_two_espeaks_take_turns() -> None:
    first = Espeak()
    second = Espeak()
    spoken = [each.speak(SAID, "ko") for each in (first, second, first)]
    assert len({tuple(word.text for word in each.words) for each in spoken}) == 1
    del second  # with what the library called last but one
    gc.collect()
    assert first.speak(SAID, "ko").words


class Given:
    """Borders that are known."""

    def __init__(self, known: Mapping[str, Sequence[int]]) -> None:
        self.known = known

    def borders(self, texts: Iterable[str]) -> Iterator[tuple[str, Sequence[int]]]:
        return ((text, self.known[text]) for text in texts)


def test_pieces_keep_within_morphemes() -> None:
    pytest.importorskip("kiwipiepy")
    texts = ["학교에서 만나요.", "학교에 가요.", "집에서 만나요.", "학교에서 놀아요.", "see you at school."] * 3
    borders = dict(Kiwi().borders(texts))
    assert borders["학교에서 만나요."] == [2, 6] and borders["see you at school."] == []
    plain, within = (train_tokenizer(texts, 360, morphemes=each) for each in (None, Given(borders)))
    assert "▁학교에서" in plain.tokenize("학교에서") and "▁학교" in within.tokenize("학교에서")
    for tokenizer in (plain, within):
        assert tokenizer.decode(tokenizer.encode("집에 가요.", add_special_tokens=False)) == "집에 가요."
    with pytest.raises(InputError, match="characters leave no room"):
        train_tokenizer(["".join(chr(0xAC00 + i) for i in range(400))], 400)


def test_characters_count_without_spaces() -> None:
    assert character_errors("몇 시에 와요?", "몇시에 가요") == (1, 5)
    assert character_errors("", "네") == (1, 0) and character_errors("네", None) is None
    reference = Reference("i", "d", "s", "몇 시요?", "두 시요.", 1.0)
    rates = CharacterErrorRates()(Prediction("i", "몇 시오", "두 시요", recognised="두"), reference)
    assert rates == {
        "transcript_cer": (1, 3),
        "spoken_reply_cer": (2, 3),
        "user_recordings_cer": None,
        "agent_recordings_cer": None,
    }


def test_words_of_other_scripts_are_scored() -> None:
    assert scored_words("두 시에, OK?") == ["두", "시에", "ok"]
    assert scored_words("2 naïve “straße” — 5%") == ["two", "naive", "stra", "e", "five", "percent"]  # as ever
    assert meteor_exact_stem("두 시에 만나요", "두 시에 가요") > 0.3


def test_chrf_is_sacrebleu_s() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    from usdm.metrics.chrf import ChrF

    reference = Reference("i", "d", "s", "네?", "두 시에 만나요.", 1.0)
    values = ChrF()(Prediction("i", None, "두 시에 가요.", recognised=""), reference)
    assert values["reply_chrf"] == sacrebleu.sentence_chrf("두 시에 가요.", ["두 시에 만나요."]).score
    assert 0 < values["reply_chrf"] < 100 and values["heard_reply_chrf"] == 0


class KoreanEar:
    """A recogniser that always hears the same."""

    name = identity = "korean ear"

    def __call__(self, waveforms: Sequence[Waveform]) -> list[str]:
        return ["12시에 만나요!" for _ in waveforms]


def test_recordings_are_written_down_in_their_language(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    soundfile.write(source / "a.wav", np.zeros(8000), 16_000)
    rows = [{"id": "a", "audio": "a.wav", "text": "2시요!"}, {"id": "b", "audio": "a.wav"}]
    (source / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = tmp_path / "corpus"
    import_recordings([str(source)], str(corpus), max_seconds=5.0, dev_every=2, language=Korean())
    transcribe_corpus(str(corpus), str(corpus), asr=KoreanEar(), lowest_confidence=None, language=Korean())
    assert [each.text for each in read_speech_corpora([corpus])] == ["두 시요.", "열두 시에 만나요."]
    (source / "manifest.jsonl").write_text(json.dumps(rows[0] | {"text": "hello"}) + "\n")
    with pytest.raises(InputError, match="source: .*no Hangul"):
        import_recordings([str(source)], str(tmp_path / "b"), max_seconds=5.0, dev_every=2, language=Korean())


def test_a_missing_espeak_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: object) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(write_pairs(tmp_path / "pairs.csv"), tmp_path / "q")

    def nothing() -> None:
        raise InputError("eSpeak NG cannot be loaded")

    monkeypatch.setattr("data_prep.embedded_model.espeak._initialise", nothing)
    monkeypatch.setattr("data_prep.embedded_model.synthesisers._espeak", Espeak)
    given = ["dialogs_file=q/dialogs.jsonl", "output_dir=s", "voices.agents=[espeak-ko]", "voices.user=[]"]
    assert main(["synthesize_corpus", "language=ko", "voices.espeak_share=1", *given]) == 2
    assert "eSpeak NG cannot be loaded" in capfd.readouterr().err  # type: ignore[attr-defined]
    assert not (tmp_path / "s/manifest.jsonl").exists()
