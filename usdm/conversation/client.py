"""One person's side of a measured conversation, over the real WebSocket and in real time.

What is said depends on what is heard: a turn begins when the reply before has been played out, an interruption while
it is played. The reply is played as it comes, stopped when the server hears speech (as voice clients do), and comes
back into the microphone as the room's echo.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from usdm.conversation.script import WIRE_RATE, Act, Script, background
from usdm.conversation.timeline import Event, PlayedReply, SaidAct, Stretch, Timeline

BLOCK = 0.02  # seconds of sound that are sent at once
PATIENCE = 6.0  # seconds after which no reply is expected any more
ACKNOWLEDGE_EVERY = 0.1  # seconds
LONGEST = 180.0  # seconds of a conversation
SOUND_EVENT = "response.output_audio.delta"


class Speaker:
    """Plays what comes as soon as it can. Times are seconds of the conversation's clock."""

    def __init__(self) -> None:
        self.sound = torch.zeros(0)  # by sample of the clock, all that was and will be played
        self._stretches: dict[str, list[Stretch]] = {}
        self._cut: set[str] = set()
        self.end = 0.0  # of what is to be played
        self.held: list[tuple[str, Tensor]] | None = None  # items' sound that waits; None: nothing is held

    def play(self, item: str, samples: Tensor, now: float) -> None:
        if item in self._cut:
            return
        if self.held is not None:
            self.held.append((item, samples))
            return
        start = max(now, self.end)
        first = round(start * WIRE_RATE)
        self.sound = torch.nn.functional.pad(self.sound, (0, max(0, first + len(samples) - len(self.sound))))
        self.sound[first : first + len(samples)] = samples
        self.end = start + len(samples) / WIRE_RATE
        mine = self._stretches.setdefault(item, [])
        if mine and start - mine[-1].end < 1e-6:
            start = mine.pop().start
        mine.append(Stretch(start, self.end))

    def stop(self, now: float) -> None:
        """Forget what was not played yet."""
        self._cut |= {item for item, _ in self.held or ()}
        self.held = None
        for item, stretches in self._stretches.items():
            if stretches[-1].end > now:
                self._cut.add(item)
                self._cut_off(item, now)
        self.sound = self.sound[: round(now * WIRE_RATE)]
        self.end = min(self.end, now)

    def hold(self, now: float) -> None:
        """What was not played yet waits, and so does what comes, until `resume` or `stop`."""
        if self.held is not None:
            return
        self.held = []
        if (playing := self.playing(now)) is not None:
            item, _ = playing
            self.held.append((item, self.sound[round(now * WIRE_RATE) :]))
            self._cut_off(item, now)
        self.sound = self.sound[: round(now * WIRE_RATE)]
        self.end = min(self.end, now)

    def resume(self, now: float) -> None:
        waiting, self.held = self.held or [], None
        for item, samples in waiting:
            self.play(item, samples, now)

    def _cut_off(self, item: str, now: float) -> None:
        mine = self._stretches[item]
        kept = [Stretch(each.start, min(each.end, now)) for each in mine if each.start < now]
        mine[:] = kept or [Stretch(now, now)]

    def heard(self, first: int, samples: int) -> Tensor:
        """What sounds in these samples of the clock."""
        piece = self.sound[max(0, first) : max(0, first + samples)]
        before = min(samples, max(0, -first))
        return torch.nn.functional.pad(piece, (before, samples - before - len(piece)))

    def playing(self, now: float) -> tuple[str, float] | None:
        """The item whose sound is on its way, and the seconds of it that were played."""
        for item, stretches in reversed(self._stretches.items()):
            if item not in self._cut and stretches[-1].end > now:
                return item, sum(max(0.0, min(each.end, now) - each.start) for each in stretches)
        return None

    @property
    def begun(self) -> float:
        """When the latest reply began, or -1."""
        return max((each[0].start for each in self._stretches.values()), default=-1.0)

    @property
    def replies(self) -> tuple[PlayedReply, ...]:
        found = [
            PlayedReply(item, tuple(each), item in self._cut, sum(stretch.seconds for stretch in each))
            for item, each in self._stretches.items()
        ]
        return tuple(sorted(found, key=lambda reply: reply.start))


