"""Replies that are heard while they are made, turns that are heard while they are spoken, voices with names."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import UNIT_RATE, build_random_bundle

import usdm
from usdm.audio import read_audio, resample, write_audio
from usdm.audio.streaming import StreamingResampler
from usdm.chain import (
    Answer,
    DecoderSampling,
    GenerationSettings,
    LanguageModelChain,
    Question,
    SpokenChunk,
    SpokenDialogPipeline,
    SpokenText,
)
from usdm.chain.streaming import StreamEvent
from usdm.decoder import UnitDecoder
from usdm.lm import TokenStream, finish, play
from usdm.tokens import TurnContent
from usdm.types import InputError, Sampling, SpokenReply, Turn, Waveform

RATE = 16_000  # Hz
TALKATIVE_SEED = 3  # of random weights that speak for two seconds and stop
QUICK = DecoderSampling(steps=2, solver="euler")
LONG_REPLY = GenerationSettings(
    {
        "transcribe": Sampling(max_new_tokens=12),
        "respond": Sampling(max_new_tokens=12),
        "speak": Sampling(max_new_tokens=90),
    },
    QUICK,
)
HISTORY = (Turn("user", "hi"), Turn("agent", "hello, what is it?"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_random_bundle(tmp_path_factory.mktemp("bundle"), seed=TALKATIVE_SEED)
    LONG_REPLY.save(folder)
    (folder / "voices").mkdir()
    for number, name in enumerate(("slt", "kal")):
        write_audio(folder / "voices" / f"{name}.wav", noise(0.8, 22_050, seed=number), 22_050)
    return folder


@pytest.fixture(scope="module")
def pipeline(bundle: Path) -> SpokenDialogPipeline:
    return SpokenDialogPipeline.from_pretrained(bundle)


def noise(seconds: float = 1.2, rate: int = RATE, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(int(seconds * rate), generator=torch.Generator().manual_seed(seed)).clamp(-3, 3)


def kinds(events: list[StreamEvent]) -> list[type]:
    return [type(event) for event in events]


def last(events: Iterator[StreamEvent]) -> SpokenReply:
    *_, reply = events
    assert isinstance(reply, SpokenReply)
    return reply


# A reply while it is made


def test_texts_come_first_then_sound_and_the_whole_reply_at_last(pipeline: SpokenDialogPipeline) -> None:
    events = list(pipeline.stream(noise(), RATE))
    whole = pipeline.respond(noise(), RATE)
    assert events[:2] == [SpokenText("user", whole.user_text or ""), SpokenText("agent", whole.agent_text or "")]
    *chunks, reply = events[2:]
    assert isinstance(reply, SpokenReply) and len(chunks) >= 3
    assert kinds(chunks) == [SpokenChunk] * len(chunks)
    assert all(len(chunk.samples) > 0 and chunk.sample_rate == reply.sample_rate for chunk in chunks)
    assert torch.equal(torch.cat([chunk.samples for chunk in chunks]), reply.waveform)
    assert len(reply.waveform) == len(whole.waveform) and torch.isfinite(reply.waveform).all()
    assert torch.equal(reply.agent_units, whole.agent_units) and torch.equal(reply.user_units, whole.user_units)
    assert (reply.user_text, reply.agent_text) == (whole.user_text, whole.agent_text)
    assert reply.truncated == whole.truncated
    assert list(reply.timings) == list(whole.timings)


def test_sound_comes_before_the_last_unit_is_written(
    pipeline: SpokenDialogPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    draw = TokenStream._draw

    def counted(self: TokenStream, *arguments: Any) -> int:
        written.append(1)
        return draw(self, *arguments)

    monkeypatch.setattr(TokenStream, "_draw", counted)
    at_chunk = [len(written) for event in pipeline.stream(noise(), RATE) if isinstance(event, SpokenChunk)]
    assert at_chunk == sorted(set(at_chunk)) and at_chunk[0] <= len(written) - 30


def test_on_a_gpu_the_model_writes_on_while_a_chunk_is_decoded(
    pipeline: SpokenDialogPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    at_once: list[bool] = []
    draw, decode = TokenStream._draw, UnitDecoder.infill

    def counted(self: TokenStream, *arguments: Any) -> int:
        written.append(1)
        return draw(self, *arguments)

    def slow(self: UnitDecoder, *arguments: Any, **options: Any) -> Any:
        before = len(written)
        patience = time.monotonic() + 5
        while len(written) == before and not at_once and time.monotonic() < patience:
            time.sleep(0.01)
        at_once.append(len(written) > before)
        return decode(self, *arguments, **options)

    expected = last(pipeline.stream(noise(), RATE))
    monkeypatch.setattr(TokenStream, "_draw", counted)
    monkeypatch.setattr(UnitDecoder, "infill", slow)
    monkeypatch.setattr("usdm.chain.streaming.overlaps", lambda parts: True)
    threads = threading.active_count()
    reply = last(pipeline.stream(noise(), RATE))
    assert at_once[0] and torch.equal(reply.waveform, expected.waveform)
    assert torch.equal(reply.agent_units, expected.agent_units) and list(reply.timings) == list(expected.timings)
    for event in pipeline.stream(noise(), RATE):
        if isinstance(event, SpokenChunk):
            break
    del event
    gc.collect()
    assert threading.active_count() == threads


def test_the_time_to_the_first_sound(pipeline: SpokenDialogPipeline) -> None:
    reply = last(pipeline.stream(noise(), RATE))
    assert reply.first_sound is not None and reply.first_sound > 0
    assert pipeline.respond(noise(), RATE).first_sound is None
    silent = list(pipeline.stream(noise(), RATE, speak=False))
    assert kinds(silent) == [SpokenText, SpokenText, SpokenReply]
    assert silent[-1].first_sound is silent[-1].waveform is None


def test_what_the_listener_does_meanwhile_is_no_stage(
    pipeline: SpokenDialogPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    events = pipeline.stream(noise(), RATE)
    for event in events:
        if isinstance(event, SpokenReply):
            assert sum(event.timings.values()) == pytest.approx(0)
        clock[0] += 100.0


def test_a_typed_question_and_a_chain_without_text(pipeline: SpokenDialogPipeline) -> None:
    events = list(pipeline.stream(text="How are you?"))
    assert events[0] == SpokenText("user", "How are you?") and kinds(events)[1:3] == [SpokenText, SpokenChunk]
    events = list(pipeline.stream(noise(), RATE, chain="units_to_units"))
    assert set(kinds(events)) == {SpokenChunk, SpokenReply}


def test_a_chain_of_another_kind_is_streamed_when_it_has_answered(pipeline: SpokenDialogPipeline) -> None:
    class Parrot:
        def answer(self, question: Question, sampling: Mapping[str, Sampling], speak: bool = True) -> Answer:
            return Answer("so i say", "so you say", question.units, {"repeat": 0.001})

    events = list(pipeline.stream(noise(2.0), RATE, chain=Parrot()))
    assert events[:2] == [SpokenText("user", "so i say"), SpokenText("agent", "so you say")]
    reply = events[-1]
    assert torch.equal(reply.agent_units, reply.user_units) and kinds(events).count(SpokenChunk) >= 2
    assert len(reply.waveform) == len(pipeline.respond(noise(2.0), RATE, chain=Parrot()).waveform)

    class Silent:
        def answer(self, question: Question, sampling: Mapping[str, Sampling], speak: bool = True) -> Answer:
            return Answer(None, "", torch.zeros(0, dtype=torch.int64))

    assert kinds(list(pipeline.stream(noise(), RATE, chain=Silent()))) == [SpokenText, SpokenReply]


def test_whoever_stops_listening_holds_nothing(pipeline: SpokenDialogPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[weakref.ref] = []
    programs: list[Any] = []
    create, program = TokenStream.__init__, LanguageModelChain.program

    def remembered(self: TokenStream, *arguments: Any) -> None:
        streams.append(weakref.ref(self))
        create(self, *arguments)

    def followed(self: LanguageModelChain, *arguments: Any) -> Any:
        programs.append(program(self, *arguments))
        return programs[-1]

    monkeypatch.setattr(TokenStream, "__init__", remembered)
    monkeypatch.setattr(LanguageModelChain, "program", followed)
    events = pipeline.stream(noise(), RATE)
    assert SpokenChunk in (type(event) for event in events)  # reads as far as the first
    assert programs[0].gi_frame is not None and streams[0]() is not None
    events.close()
    assert programs[0].gi_frame is None
    gc.collect()
    assert streams[0]() is None


def test_a_reply_that_is_cut_off_says_so_and_fades(pipeline: SpokenDialogPipeline) -> None:
    for limit, cut in ((40, True), (400, False)):
        sampling = {"speak": Sampling(max_new_tokens=limit)}
        replies = [
            pipeline.respond(noise(), RATE, sampling=sampling),
            last(pipeline.stream(noise(), RATE, sampling=sampling)),
        ]
        for reply in replies:
            assert ("speak" in reply.truncated) is cut
            assert (len(reply.agent_units) == limit) is cut
            assert (float(reply.waveform[-1]) == 0) is cut


# Bad input


@pytest.mark.parametrize("way", ["respond", "stream"])
def test_questions_that_cannot_be_answered(pipeline: SpokenDialogPipeline, way: str) -> None:
    def ask(*arguments: Any, **options: Any) -> None:
        reply = getattr(pipeline, way)(*arguments, **options)
        if way == "stream":
            last(reply)

    for text in ("", "  \n"):
        with pytest.raises(InputError, match="text=.*no words"):
            ask(text=text)
        with pytest.raises(InputError, match="reply=.*no words"):
            ask(text="hi", reply=text)
    with pytest.raises(InputError, match="silent"):
        ask(torch.zeros(RATE), RATE)
    with pytest.raises(InputError, match=r"lasts 30\.0 s; this model holds 20 s at most \(512 positions, 25 units"):
        ask(noise(30), RATE)
    with pytest.raises(InputError, match="steps=0"):
        ask(noise(), RATE, decoder=DecoderSampling(steps=0))
    with pytest.raises(InputError, match="sampling for stage 'think'"):
        ask(noise(), RATE, sampling={"think": Sampling()})


def test_an_hour_of_speech_is_refused_before_it_is_copied(pipeline: SpokenDialogPipeline) -> None:
    hour = torch.zeros(1, dtype=torch.int16).expand(3600 * 48_000, 2)  # takes no memory; its floats would take 1.3 GB
    with pytest.raises(InputError, match="lasts 3600.0 s; this model holds 20 s"):
        pipeline.respond(hour, 48_000)


def test_requests_at_once_do_not_meet(pipeline: SpokenDialogPipeline) -> None:
    hot = {stage: Sampling(temperature=1.0, max_new_tokens=40, seed=5) for stage in ("respond", "speak")}

    def ask(number: int) -> SpokenReply:
        question = noise(0.6 + 0.2 * number, seed=number)
        if number % 2:
            return last(pipeline.stream(question, RATE, seed=number, sampling=hot))
        return pipeline.respond(question, RATE, seed=number, sampling=hot, voice="slt")

    alone = [ask(number) for number in range(6)]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(ask, range(6)))
    assert sum(reply.waveform is not None for reply in alone) >= 4
    for one, other in zip(alone, together, strict=True):
        assert (one.user_text, one.agent_text) == (other.user_text, other.agent_text)
        assert one.agent_units.tolist() == other.agent_units.tolist()
        assert one.waveform is None or torch.equal(one.waveform, other.waveform)


# What is settled already


def test_a_known_transcript_is_read_and_not_written(pipeline: SpokenDialogPipeline) -> None:
    plain = pipeline.respond(noise(), RATE)
    edited = pipeline.respond(noise(), RATE, transcript="the way to the station")
    assert edited.user_text == "the way to the station" and "transcribe" not in edited.timings
    assert edited.agent_text != plain.agent_text
    said = pipeline.respond(noise(), RATE, transcript="the way to the station", reply="on your left")
    assert said.agent_text == "on your left" and list(said.timings) == ["units", "speak", "decode", "vocode"]
    assert said.agent_units.tolist() != edited.agent_units.tolist()
    spoken = pipeline.respond(text="where?", reply="on your left")
    assert spoken.agent_text == "on your left" and list(spoken.timings) == ["speak", "decode", "vocode"]
    events = list(pipeline.stream(noise(), RATE, transcript="the way", reply="on your left", speak=False))
    assert events[:2] == [SpokenText("user", "the way"), SpokenText("agent", "on your left")]


def test_what_has_no_place_in_a_chain(pipeline: SpokenDialogPipeline) -> None:
    with pytest.raises(InputError, match="a given reply needs the words before it"):
        pipeline.respond(noise(), RATE, reply="on your left")
    with pytest.raises(InputError, match="chain=units_text_units has no user_text"):
        pipeline.respond(noise(), RATE, transcript="hi", chain="units_text_units")
    with pytest.raises(InputError, match="chain=units_to_units has no agent_text"):
        pipeline.respond(noise(), RATE, reply="hi", chain="units_to_units")
    with pytest.raises(InputError, match="transcript='hi' of a question that is typed"):
        pipeline.respond(text="hello", transcript="hi")


def test_a_stream_of_its_own_goes_back_to_the_edit(pipeline: SpokenDialogPipeline) -> None:
    """Answers through one stream are those from scratch, and read nothing before the edit again."""
    parts = pipeline.parts
    stream = TokenStream(parts.llm)
    chain = LanguageModelChain(parts.llm, parts.template, stream=stream)
    read: list[int] = []
    extend = stream.extend
    stream.extend = lambda ids: (read.append(len(ids)), extend(ids))  # type: ignore[method-assign,func-returns-value]
    question = Question(units=torch.arange(30) % 20, history=HISTORY)
    prompt = len(parts.template.prompt("transcribe", TurnContent(user_units=question.units), HISTORY))
    for text, reply in (
        (None, None),
        ("the way to the station", None),
        ("the way to the street", "on your left"),
        ("the way to the street", "go on"),
        (None, None),
    ):
        edited = Question(units=question.units, history=HISTORY, text=text, reply=reply)
        read.clear()
        mine = chain.answer(edited, LONG_REPLY.sampling)
        theirs = LanguageModelChain(parts.llm, parts.template).answer(edited, LONG_REPLY.sampling)
        assert (mine.user_text, mine.agent_text) == (theirs.user_text, theirs.agent_text)
        assert mine.agent_units.tolist() == theirs.agent_units.tolist()
        if text is not None:
            assert read[0] < prompt
    assert read[0] == 0  # the prompt was all there


def test_a_script_tells_its_texts_whoever_plays_it(pipeline: SpokenDialogPipeline) -> None:
    parts, told = pipeline.parts, []
    chain = LanguageModelChain(parts.llm, parts.template)
    question = Question(units=torch.arange(30) % 20)
    answer = finish(play(chain.program(question, LONG_REPLY.sampling, tell=told.append), TokenStream(parts.llm)))
    assert told == [SpokenText("user", answer.user_text), SpokenText("agent", answer.agent_text)]


# A turn while it is spoken


def blocks(samples: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    yield from samples.split(size)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(48_000, 16_000), (44_100, 16_000), (8_000, 16_000), (16_000, 16_000)])
@pytest.mark.parametrize("size", [37, 960, 50_000])
def test_blocks_are_resampled_like_the_whole(from_hz: int, to_hz: int, size: int) -> None:
    samples = noise(0.7, from_hz)
    resampler = StreamingResampler(from_hz, to_hz)
    came = [resampler.push(block) for block in blocks(samples, size)]
    assert size == 50_000 or sum(map(len, came)) > 0.6 * to_hz  # most of it before the end
    torch.testing.assert_close(torch.cat([*came, resampler.finish()]), resample(samples, from_hz, to_hz))


def test_a_turn_is_heard_while_it_is_spoken(pipeline: SpokenDialogPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    extend = TokenStream.extend
    monkeypatch.setattr(TokenStream, "extend", lambda self, ids: (read.append(len(ids)), extend(self, ids)))
    listener = pipeline.listen(48_000, history=HISTORY)
    question = noise(4.0, 48_000)
    for block in blocks(question, 960):
        listener.push(block)
    assert len(listener.units) > 2 * UNIT_RATE and sum(read) > 2 * UNIT_RATE
    read.clear()
    reply = listener.respond()
    assert len(reply.user_units) == len(pipeline.respond(question, 48_000).user_units)
    parts = pipeline.parts
    prompt = parts.template.prompt("transcribe", TurnContent(user_units=reply.user_units), HISTORY)
    assert read[0] < len(prompt) / 2  # what was left to read
    again = LanguageModelChain(parts.llm, parts.template).answer(
        Question(units=reply.user_units, history=HISTORY), LONG_REPLY.sampling
    )
    assert (reply.user_text, reply.agent_text) == (again.user_text, again.agent_text)
    assert reply.agent_units.tolist() == again.agent_units.tolist()
    assert torch.equal(listener.respond().agent_units, reply.agent_units)
    assert torch.equal(last(listener.stream()).agent_units, reply.agent_units)


def test_a_transcript_is_edited_after_the_reply(pipeline: SpokenDialogPipeline) -> None:
    listener = pipeline.listen(RATE)
    listener.push(noise(2.0))
    first = listener.respond()
    for options in ({"transcript": "go straight ahead"}, {"transcript": "go straight on", "reply": "you go"}):
        edited = listener.respond(**options)
        parts = pipeline.parts
        question = Question(units=first.user_units, text=options["transcript"], reply=options.get("reply"))
        scratch = LanguageModelChain(parts.llm, parts.template).answer(question, LONG_REPLY.sampling)
        assert (edited.user_text, edited.agent_text) == (scratch.user_text, scratch.agent_text)
        assert edited.agent_units.tolist() == scratch.agent_units.tolist()
    assert listener.respond().agent_units.tolist() == first.agent_units.tolist()


def test_a_short_turn_has_the_units_of_a_recording(pipeline: SpokenDialogPipeline) -> None:
    heard = noise(3.0)
    listener = pipeline.listen(RATE)
    for block in heard.split(RATE // 10):
        listener.push(block)
    meanwhile = listener.units
    reply, recorded = listener.respond(), pipeline.respond(heard, RATE)
    assert recorded.user_units is not None and recorded.agent_units is not None
    assert listener.units.tolist() == recorded.user_units.tolist()
    assert 0 < len(meanwhile) < len(listener.units)
    assert (reply.user_text, reply.agent_text) == (recorded.user_text, recorded.agent_text)
    assert reply.agent_units.tolist() == recorded.agent_units.tolist()


def test_two_turns_at_once_do_not_meet(pipeline: SpokenDialogPipeline) -> None:
    questions = [noise(2.0, seed=number) for number in (1, 2)]

    def heard(question: torch.Tensor) -> SpokenReply:
        listener = pipeline.listen(RATE)
        for block in blocks(question, 700):
            listener.push(block)
        return listener.respond()

    alone = [heard(question) for question in questions]
    listeners = [pipeline.listen(RATE), pipeline.listen(RATE)]
    for pair in zip(*(blocks(question, 700) for question in questions), strict=True):
        for listener, block in zip(listeners, pair, strict=True):
            listener.push(block)
    for one, listener in zip(alone, listeners, strict=True):
        together = listener.respond()
        assert torch.equal(one.user_units, together.user_units) and torch.equal(one.agent_units, together.agent_units)
    assert not torch.equal(alone[0].user_units, alone[1].user_units)


def test_all_kinds_of_blocks(pipeline: SpokenDialogPipeline) -> None:
    samples = noise(1.0)
    whole = (samples * 32_768).round().to(torch.int16)
    units = []
    for kind in (whole.float() / 32_768, whole, torch.stack([whole, whole], dim=1), whole.numpy()):
        listener = pipeline.listen(RATE)
        for start in range(0, len(samples), 500):
            listener.push(kind[start : start + 500])
        units.append(listener.respond(speak=False).user_units)
    assert all(torch.equal(units[0], other) for other in units)


def test_turns_that_cannot_be_answered(pipeline: SpokenDialogPipeline) -> None:
    with pytest.raises(InputError, match="sample_rate=100: give the recording's own rate"):
        pipeline.listen(100)
    listener = pipeline.listen(RATE)
    with pytest.raises(InputError, match="lasts 0.000 s"):
        listener.respond()
    listener.push(torch.zeros(RATE))
    with pytest.raises(InputError, match="the recording is silent"):
        listener.respond()
    with pytest.raises(InputError, match="not finite"):
        listener.push(torch.full((100,), torch.nan))
    with pytest.raises(InputError, match=r"lasts 3600\.0 s; this model holds 20 s"):
        pipeline.listen(RATE).push(torch.zeros(1).expand(3600 * RATE))
    listener.push(noise())  # speech at last
    assert abs(len(listener.respond(speak=False).user_units) - 2.2 * UNIT_RATE) <= 1
    with pytest.raises(InputError, match="has been answered"):
        listener.push(noise())


# Voices


def test_named_voices(pipeline: SpokenDialogPipeline, bundle: Path) -> None:
    assert pipeline.voices == ["kal", "slt"]
    plain, kal, slt = (pipeline.respond(noise(), RATE, voice=voice) for voice in (None, "kal", "slt"))
    assert plain.agent_units.tolist() == kal.agent_units.tolist() == slt.agent_units.tolist()
    assert not torch.equal(kal.waveform, slt.waveform) and not torch.equal(kal.waveform, plain.waveform)
    recording = read_audio(bundle / "voices" / "kal.wav")
    assert torch.equal(kal.waveform, pipeline.respond(noise(), RATE, reference=recording).waveform)
    assert "voice" not in pipeline.respond(noise(), RATE, voice="kal").timings  # it is known by now
    streamed = last(pipeline.stream(noise(), RATE, voice="kal"))
    assert not torch.equal(streamed.waveform, last(pipeline.stream(noise(), RATE)).waveform)


def test_a_bundle_s_own_choice_of_voice(bundle: Path, pipeline: SpokenDialogPipeline, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    settings = json.loads((copy / "generation.json").read_text())
    (copy / "generation.json").write_text(json.dumps(settings | {"voice": "slt"}))
    own = SpokenDialogPipeline.from_pretrained(copy)
    assert own.settings.voice == "slt"
    slt, kal = (pipeline.respond(noise(), RATE, voice=voice).waveform for voice in ("slt", "kal"))
    assert torch.equal(own.respond(noise(), RATE).waveform, slt)
    assert torch.equal(own.respond(noise(), RATE, voice="kal").waveform, kal)
    recording = read_audio(copy / "voices" / "kal.wav")
    assert torch.equal(own.respond(noise(), RATE, reference=recording).waveform, kal)
    (copy / "generation.json").write_text(json.dumps(settings | {"voice": "awb"}))
    with pytest.raises(InputError, match="voice=awb: this model has kal, slt"):
        SpokenDialogPipeline.from_pretrained(copy)
    write_audio(copy / "voices" / "kal.wav", noise(), RATE)
    shutil.copy(copy / "voices" / "kal.wav", copy / "voices" / "kal.flac")
    with pytest.raises(InputError, match="voice kal has two recordings"):
        SpokenDialogPipeline.from_pretrained(copy)


def test_voices_that_are_not_there(pipeline: SpokenDialogPipeline, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="voice=awb: this model has kal, slt; name one of them, or give a recording"):
        pipeline.respond(text="hi", voice="awb")
    with pytest.raises(InputError, match="voice=slt and a reference recording: give one of them"):
        pipeline.respond(text="hi", voice="slt", reference=Waveform(noise(), RATE))
    places = {part: bundle / part for part in ("units", "llm", "decoder", "vocoder")}
    plain = SpokenDialogPipeline.from_parts(**places)
    assert plain.voices == []
    with pytest.raises(InputError, match="voice=slt: this model has no named voices"):
        plain.respond(text="hi", voice="slt")
    assert SpokenDialogPipeline.from_parts(**places, voices=bundle / "voices").voices == ["kal", "slt"]
    with pytest.raises(InputError, match="voices=.*absent: no such folder"):
        SpokenDialogPipeline.from_parts(**places, voices=tmp_path / "absent")


# The model that ships inside the package


@pytest.fixture(scope="module")
def tiny() -> SpokenDialogPipeline:
    return SpokenDialogPipeline.from_pretrained("tiny")


def test_the_embedded_model_says_the_same_in_a_stream(tiny: SpokenDialogPipeline) -> None:
    question = read_audio(Path(usdm.__file__).parent / "assets" / "question.wav")
    whole = tiny.respond(question.samples, question.sample_rate)
    streamed = last(tiny.stream(question.samples, question.sample_rate))
    assert (streamed.user_text, streamed.agent_text) == (whole.user_text, whole.agent_text)
    assert torch.equal(streamed.agent_units, whole.agent_units) and len(streamed.waveform) == len(whole.waveform)
    loudness = [waveform.square().mean().sqrt() for waveform in (whole.waveform, streamed.waveform)]
    assert 0.7 < loudness[0] / loudness[1] < 1.4


def test_noise_without_words_gets_a_reply_or_none(tiny: SpokenDialogPipeline) -> None:
    reply = last(tiny.stream(0.1 * noise(1.5), RATE))
    assert reply.user_text is not None and reply.agent_text is not None
    assert (reply.waveform is None) == (len(reply.agent_units) == 0)
    assert reply.waveform is None or torch.isfinite(reply.waveform).all()
