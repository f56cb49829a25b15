"""Measured conversations: what a timeline says, and the timing rules of Full-Duplex-Bench."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from served import served

import usdm
from usdm.audio import read_audio
from usdm.chain import SpokenDialogPipeline
from usdm.cli.main import main
from usdm.conversation.client import BLOCK, Person, Speaker
from usdm.conversation.full_duplex_bench import TASKS, Segment, find_samples, read_output, score, task_score
from usdm.conversation.report import Measurement, draw_timeline, measurement_table, timeline_json
from usdm.conversation.script import WIRE_RATE, Act, Habits, Room, Script, draw_scripts
from usdm.conversation.timeline import Event, PlayedReply, SaidAct, Stretch, Timeline, added, figures
from usdm.data.speech_corpus import read_speech_corpora
from usdm.serve.model import make_server
from usdm.turns import Silence
from usdm.turns.moments import PauseLengths
from usdm.types import InputError

ASSETS = Path(usdm.__file__).parent / "assets"
PACKAGED = ASSETS / "held_out"
STARTED = "input_audio_buffer.speech_started"


def act(kind: str, *edges: float) -> SaidAct:
    speech = tuple(Stretch(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True))
    return SaidAct(kind, Stretch(edges[0], edges[-1]), speech)


def reply(item: str, start: float, end: float, cut: bool = False) -> PlayedReply:
    return PlayedReply(item, (Stretch(start, end),), cut, end - start)


def timeline(acts: list[SaidAct], replies: list[PlayedReply], events: list[Event] | None = None) -> Timeline:
    return Timeline("a", tuple(acts), tuple(replies), tuple(events or ()), torch.zeros(WIRE_RATE), 0.01)


def test_a_good_conversation_has_no_fault() -> None:
    truncated = Event(5.3, "conversation.item.truncated", {"item_id": "x", "audio_end_ms": 1150})
    found = figures(
        timeline(
            [act("turn", 1, 2, 2.6, 3.5), act("interruption", 5, 6)],
            [reply("x", 4.0, 5.2, cut=True), reply("y", 6.4, 7.0)],
            [Event(1.1, STARTED), Event(5.2, STARTED), truncated],
        )
    )
    assert found.first_sound == pytest.approx((0.5, 0.4)) and found.early == ()
    assert found.silence == pytest.approx((0.2,))
    assert (found.turns, found.turns_with_pause, found.interruptions) == (2, 1, 1)
    assert found.cut_off == found.missed == found.not_stopped == found.self_interruptions == found.history_errors == 0
    assert found.overlap == pytest.approx(0.2)


def test_talking_over_counts_and_is_no_fast_reply() -> None:
    turn = act("turn", 1, 2, 2.8, 4)
    found = figures(timeline([turn], [reply("x", 2.5, 3.2, cut=True), reply("y", 4.6, 5)]))
    assert found.cut_off == 1 and found.early == pytest.approx((-1.5,)) and found.first_sound == pytest.approx((0.6,))
    assert found.overlap == pytest.approx(0.4) and found.history_errors == 1  # nothing was recorded of the cut


def test_faults_are_counted() -> None:
    acts = [act("turn", 1, 2), act("backchannel", 3, 3.3), act("turn", 8, 9), act("interruption", 20, 21)]
    replies = [reply("x", 2.4, 3.4, cut=True), reply("z", 19, 22)]
    wrong = Event(3.5, "conversation.item.truncated", {"item_id": "x", "audio_end_ms": 300})
    found = figures(timeline(acts, replies, [wrong, Event(19.5, STARTED), Event(3.2, STARTED), Event(1, "error")]))
    assert (found.backchannels, found.stopped_by_backchannel) == (1, 1)
    assert (found.missed, found.not_stopped, found.history_errors, found.errors) == (1, 1, 1, 1)
    assert found.self_interruptions == 1
    both = added([found, found])
    assert both.turns == 2 * found.turns and both.first_sound == found.first_sound * 2 and both.lag == 0.01
    table = measurement_table([Measurement(1, 2, both)])
    assert "| missed turns | 2 of 6 |" in table and "| self-interruptions | 2 |" in table


def test_a_timeline_is_drawn_and_written(tmp_path: Path) -> None:
    shown = timeline([act("turn", 1, 2)], [reply("x", 2.4, 3.4, cut=True)], [Event(1.1, STARTED)])
    draw_timeline(shown, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 3000
    assert json.loads(timeline_json(shown))["replies"][0]["sound"] == [{"start": 2.4, "end": 3.4}]


def test_scripts_are_drawn_from_the_seed() -> None:
    turns = [turn for turn in read_speech_corpora([PACKAGED]) if turn.role == "user"][:4]
    habits = Habits(turns=3, pause_share=1.0, interruption_share=1.0, backchannel_share=1.0)
    hum = [torch.zeros(WIRE_RATE // 4)]
    first, again = (draw_scripts(turns, hum, 2, habits, PauseLengths(), seed=3) for _ in range(2))
    assert [each.acts[0].after for each in first] == [each.acts[0].after for each in again]
    assert all(torch.equal(a.sound, b.sound) for a, b in zip(first[1].acts, again[1].acts, strict=True))
    kinds = [each.kind for each in first[0].acts]
    assert kinds == ["turn", "backchannel", "interruption", "backchannel", "interruption", "backchannel"]
    with pytest.raises(InputError, match="pause_share=2"):
        Habits(pause_share=2)


def talk(script: Script, answers: dict[float, float]) -> tuple[Person, Speaker, torch.Tensor]:
    """Without a server: at each time of `answers` a reply of so many seconds comes."""
    speaker = Speaker()
    person, heard, now = Person(script, speaker, np.random.default_rng(0)), [], 0.0
    waiting = dict(answers)
    for index in range(1500):
        now = index * BLOCK
        for time in [time for time in waiting if time <= now]:
            speaker.play(f"item-{time}", 0.5 * torch.ones(round(waiting.pop(time) * WIRE_RATE)), now)
        if person.is_done(now):
            break
        heard.append(person.block(now))
    return person, speaker, torch.cat(heard)


def test_a_person_waits_for_the_reply_and_interrupts_it() -> None:
    word = 0.1 * torch.ones(WIRE_RATE)
    acts = (Act("turn", word, after=0.4), Act("interruption", word, after=0.5), Act("turn", word, after=0.3))
    person, speaker, sound = talk(Script("a", acts, Room(echo_decibels=-20.0)), {2.0: 2.0, 4.5: 0.5, 7.0: 0.2})
    starts = [said.whole.start for said in person.said]
    assert starts == pytest.approx([0.4, 2.5, 5.3], abs=2 * BLOCK)
    assert [said.kind for said in person.said] == ["turn", "interruption", "turn"]
    assert sound[round(2.2 * WIRE_RATE)] == pytest.approx(0.05)  # the echo of the reply, and nobody's speech


def test_what_is_stopped_is_not_played() -> None:
    speaker = Speaker()
    speaker.play("a", torch.ones(WIRE_RATE), 1.0)
    speaker.play("a", torch.ones(WIRE_RATE), 1.5)
    assert speaker.playing(1.5) == ("a", pytest.approx(0.5)) and speaker.end == 3.0
    speaker.stop(1.6)
    speaker.play("a", torch.ones(WIRE_RATE), 1.7)  # was on its way
    (cut,) = speaker.replies
    assert cut.cut and cut.played == pytest.approx(0.6) and speaker.playing(1.65) is None
    assert speaker.heard(round(1.5 * WIRE_RATE), WIRE_RATE).sum() == pytest.approx(0.1 * WIRE_RATE, abs=1)


def sample(folder: Path, task: str, start: float, end: float) -> None:
    folder.mkdir(parents=True)
    (folder / "input.wav").touch()
    (folder / f"{task}.json").write_text(json.dumps([{"text": "", "timestamp": [start, end]}]))


def test_the_benchmark_s_rules(tmp_path: Path) -> None:
    sample(tmp_path / "v1" / "0", "pause", 2.0, 3.0)
    sample(tmp_path / "v1" / "1", "turn_taking", 2.0, 2.4)
    sample(tmp_path / "v1" / "2", "interrupt", 5.0, 6.0)
    pause, turn, interrupt = find_samples(tmp_path)
    hum, answer = Segment(Stretch(2.1, 2.5), 1), Segment(Stretch(2.5, 4.0), 6)
    assert score(pause, [hum]).success and score(pause, [hum]).backchannels == 1
    assert score(pause, [hum, answer]).takeover and not score(pause, [Segment(Stretch(2.1, 2.5), 2)]).success
    assert score(turn, [hum, answer]).latency == pytest.approx(0.5)
    early = score(turn, [Segment(Stretch(1.5, 3.0), 5)])
    assert early.takeover and not early.success and early.latency == pytest.approx(-0.5)
    heeded = score(interrupt, [Segment(Stretch(3, 5.4), 9), Segment(Stretch(6.7, 8), 5)])
    assert heeded.stop_latency == pytest.approx(0.4) and heeded.latency == pytest.approx(0.7) and heeded.success
    total = task_score([score(turn, [answer]), early], 10.0)
    assert (total.takeover_rate, total.success_rate, total.talked_over) == (1.0, 0.5, 1)
    assert total.mean_latency == pytest.approx(0.5)
    with pytest.raises(InputError, match="no folder with pause.json"):
        find_samples(tmp_path / "v1" / "0" / "audio")


def test_the_benchmark_s_own_examples_are_read(data_dir: Path) -> None:
    samples = find_samples(data_dir / "benchmarks" / "full_duplex_bench")
    scores = {sample.task: score(sample, read_output(sample.folder / "output.json")) for sample in samples}
    assert scores["pause"].takeover and not scores["pause"].success
    assert scores["turn_taking"].latency == pytest.approx(3.36 - 2.01, abs=1e-6)
    assert scores["interrupt"].latency == pytest.approx(17.224 - 13.144, abs=1e-6)


def test_samples_are_made_of_a_corpus_in_the_benchmark_s_layout(tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = ["make_full_duplex_bench", "count=2", f"output_dir={made}"]
    assert main(command) == 0 and main(command) == 0  # the second time it is there
    samples = find_samples(made)
    assert [sample.task for sample in samples] == [task for task in TASKS for _ in range(2)]
    for sample in samples:
        seconds = soundfile.info(sample.input).duration
        assert 0 <= sample.marked.start < sample.marked.end <= seconds + 0.01
        if sample.task == "pause":
            assert sample.marked.seconds == pytest.approx(1.0, abs=0.01) and seconds > sample.marked.end
    assert main([*command, "seed=1"]) == 2  # other samples are there
    assert main(["make_full_duplex_bench", "split=none", f"output_dir={tmp_path / 'none'}"]) == 2


def test_conversations_are_held_with_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    question = read_audio(ASSETS / "question.wav").samples
    sample(tmp_path / "bench" / "0", "turn_taking", 3.5, 3.5)
    soundfile.write(tmp_path / "bench" / "0" / "input.wav", np.pad(question.numpy(), (0, 40_000)), 16_000)
    few = ["conversations=1", "concurrency=[1]", "habits.turns=1", "habits.backchannel_share=0", "habits.pause_share=0"]
    with served(make_server(SpokenDialogPipeline.from_pretrained("tiny"), Silence())) as port:
        url = f"url=ws://127.0.0.1:{port}/v1/realtime"
        assert main(["measure_conversation", url, *few, "full_duplex_bench=bench", "output_dir=measured"]) == 0
    (measured,) = json.loads((tmp_path / "measured" / "conversations.json").read_text())
    assert (measured["turns"], measured["errors"], measured["cut_off"], measured["history_errors"]) == (1, 0, 0, 0)
    assert (tmp_path / "measured" / "1_at_a_time" / "conversation-000.png").is_file()
    answered = tmp_path / "measured" / "full_duplex_bench" / "0000-0"
    assert json.loads((answered / "score.json").read_text())["task"] == "turn_taking"
    assert soundfile.info(answered / "output.wav").samplerate == WIRE_RATE


def test_a_speaker_that_is_held_plays_on_or_forgets() -> None:
    speaker, second = Speaker(), torch.ones(WIRE_RATE)
    speaker.play("a", second, 0.0)
    speaker.hold(0.25)
    speaker.play("a", second, 0.5)
    assert speaker.end == 0.25 and speaker.playing(0.3) is None
    speaker.resume(1.0)
    (reply,) = speaker.replies
    assert [(each.start, each.end) for each in reply.sound] == [(0.0, 0.25), (1.0, pytest.approx(2.75))]
    assert torch.equal(speaker.sound[WIRE_RATE : round(2.75 * WIRE_RATE)], torch.ones(round(1.75 * WIRE_RATE)))
    speaker.hold(1.5)
    speaker.stop(1.6)
    speaker.play("a", second, 1.7)  # was on its way
    (reply,) = speaker.replies
    assert reply.cut and reply.end == 1.5 and len(speaker.sound) == 1.5 * WIRE_RATE