class Person:
    """Says the acts of a script one after the other, each at its time."""

    def __init__(self, script: Script, speaker: Speaker, random: np.random.Generator) -> None:
        self._script, self._speaker, self._random = script, speaker, random
        self._waiting = list(script.acts)
        self._act: Act | None = None
        self._said_from = 0.0  # when the act began
        self._turn_end = 0.0  # when the last turn ended
        self._replied_since = True  # nothing is owed before the first turn
        self.said: list[SaidAct] = []

    def is_done(self, now: float) -> bool:
        """All is said, and answered as far as it will be."""
        return not self._waiting and self._act is None and self._is_quiet(now)

    def block(self, now: float) -> Tensor:
        """(t,) float32 at 24 kHz: what the microphone hears from `now` on."""
        samples = round(BLOCK * WIRE_RATE)
        if self._act is None and self._waiting and self._is_time_for(self._waiting[0], now):
            self._begin(self._waiting.pop(0), now)
        room = self._script.room
        sound = background(room, samples, self._random)
        if self._act is not None:
            place = round((now - self._said_from) * WIRE_RATE)
            piece = self._act.sound[place : place + samples]
            sound[: len(piece)] += piece
            if place + samples >= len(self._act.sound):
                self._finish(self._act)
        if room.echo_decibels is not None:
            echo = self._speaker.heard(round((now - room.echo_delay) * WIRE_RATE), samples)
            sound += 10 ** (room.echo_decibels / 20) * echo
        return sound.clamp(-1, 1)

    def _is_time_for(self, act: Act, now: float) -> bool:
        if act.kind == "turn":
            return self._is_quiet(now) and now >= max(self._turn_end, self._speaker.end) + act.after
        begun = self._speaker.begun
        if begun >= self._turn_end:  # the reply is, or was, played
            return now >= begun + act.after or self._speaker.end <= now
        return now >= self._turn_end + PATIENCE

    def _is_quiet(self, now: float) -> bool:
        """The reply was played out, or none will come."""
        if self._speaker.held is not None:
            return False
        if self._speaker.begun >= self._turn_end:
            return now >= self._speaker.end + BLOCK
        return not self.said or now >= self._turn_end + PATIENCE

    def _begin(self, act: Act, now: float) -> None:
        if act.kind == "backchannel" and self._speaker.end <= now:
            return  # the reply is over: nobody says "mhm" to nothing
        self._act, self._said_from = act, now

    def _finish(self, act: Act) -> None:
        start, end = self._said_from, self._said_from + act.seconds
        edges = [start, *(start + each for pause in act.pauses for each in pause), end]
        speech = tuple(Stretch(first, last) for first, last in zip(edges[::2], edges[1::2], strict=True))
        meets = any(reply.start <= start < reply.end for reply in self._speaker.replies)
        kind = "turn" if act.kind == "interruption" and not meets else act.kind
        self.said.append(SaidAct(kind, Stretch(start, end), speech))
        if act.kind != "backchannel":
            self._turn_end = end
        self._act = None


async def converse(url: str, script: Script, session: dict[str, Any], token: str | None, seed: int) -> Timeline:
    """Hold one conversation. `session`: of the `session.update` that comes first.

    Raises OSError if nobody answers at `url`, ConnectionError if the server leaves.
    """
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with connect(url, max_size=None, compression=None, proxy=None, additional_headers=headers) as socket:
        await socket.send(json.dumps({"type": "session.update", "session": {"type": "realtime", **session}}))
        while json.loads(await socket.recv())["type"] != "session.updated":
            pass
        speaker = Speaker()
        person = Person(script, speaker, np.random.default_rng(seed))
        events: list[Event] = []
        clock = asyncio.get_running_loop().time
        start = clock()
        listening = asyncio.create_task(_listen(socket, speaker, events, start))
        try:
            lag = await _talk(socket, person, speaker, start)
        except ConnectionClosed as error:
            raise ConnectionError(f"{script.id}: the server ended the conversation: {error}") from error
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    return Timeline(script.id, tuple(person.said), speaker.replies, tuple(events), speaker.sound, lag)


async def _talk(socket: ClientConnection, person: Person, speaker: Speaker, start: float) -> float:
    """Send the microphone's sound as time passes: -> the seconds by which it was late at worst."""
    clock = asyncio.get_running_loop().time
    lag, told = 0.0, 0.0
    for index in range(round(LONGEST / BLOCK)):
        now = index * BLOCK
        late = clock() - start - now
        lag = max(lag, late)
        if late < 0:
            await asyncio.sleep(-late)
        if person.is_done(now):
            break
        pcm = (person.block(now) * 32767).to(torch.int16).numpy().tobytes()
        await _send(socket, "input_audio_buffer.append", audio=base64.b64encode(pcm).decode())
        if now - told >= ACKNOWLEDGE_EVERY and (playing := speaker.playing(now)) is not None:
            item, seconds = playing
            await _send(socket, "output_audio_buffer.played", item_id=item, audio_end_ms=round(1000 * seconds))
            told = now
    return lag


async def _send(socket: ClientConnection, type_: str, **fields: Any) -> None:
    await socket.send(json.dumps({"type": type_, **fields}))


async def _listen(socket: ClientConnection, speaker: Speaker, events: list[Event], start: float) -> None:
    clock = asyncio.get_running_loop().time
    async for message in socket:
        now = clock() - start
        event = json.loads(message)
        if event["type"] == SOUND_EVENT:
            pcm = np.frombuffer(base64.b64decode(event["delta"]), np.int16)
            speaker.play(event["item_id"], torch.from_numpy(pcm.astype(np.float32) / 32768), now)
        else:
            if event["type"] == "input_audio_buffer.speech_started":
                speaker.stop(now)
            elif event["type"] == "output_audio_buffer.held":
                speaker.hold(now)
            elif event["type"] == "output_audio_buffer.resumed":
                speaker.resume(now)
            events.append(Event(now, event.pop("type"), event))


async def converse_together(
    url: str, scripts: Sequence[Script], session: dict[str, Any], concurrency: int, token: str | None, seed: int
) -> list[Timeline]:
    """`concurrency` conversations at a time; each of as many talkers goes on to the next script when one is over."""
    waiting = list(enumerate(scripts))
    done: dict[int, Timeline] = {}

    async def talker(number: int) -> None:
        await asyncio.sleep(number * 0.37 % 1)  # people do not begin in step
        while waiting:
            index, script = waiting.pop(0)
            done[index] = await converse(url, script, session, token, seed + index)

    await asyncio.gather(*(talker(number) for number in range(concurrency)))
    return [done[index] for index in sorted(done)]
