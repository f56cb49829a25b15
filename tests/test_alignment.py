"""Word times: spelling, the search, windows, each kind of aligner, and whole corpora, against times that are known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from kills import die, killed
from safetensors.torch import save_file
from test_data_prep import needs_synthesisers
from torch import Tensor
from torch.nn import functional
from transformers import (
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
)

from data_prep.alignment import (
    Aligned,
    AlignmentReport,
    TextGridAligner,
    Unaligned,
    align_corpus,
    boundary_error,
    read_textgrid,
)
from data_prep.alignment.character_models import HubCtc, TorchaudioCtc
from data_prep.alignment.ctc import CtcAligner
from data_prep.alignment.forced import align_words
from data_prep.alignment.phone_head import PhoneHead
from data_prep.alignment.spelling import Spelling, letters, written_words
from data_prep.alignment.windows import emissions
from usdm.data.speech_corpus import Utterance, read_speech_corpora
from usdm.runs import content_digest, read_run
from usdm.types import AlignedWord, InputError
from usdm.units.extractor import keep_layers

LETTERS = "abcdefghijklmnopqrstuvwxyz"
RATE = 16_000


class ToneModel:
    """Hears letters that are tones: the loudest of 26 pitches in each 20 ms, or silence."""

    sample_rate = RATE
    frame_samples = 320
    blank = 0
    delimiter: int | None = None

    def spell(self, words: Sequence[str]) -> list[Spelling]:
        found = [letters(word, LETTERS.__contains__, "en") for word in words]
        return [Spelling(tuple(1 + LETTERS.index(c) for c in known), unknown) for known, unknown in found]

    def name(self, symbol: int) -> str:
        return ""

    def log_probs(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        return [self._hear(waveform[: len(waveform) // 320 * 320].view(-1, 320)) for waveform in waveforms]

    def _hear(self, frames: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frames).abs()[:, 6 : 6 + 2 * len(LETTERS) : 2] / 160
        return torch.cat([torch.full((len(frames), 1), 0.1), spectrum], dim=1).mul(20).log_softmax(-1)


def sing(words: Sequence[str], *, pause: float = 0.06, letter: float = 0.1) -> tuple[Tensor, list[AlignedWord]]:
    """A text in tones, and where its words lie (seconds)."""
    pieces, times, now = [torch.zeros(round(pause * RATE))], [], pause
    for word in words:
        for character in word:
            pitch = (6 + 2 * LETTERS.index(character)) * RATE / 320
            time = torch.arange(round(letter * 0.8 * RATE)) / RATE  # a gap, so that double letters are two
            pieces += [torch.sin(2 * math.pi * pitch * time), torch.zeros(round(letter * 0.2 * RATE))]
        end = now + letter * len(word)
        times.append(AlignedWord(word, now, end - letter * 0.2))
        pieces.append(torch.zeros(round(pause * RATE)))
        now = end + pause
    return torch.cat(pieces), times


def write_corpus(folder: Path, **texts: str) -> dict[str, list[AlignedWord]]:
    """One utterance a text, sung letter by letter."""
    folder.mkdir(parents=True, exist_ok=True)
    known, rows = {}, []
    for name, text in texts.items():
        sound, known[name] = sing(text.split())
        soundfile.write(folder / f"{name}.wav", sound.numpy() * 0.5, RATE)
        facts = {"speaker": "s", "role": "user", "dialog": name, "turn": 0, "split": "train", "sample_rate": RATE}
        rows.append({"id": name, "audio": f"{name}.wav", "text": text, "duration": len(sound) / RATE, **facts})
    write_rows(folder, rows)
    return known


def write_rows(folder: Path, rows: Sequence[dict]) -> None:
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def tones() -> CtcAligner:
    return CtcAligner(ToneModel(), batch_seconds=8.0)


@pytest.mark.parametrize(
    ("word", "known", "unknown"),
    [
        ("Hello", "hello", ""),
        ("21%", "twentyonepercent", ""),
        ("$3.50", "threedollarsfifty", ""),
        ("café", "cafe", ""),
        ("£13.60", "thirteenpoundssixty", ""),
        ("안녕", "annyeong", ""),
        ("カナ", "kana", ""),
        ("well-known", "wellknown", ""),
        ("it’s", "its", ""),
        ("naïve€", "naive", "€"),
        ("дом", "", "дом"),
    ],
)
def test_every_character_is_spelled_or_reported(word: str, known: str, unknown: str) -> None:
    assert letters(word, LETTERS.__contains__, "en") == (known, unknown)


def test_spelling_follows_the_alphabet_and_the_language() -> None:
    assert letters("Café's", "CAFÉ'S".__contains__, "en") == ("CAFÉ'S", "")
    assert letters("7", LETTERS.__contains__, "de") == ("sieben", "")
    assert letters("7", LETTERS.__contains__, "xx") == ("", "7")
    assert written_words("“It's” 6:30 -- (almost) 안녕!") == ["It's", "6:30", "almost", "안녕"]


def certain(path: str) -> Tensor:
    """Log-probabilities that want a letter a frame; "." is the blank."""
    ids = torch.tensor([("." + LETTERS).index(character) for character in path])
    return functional.one_hot(ids, 27).float().mul(9).log_softmax(-1)


def spelled(*words: str) -> list[Spelling]:
    return [Spelling(tuple(1 + LETTERS.index(character) for character in word)) for word in words]


def test_the_search_finds_words_and_shares_gaps_among_those_without_letters() -> None:
    found = align_words(certain("..aab..b.cc.."), spelled("ab", "b", "c"), blank=0)
    assert [(span.start, span.end) for span in found] == [(2, 5), (7, 8), (9, 11)]
    assert all(0.99 < span.confidence <= 1 for span in found)
    found = align_words(certain("....aa....bb...."), spelled("", "a", "", "", "b", ""), blank=0)
    assert [(s.start, s.end) for s in found] == [(0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 16)]
    assert [span.confidence for span in found][0::2] == pytest.approx([0, 0, found[4].confidence])
    wrong = align_words(certain("..aab..b.cc.."), spelled("xyz"), blank=0)
    assert wrong[0].confidence < 0.01
    z = 1 + LETTERS.index("z")
    found = align_words(certain("aazzbb"), spelled("a", "", "b"), blank=0, delimiter=z)
    assert [(span.start, span.end) for span in found] == [(0, 2), (2, 4), (4, 6)]


def test_the_search_refuses_what_cannot_be() -> None:
    with pytest.raises(InputError, match="3 frames of sound are too few for the 3 symbols"):
        align_words(certain("aa."), spelled("aab"), blank=0)  # double letters need a blank between
    with pytest.raises(InputError, match="no word of the text can be spelled"):
        align_words(certain("aa."), spelled("", ""), blank=0)


def test_windows_of_long_sound_make_what_the_whole_would() -> None:
    generator = torch.Generator().manual_seed(0)
    waveforms = [torch.randn(round(seconds * RATE), generator=generator) for seconds in (75.3, 2.0, 30.0, 31.01, 58.0)]
    model = ToneModel()
    for found, expected in zip(emissions(model, waveforms, 60.0), model.log_probs(waveforms), strict=True):
        torch.testing.assert_close(found, expected)


def utterance(path: Path, text: str, **changes: object) -> Utterance:
    seconds = soundfile.info(path).duration
    plain = Utterance(path.stem, path, "s", "user", path.stem, 0, "train", text, seconds, (), (), ())
    return Utterance(**{**{field: getattr(plain, field) for field in plain.__dataclass_fields__}, **changes})


def test_long_sound_is_aligned_as_one(tmp_path: Path) -> None:
    words = ["some", "words", "that", "go", "on"] * 35
    sound, known = sing(words)
    soundfile.write(tmp_path / "long.wav", sound.numpy() * 0.5, RATE)
    assert len(sound) > 60 * RATE
    (aligned,) = tones()([utterance(tmp_path / "long.wav", " ".join(words))])
    assert isinstance(aligned, Aligned)
    error = boundary_error([(aligned.words, known)])
    assert error is not None and error.boundaries == 350
    assert error.within[20] == 1.0


def test_a_part_of_a_recording_has_times_of_its_own(tmp_path: Path) -> None:
    sound, known = sing(["first", "second", "third"])
    sides = torch.stack([torch.zeros_like(sound), sound * 0.5], dim=1)
    soundfile.write(tmp_path / "call.wav", sides.numpy(), RATE)
    start = known[1].start - 0.04
    part = utterance(tmp_path / "call.wav", "second", start=start, duration=0.66, channel=1)
    (aligned,) = tones()([part])
    assert isinstance(aligned, Aligned)
    assert aligned.words[0].start == pytest.approx(0.04, abs=0.021)
    assert aligned.words[0].end == pytest.approx(known[1].end - start, abs=0.021)
    (unreadable,) = tones()([utterance(tmp_path / "call.wav", "x", channel=2)])
    assert isinstance(unreadable, Unaligned) and "channel 2" in unreadable.reason


def test_a_corpus_is_aligned(tmp_path: Path) -> None:
    known = write_corpus(tmp_path / "in", a="hello there", b="how are you", c="fine", d="thanks a lot", e="bye")
    rows = read_rows(tmp_path / "in")
    rows[0] |= {"text": "Hello 안 дом there!", "extra": "kept"}  # two words more than are sung
    rows[2]["text"] = None
    rows[4]["text"] = "a text that is far too long for this sound by any means whatever"
    rows[3]["words"] = [[word.text, word.start + 0.03, word.end] for word in known["d"]]
    write_rows(tmp_path / "in", rows)
    settings = dict(shard_utterances=2, max_failed_share=0.5, processes=1)
    report = align_corpus(str(tmp_path / "in"), tones, str(tmp_path / "out"), **settings)
    counts = asdict(report)
    assert counts["against_known"] == counts.pop("against_known")
    assert (report.utterances, report.aligned, report.without_text, report.failed) == (5, 3, 1, 1)
    assert (report.words, report.interpolated, report.unknown) == (10, 1, 1)
    assert report.against_known is not None and report.against_known.boundaries == 6
    assert report.against_known.mean == pytest.approx(15, abs=10)  # half of the boundaries are wrong by 30 ms
    assert json.loads((tmp_path / "out/alignment.json").read_text())["words"] == 10
    problems = {row["id"]: row for row in map(json.loads, (tmp_path / "out/alignment_problems.jsonl").open())}
    assert set(problems) == {"a", "e"}
    assert (problems["a"]["unknown"], problems["a"]["interpolated"]) == (["дом"], ["дом"])
    assert "too few" in problems["e"]["failed"]

    hello, how, fine, thanks, bye = read_speech_corpora([tmp_path / "out"])
    assert [word.text for word in hello.words] == ["Hello", "안", "дом", "there"]
    assert len(hello.word_confidence) == 4 and hello.word_confidence[2] == 0.0 < hello.word_confidence[0]
    for found, name in ((how, "b"), (thanks, "d")):
        for word, true in zip(found.words, known[name], strict=True):
            assert (word.start, word.end) == pytest.approx((true.start, true.end), abs=0.021)
    assert fine.words == bye.words == ()
    assert hello.read().seconds > 0  # the paths lead to the corpus that was aligned
    assert read_rows(tmp_path / "out")[0]["extra"] == "kept"

    assert align_corpus(str(tmp_path / "in"), tones, str(tmp_path / "out"), **settings) == report  # nothing is new
    with pytest.raises(InputError, match=r"1 of 4 utterances could not be aligned.*raise max_failed_share"):
        align_corpus(str(tmp_path / "in"), tones, str(tmp_path / "new"), **settings | {"max_failed_share": 0.1})
    assert not (tmp_path / "new/manifest.jsonl").exists()


def test_a_killed_alignment_goes_on_to_the_same_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path / "in", a="hello there", b="how are you", c="fine", d="thanks a lot")
    settings = dict(shard_utterances=2, max_failed_share=0.0, processes=1)
    align_corpus(str(tmp_path / "in"), tones, str(tmp_path / "whole"), **settings)
    hear, calls = ToneModel.log_probs, []

    def hear_and_die(model: ToneModel, waveforms: Sequence[Tensor]) -> list[Tensor]:
        calls.append(waveforms)
        return hear(model, waveforms) if len(calls) < 2 else die()

    with monkeypatch.context() as patch:
        patch.setattr(ToneModel, "log_probs", hear_and_die)
        killed(lambda: align_corpus(str(tmp_path / "in"), tones, str(tmp_path / "cut"), **settings))
    assert not (tmp_path / "cut/manifest.jsonl").exists()
    (shard,) = (tmp_path / "cut/alignment").glob("*.jsonl")
    made = shard.stat().st_mtime_ns
    align_corpus(str(tmp_path / "in"), tones, str(tmp_path / "cut"), **settings)
    assert shard.stat().st_mtime_ns == made
    assert (tmp_path / "cut/manifest.jsonl").read_bytes() == (tmp_path / "whole/manifest.jsonl").read_bytes()


def test_a_corpus_grows_and_its_text_changes_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []

    def count_and_hear(model: ToneModel, waveforms: Sequence[Tensor]) -> list[Tensor]:
        heard.append(len(waveforms))
        return hear(model, waveforms)

    hear = ToneModel.log_probs
    monkeypatch.setattr(ToneModel, "log_probs", count_and_hear)

    def align(**options: Any) -> AlignmentReport:
        heard.clear()
        settings = dict(shard_utterances=2, max_failed_share=1.0, processes=1, **options)
        return align_corpus(str(tmp_path), tones, str(tmp_path), **settings)

    write_corpus(tmp_path, a="hello there", b="fine", c="bye")
    rows = read_rows(tmp_path)
    write_rows(tmp_path, [rows[0], rows[1] | {"text": None}])
    align()
    first = read_rows(tmp_path)
    assert first[0]["words"] and "words" not in first[1] and sum(heard) == 1
    record = read_run(tmp_path / "alignment")
    assert record is not None and record.done
    assert record.inputs["corpus"] == content_digest(tmp_path)  # its own writing is no news

    write_rows(tmp_path, [first[0], rows[1], rows[2]])  # a text that was not known, and a new utterance
    assert align().aligned == 3 and sum(heard) == 2
    assert read_rows(tmp_path)[0] == first[0] and all(row["words"] for row in read_rows(tmp_path))

    rows = read_rows(tmp_path)
    rows[1]["text"] = "fine and so on and on and on and on"
    write_rows(tmp_path, rows)
    with pytest.raises(InputError, match="rows that are not in the input any more, or are others now: b;"):
        align()
    assert align(overwrite=True).failed == 1 and sum(heard) == 2  # c lies in the same shard
    assert "words" not in read_rows(tmp_path)[1]
    assert align().failed == 1 and heard == []  # it is told again, and not tried again
    assert align(retry_errors=True).failed == 1 and sum(heard) == 1

    with pytest.raises(InputError, match=r'aligner: "tones" then, "TextGridAligner" now'):
        make = partial(TextGridAligner, folder=str(tmp_path))
        align_corpus(str(tmp_path), make, str(tmp_path), shard_utterances=2, max_failed_share=1.0, processes=1)


def test_an_aligner_is_known_by_the_contents_of_its_folder(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in", a="hello there")
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids/a.TextGrid").write_text(LONG)
    make = partial(TextGridAligner, folder=str(tmp_path / "grids"))
    arguments = (str(tmp_path / "in"), make, str(tmp_path / "in"))
    settings = dict(shard_utterances=2, max_failed_share=0.5, processes=1)
    align_corpus(*arguments, **settings)
    (tmp_path / "grids/a.TextGrid").write_text(LONG.replace("0.75", "0.5"))
    with pytest.raises(InputError, match="folder: .*grids .* then, .*grids .* now"):
        align_corpus(*arguments, **settings)
    align_corpus(*arguments, **settings, overwrite=True)
    assert read_rows(tmp_path / "in")[0]["words"][0][2] == 0.5


CONFIG = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=[16, 16],
    conv_kernel=[10, 64], conv_stride=[5, 64], num_feat_extract_layers=2, conv_bias=True,
    num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, mask_time_prob=0.0,
)  # fmt: skip


def save_hub_model(folder: Path, *, norm: str, pieces: bool = False) -> str:
    """A CTC model as the hub has them, at random."""
    symbols = ["<pad>", "<s>", "</s>", "<unk>"]
    symbols += ["he", "llo", "[PAD2]"] if pieces else ["|", "'", *LETTERS.upper()]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    folder.mkdir()
    if pieces:
        from tokenizers import Tokenizer, models

        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", continuing_subword_prefix=""))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>").save_pretrained(
            folder
        )
    else:
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer").save_pretrained(folder)
    config = Wav2Vec2Config(
        **CONFIG,
        feat_extract_norm=norm,
        do_stable_layer_norm=norm == "layer",
        vocab_size=len(vocabulary),
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_a_model_of_the_hub_spells_and_hears(tmp_path: Path, norm: str) -> None:
    model = HubCtc(save_hub_model(tmp_path / "model", norm=norm))
    assert (model.frame_samples, model.sample_rate, model.blank, model.delimiter) == (320, RATE, 0, 4)
    hello, price = model.spell(["Hello’s", "2€"])
    assert model.tokenizer.convert_ids_to_tokens(hello.ids) == list("HELLO'S")
    assert (model.tokenizer.convert_ids_to_tokens(price.ids), price.unknown) == (list("TWO"), "€")
    waveforms = [torch.randn(length) for length in (16_000, 9_000, 20_500)]
    together = model.log_probs(waveforms)
    for waveform, row in zip(waveforms, together, strict=True):
        torch.testing.assert_close(row, model.log_probs([waveform])[0], atol=1e-4, rtol=0)
        assert len(row) == pytest.approx(len(waveform) / 320, abs=1)
        torch.testing.assert_close(row.exp().sum(-1), torch.ones(len(row)))
    with pytest.raises(InputError, match="no CTC model"):
        HubCtc(str(tmp_path))


def test_a_model_of_word_pieces_is_spelled_by_its_tokenizer(tmp_path: Path) -> None:
    model = HubCtc(save_hub_model(tmp_path / "model", norm="layer", pieces=True))
    known, strange = model.spell(["hello", "zebra"])
    assert model.tokenizer.convert_ids_to_tokens(known.ids) == ["he", "llo"]
    assert known.unknown == "" and strange == Spelling((), "zebra")
    assert model.delimiter is None
    assert model.spell(["HELLO", "Hello"]) == [known, known]  # not letter by letter, and not unknown


def test_a_torchaudio_bundle_s_model(tmp_path: Path) -> None:
    from torchaudio.models import wav2vec2_model
    from torchaudio.pipelines import MMS_FA

    dictionary = MMS_FA.get_dict(star=None)
    model = wav2vec2_model(
        "layer_norm", [(16, 10, 5), (16, 64, 64)], True, 32, 0.0, 8, 2, 2, 2, 0.0, 32, 0.0, 0.0, False, 0.0,
        aux_num_out=len(dictionary),
    )  # fmt: skip
    ctc = TorchaudioCtc(model, dictionary, sample_rate=RATE, language="en", device="cpu")
    assert ctc.frame_samples == 320
    spelling = ctc.spell(["Né", "♪*-"])
    assert spelling == [Spelling((dictionary["n"], dictionary["e"])), Spelling((), "♪")]
    sound, _ = sing(["hello", "there"])
    soundfile.write(tmp_path / "a.wav", sound.numpy() * 0.5, RATE)
    (aligned,) = CtcAligner(ctc)([utterance(tmp_path / "a.wav", "hello there 3 ♪")])
    assert isinstance(aligned, Aligned)
    assert [word.text for word in aligned.words] == ["hello", "there", "3", "♪"]
    times = [time for word in aligned.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] <= len(sound) / RATE
    assert (aligned.interpolated, aligned.unknown) == (("♪",), ("♪",))


@needs_synthesisers
def test_the_encoder_s_own_phones(tmp_path: Path) -> None:
    phones = ["pau", "ae", "ah", "ax", "dh", "eh", "f", "hh", "iy", "k", "l", "ow", "p", "r", "t", "uw", "w"]
    config = Wav2Vec2Config(**CONFIG, feat_extract_norm="layer", do_stable_layer_norm=True, apply_spec_augment=False)
    keep_layers(Wav2Vec2Model(config), 1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"phones\.json is missing"):
        PhoneHead(tmp_path)
    (tmp_path / "phones.json").write_text(json.dumps({"phones": phones, "labels_per_unit": 2, "padding": 160}))
    save_file(
        {"weight": torch.randn(2 * len(phones), 32), "bias": torch.zeros(2 * len(phones))},
        tmp_path / "phones.safetensors",
    )
    model = PhoneHead(tmp_path)
    assert model.frame_samples == 160
    words = ["Hello", "the", "apple", "2", "дом", "zoo"]
    said = [[model.name(symbol) for symbol in spelling.ids] for spelling in model.spell(words)]
    assert said == [["hh", "ax", "l", "ow"], ["dh", "iy"], ["ae", "p", "ax", "l"], ["t", "uw"], [], ["uw"]]
    assert [spelling.unknown for spelling in model.spell(words)] == ["", "", "", "", "д о м", "z"]
    waveforms = [torch.randn(length) for length in (16_000, 9_000)]
    for waveform, row in zip(waveforms, model.log_probs(waveforms), strict=True):
        torch.testing.assert_close(row, model.log_probs([waveform])[0], atol=1e-4, rtol=0)
    soundfile.write(tmp_path / "a.wav", waveforms[0].numpy() * 0.1, RATE)
    (aligned,) = CtcAligner(model)([utterance(tmp_path / "a.wav", "hello, apple")])
    assert isinstance(aligned, Aligned)
    assert [phone.text for phone in aligned.phones] == ["hh", "ax", "l", "ow", "ae", "p", "ax", "l"]
    assert aligned.words[1].start == aligned.phones[4].start and aligned.words[1].end == aligned.phones[7].end


LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.5
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = ""
        intervals [2]:
            xmin = 0.25
            xmax = 0.75
            text = "say ""hé"" 2"
        intervals [3]:
            xmin = 0.75
            xmax = 1.5
            text = "<unk>"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1.5
        points: size = 1
        points [1]:
            number = 0.5
            mark = "click"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.5
        intervals: size = 1
        intervals [1]:
            xmin = 0.25
            xmax = 7.5e-1
            text = "EH1"
"""
SHORT = """File type = "ooTextFile"
"TextGrid"

0
1.5
<exists>
3
"IntervalTier"
"words"
0
1.5
3
0
0.25
""
0.25
0.75
"say ""hé"" 2"
0.75
1.5
"<unk>"
"TextTier"
"clicks"
0
1.5
1
0.5
"click"
"IntervalTier"
"phones"
0
1.5
1
0.25
7.5e-1
"EH1"
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("text", [LONG, SHORT], ids=["long", "short"])
def test_textgrids_of_both_formats(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "a.TextGrid"
    path.write_bytes(text.encode(encoding))
    words, phones = read_textgrid(path)
    assert words.name == "words" and phones.name == "phones"
    assert words.intervals[1] == AlignedWord('say "hé" 2', 0.25, 0.75)
    assert phones.intervals == (AlignedWord("EH1", 0.25, 0.75),)
    path.write_bytes(text[: len(text) // 2].encode(encoding))
    with pytest.raises(InputError, match=r"a\.TextGrid: no TextGrid that can be read"):
        read_textgrid(path)


def test_a_corpus_takes_its_times_from_textgrids(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in", a="hello there", b="how are you", c="fine")
    speakers = LONG.replace('"words"', '"s - words"').replace('"phones"', '"s - phones"')
    (tmp_path / "grids/s").mkdir(parents=True)
    (tmp_path / "grids/s/a.TextGrid").write_text(LONG)
    (tmp_path / "grids/s/b.TextGrid").write_text(speakers)
    make = partial(TextGridAligner, folder=str(tmp_path / "grids"))
    report = align_corpus(
        str(tmp_path / "in"), make, str(tmp_path / "in"), shard_utterances=2, max_failed_share=0.5, processes=1
    )
    assert (report.aligned, report.failed, report.unknown, report.confidence) == (2, 1, 2, None)
    a, b, c = read_speech_corpora([tmp_path / "in"])  # in place
    for found in (a, b):
        rest = AlignedWord("<unk>", 0.75, round(found.duration, 3))  # cut to the sound
        assert found.words == (AlignedWord('say "hé" 2', 0.25, 0.75), rest)
    assert a.phones == (AlignedWord("EH1", 0.25, 0.75),)
    assert c.words == () and a.word_confidence == ()
    with pytest.raises(InputError, match=r"no \.TextGrid in it"):
        TextGridAligner(str(tmp_path / "in/alignment"))


def test_times_of_a_textgrid_are_cut_to_the_utterance(tmp_path: Path) -> None:
    write_corpus(tmp_path, call="hello there")
    (tmp_path / "call.TextGrid").write_text(LONG)
    aligner = TextGridAligner(str(tmp_path))
    late = utterance(tmp_path / "call.wav", "x", id="call-2", start=0.5, duration=1.0)
    (aligned,) = aligner([late])
    assert isinstance(aligned, Aligned)
    assert aligned.words == (AlignedWord('say "hé" 2', 0.0, 0.25), AlignedWord("<unk>", 0.25, 1.0))


def test_boundary_error_is_of_starts_and_ends() -> None:
    known = [AlignedWord("a", 0.0, 0.1), AlignedWord("b", 0.1, 0.3)]
    found = [AlignedWord("a", 0.0, 0.12), AlignedWord("b", 0.14, 0.5)]
    error = boundary_error([(found, known), (found[:1], known)])
    assert error is not None
    assert (error.boundaries, error.median, error.mean) == (4, pytest.approx(30), pytest.approx(65))
    assert error.within == {20: 0.5, 50: 0.75, 100: 0.75}
    assert boundary_error([]) is None
