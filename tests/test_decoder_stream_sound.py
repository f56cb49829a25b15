"""Streaming: chunks of a reply's mel and sound against the whole reply's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import usdm
from usdm.audio import MelSpectrogram, read_audio
from usdm.chain import bundle_folder
from usdm.decoder import StreamingDecoder, StreamingSettings, UnitDecoder, UnitDecoderConfig, mel_frame_count
from usdm.evaluation import read_held_out
from usdm.types import InputError, ReferenceVoice
from usdm.units import UnitExtractor
from usdm.vocoder import StreamingVocoder, Vocoder, VocosSettings, VocosVocoder, load_vocoder

ONE_STEP: dict[str, Any] = {"steps": 1, "solver": "euler", "guidance": 0.0, "temperature": 0.0}
FEW_STEPS: dict[str, Any] = {"steps": 4, "solver": "heun", "guidance": 1.0, "temperature": 1.0}
SHORT: dict[str, Any] = {"first_units": 2, "chunk_units": 5, "left_context": 4, "lookahead": 1}


def random_decoder(unit_rate: int = 25) -> UnitDecoder:
    config = UnitDecoderConfig(
        n_tokens=12,
        embedding_dim=8,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=2,
        num_hidden_layers=2,
        convpos_width=7,
        convpos_groups=4,
        unit_rate=unit_rate,
    )
    return UnitDecoder(config).eval()


@pytest.fixture(scope="module")
def extractor() -> UnitExtractor:
    return UnitExtractor.from_pretrained(bundle_folder("tiny") / "units")


def streamed(stream: StreamingDecoder, units: Tensor, at_once: int) -> tuple[Tensor, list[int]]:
    """The whole mel, and the frames at which its pieces begin after the first."""
    pieces = [stream.push(part) for part in units.split(at_once)] + [stream.finish()]
    begins = torch.tensor([piece.shape[1] for piece in pieces]).cumsum(0)[:-1].tolist()
    return torch.cat(pieces, dim=1), sorted({begin for begin in begins if begin})


@pytest.fixture(scope="module")
def embedded() -> tuple[UnitDecoder, Vocoder]:
    folder = bundle_folder("tiny")
    return UnitDecoder.from_pretrained(folder / "decoder"), load_vocoder(folder / "vocoder")


class TestDecoder:
    @pytest.mark.parametrize("unit_rate", [25, 40, 50, 100])
    @pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 23, 60])
    @pytest.mark.parametrize("sampling", [ONE_STEP, FEW_STEPS])
    def test_chunks_partition_the_frames_of_the_whole(
        self, unit_rate: int, count: int, sampling: dict[str, Any]
    ) -> None:
        decoder, units = random_decoder(unit_rate), torch.randint(12, (count,))
        mel, _ = streamed(StreamingDecoder(decoder, **SHORT, **sampling), units, 1)
        assert mel.shape == decoder.generate(units, **sampling).shape

    def test_a_reply_that_fits_one_chunk_is_the_whole_reply(self) -> None:
        decoder, units = random_decoder(), torch.randint(12, (9,))
        voice = ReferenceVoice(torch.randint(12, (6,)), torch.randn(80, 19) - 5)
        settings = {"first_units": 20, "chunk_units": 20, "left_context": 4, "lookahead": 4}
        stream = StreamingDecoder(decoder, **settings, reference=voice, seed=7, **FEW_STEPS)
        assert stream.push(units).shape == (80, 0)
        generator = torch.Generator().manual_seed(7)
        whole = decoder.generate(units, reference=voice, generator=generator, **FEW_STEPS)
        assert torch.allclose(stream.finish(), whole, atol=1e-5)

    @pytest.mark.parametrize("sampling", [ONE_STEP, FEW_STEPS])
    def test_how_units_arrive_changes_nothing(self, sampling: dict[str, Any]) -> None:
        decoder, units = random_decoder(), torch.randint(12, (40,))
        mels = [streamed(StreamingDecoder(decoder, **SHORT, **sampling), units, n)[0] for n in (1, 3, 40)]
        assert torch.equal(mels[0], mels[1])
        assert torch.equal(mels[0], mels[2])

    def test_frames_come_as_soon_as_chunk_and_look_ahead_are_there(self) -> None:
        decoder, units = random_decoder(), torch.randint(12, (40,))
        stream = StreamingDecoder(decoder, **SHORT, **ONE_STEP)
        came = [stream.push(unit[None]).shape[1] for unit in units]
        ready = [1 + index for index, frames in enumerate(came) if frames]
        assert ready == [2 + 1, 6 + 1, 11 + 1, 16 + 1, 21 + 1, 26 + 1, 31 + 1, 36 + 1]  # chunks of 2, 4, 5, 5, ...
        assert came[2] == mel_frame_count(2, 25, decoder.mel)

    def test_what_was_given_decides_what_follows(self) -> None:
        """Later frames see the earlier mel, not only the earlier units."""
        decoder, units = random_decoder(), torch.randint(12, (12,))
        continued = {}
        for shift in (0.0, 2.0):
            stream = StreamingDecoder(decoder, **SHORT, **ONE_STEP)
            stream.push(units[:3])
            stream._mel = stream._mel + shift
            continued[shift] = stream.push(units[3:])
        assert not torch.allclose(continued[0.0], continued[2.0], atol=1e-3)

    def test_the_look_ahead_is_a_first_view_of_the_next_frames(self, embedded: tuple[UnitDecoder, Vocoder]) -> None:
        decoder = embedded[0]
        units = torch.arange(30) * 7 % 1000
        stream = StreamingDecoder(decoder, **asdict(StreamingSettings.at_rate(25)), **ONE_STEP)
        given = stream.push(units[:10])
        ahead = stream.ahead
        assert given.shape[1] + ahead.shape[1] == mel_frame_count(8, 25, decoder.mel)
        rest = torch.cat([stream.push(units[10:]), stream.finish()], dim=1)[:, : ahead.shape[1]]
        other = rest[:, torch.randperm(rest.shape[1])]
        assert (rest - ahead).abs().mean() < 0.5 * (other - ahead).abs().mean()
        assert stream.ahead.shape[1] == 0

    def test_nothing_said_is_nothing_heard(self) -> None:
        decoder = random_decoder()
        stream = StreamingDecoder(decoder, **SHORT, **ONE_STEP)
        assert stream.push(torch.zeros(0, dtype=torch.int64)).shape == (80, 0)
        assert stream.finish().shape == (80, 0)

    def test_settings_agree_in_seconds_at_any_rate(self) -> None:
        slow, fast = (asdict(StreamingSettings.at_rate(rate)) for rate in (25, 50))
        assert {name: 2 * units for name, units in slow.items()} == fast

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"first_units": 0}, "first_units=0"),
            ({"chunk_units": 0}, "chunk_units=0"),
            ({"lookahead": -1}, "lookahead=-1"),
            ({"steps": 0}, "steps=0"),
            ({"solver": "rk4"}, "euler, heun"),
        ],
    )
    def test_bad_settings_say_why(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            StreamingDecoder(random_decoder(), **{**SHORT, **ONE_STEP, **change})

    def test_units_of_another_kind_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"units 3\.\.12"):
            StreamingDecoder(random_decoder(), **SHORT).push(torch.tensor([3, 12]))


def vocoded(stream: StreamingVocoder, mel: Tensor, at_once: int) -> Tensor:
    return torch.cat([*(stream.push(part) for part in mel.split(at_once, dim=1)), stream.finish()])


class TestVocoder:
    @pytest.mark.parametrize("frames", [1, 2, 30, 77])
    @pytest.mark.parametrize("at_once", [1, 7, 100])
    @pytest.mark.parametrize("right_context", [0, 3, None])
    def test_every_frame_becomes_one_hop(self, frames: int, at_once: int, right_context: int | None) -> None:
        vocoder = VocosVocoder(VocosSettings(dim=16, intermediate_dim=32, num_layers=1)).eval()
        sound = vocoded(StreamingVocoder(vocoder, right_context=right_context), torch.randn(80, frames), at_once)
        assert sound.shape == (frames * 256,)

    @pytest.mark.parametrize("at_once", [5, 40])
    def test_with_the_whole_reach_as_context_it_is_the_whole_sound(
        self, embedded: tuple[UnitDecoder, Vocoder], at_once: int
    ) -> None:
        vocoder, mel = embedded[1], torch.randn(80, 130) - 5
        with torch.no_grad():
            whole = vocoder(mel[None])[0]
        stream = StreamingVocoder(vocoder, right_context=vocoder.context_frames)
        assert (vocoded(stream, mel, at_once) - whole).abs().max() < 1e-4

    def test_no_frame_beyond_the_reach_changes_a_sample(self, embedded: tuple[UnitDecoder, Vocoder]) -> None:
        vocoder = embedded[1]
        mel = torch.randn(1, 80, 2 * vocoder.context_frames + 20) - 5
        middle = mel.shape[-1] // 2
        other = mel.clone()
        other[..., middle] += 3
        with torch.no_grad():
            change = (vocoder(other) - vocoder(mel))[0].view(-1, 256).abs().amax(dim=1)
        assert change[middle] > 1e-3
        assert (change[: middle - vocoder.context_frames] == 0).all()
        assert (change[middle + vocoder.context_frames + 1 :] == 0).all()

    def test_known_frames_ahead_bring_the_sound_sooner(self, embedded: tuple[UnitDecoder, Vocoder]) -> None:
        vocoder, mel = embedded[1], torch.randn(80, 60) - 5
        held_back = vocoder.lookahead_frames
        alone, helped = StreamingVocoder(vocoder), StreamingVocoder(vocoder)
        assert len(alone.push(mel[:, :20])) == (20 - held_back) * 256
        first = helped.push(mel[:, :20], ahead=mel[:, 20 : 20 + held_back])
        assert len(first) == 20 * 256
        sound = torch.cat([first, helped.push(mel[:, 20:]), helped.finish()])
        with torch.no_grad():
            whole = vocoder(mel[None])[0]
        assert len(sound) == len(whole)

    @pytest.mark.filterwarnings("ignore::FutureWarning")  # the package uses the older weight norm
    def test_bigvgan_streams_as_well(self, compat_dir: Path) -> None:
        vocoder = load_vocoder(compat_dir / "bigvgan")
        mel = torch.randn(80, 65) - 5
        with torch.no_grad():
            whole = vocoder(mel[None])[0]
        exact = vocoded(StreamingVocoder(vocoder, right_context=vocoder.context_frames), mel, 55)
        near = vocoded(StreamingVocoder(vocoder), mel, 55)
        assert (exact - whole).abs().max() < 1e-4
        assert (near - whole).square().mean() < 1e-3 * whole.square().mean()


def seam_distances(decoder: UnitDecoder, vocoder: Vocoder, units: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Streamed against whole, as log-mel distance of the sound: at seams, elsewhere, and how much speech varies."""
    frontend = MelSpectrogram(vocoder.mel)
    with torch.no_grad():
        whole = vocoder(decoder.generate(units, **ONE_STEP)[None])[0]
    stream = StreamingDecoder(decoder, **asdict(StreamingSettings.at_rate(decoder.unit_rate)), **ONE_STEP)
    sounds, speaker = [], StreamingVocoder(vocoder)
    for unit in units:
        mel = stream.push(unit[None])
        if mel.shape[1]:
            sounds.append(speaker.push(mel, ahead=stream.ahead))
    sounds += [speaker.push(stream.finish()), speaker.finish()]
    sound = torch.cat(sounds)
    assert sound.shape == whole.shape
    distance = (frontend(sound[None]) - frontend(whole[None]))[0].abs().mean(dim=0)  # (M,)
    seams = torch.tensor([len(part) for part in sounds]).cumsum(0)[:-1] // vocoder.mel.hop_length
    near = torch.zeros_like(distance, dtype=torch.bool)
    for seam in seams.tolist():
        near[max(0, seam - 2) : seam + 2] = True
    change = frontend(whole[None])[0].diff(dim=1).abs().mean()  # from one frame to the next
    return distance[near].mean(), distance[~near].mean(), change


def test_a_streamed_reply_is_the_whole_reply_to_the_ear(
    embedded: tuple[UnitDecoder, Vocoder], extractor: UnitExtractor
) -> None:
    """In agents' voices, which replies have: a chunk goes on in the voice of the mel before it."""
    items = read_held_out(Path(usdm.__file__).parent / "assets" / "held_out")[:6]
    sounds = [read_audio(item.agent.audio, extractor.sample_rate).samples for item in items]
    for units in extractor(sounds):
        seams, elsewhere, change = seam_distances(*embedded, units)
        assert seams < 0.5 * change and elsewhere < 0.3 * change, (seams, elsewhere, change)


def test_seams_of_any_speech_do_not_stand_out(embedded: tuple[UnitDecoder, Vocoder], extractor: UnitExtractor) -> None:
    """A user's units leave the voice open: what is streamed settles on one of its own, as a whole."""
    question = read_audio(Path(usdm.__file__).parent / "assets" / "question.wav", extractor.sample_rate)
    seams, elsewhere, change = seam_distances(*embedded, extractor([question.samples])[0])
    assert seams < 1.5 * elsewhere, (seams, elsewhere, change)
    assert elsewhere < 1.75 * change
