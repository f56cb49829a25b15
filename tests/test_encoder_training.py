"""Encoder, k-means and unit corpus on a made-up language whose "phones" are tones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny_models import as_readable_as_new_files
from transformers import WhisperConfig, WhisperModel

from usdm.audio.augmentation import SoundAugmentation, shift_formants
from usdm.data.extraction import extract_units
from usdm.data.unit_corpus import UnitCorpus
from usdm.training.encoder import NO_LABEL, EncoderTask, WhisperStart
from usdm.training.kmeans import fit_kmeans
from usdm.training.loop import LoopSettings, train
from usdm.types import InputError
from usdm.units import UnitExtractor, UnitSettings
from usdm.units.encoder import encode, load_encoder
from usdm.units.extractor import pad_normalised

PITCH = {"pau": 0, "aa": 300, "iy": 900, "s": 2700}  # Hz
CONFIG = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, conv_dim=(16, 24, 32, 32),
    conv_kernel=(10, 8, 8, 8), conv_stride=(5, 4, 4, 8), conv_bias=True, feat_extract_norm="layer",
    feat_extract_activation="relu", num_feat_extract_layers=4, do_stable_layer_norm=True, num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=4, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
    feat_proj_dropout=0.0, layerdrop=0.0, mask_time_prob=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    random = np.random.default_rng(0)
    rows = []
    for index in range(40):
        names = ["pau", *random.choice(["aa", "iy", "s"], 6), "pau"]
        times = np.concatenate([[0], np.cumsum(random.uniform(0.08, 0.2, len(names)))])
        moments = np.arange(int(times[-1] * 16_000)) / 16_000
        pitch = np.array([PITCH[name] for name in names])[np.searchsorted(times[1:-1], moments, side="right")]
        sound = 0.3 * np.sin(2 * np.pi * pitch * moments) + 0.01 * random.standard_normal(len(moments))
        soundfile.write(folder / f"{index}.wav", sound, 16_000)
        phones = [[n, float(a), float(b)] for n, a, b in zip(names, times, times[1:], strict=False)]
        rows.append(
            {
                "id": str(index),
                "audio": f"{index}.wav",
                "speaker": "tone",
                "role": "user",
                "dialog": str(index),
                "turn": 0,
                "split": "dev" if index % 5 == 0 else "train",
                "text": "a b c",
                "duration": float(times[-1]),
                "sample_rate": 16_000,
                "words": [["a", *times[[0, 3]]], ["b", *times[[3, 5]]], ["c", *times[[5, 8]]]],
                "phones": phones,
                "pronunciation": [name for name in names if name != "pau"],
            }
        )
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def task(corpus: Path) -> EncoderTask:
    return EncoderTask([str(corpus)], CONFIG, layer=1, padding=0, batch_seconds=8.0, validation_utterances=4)


def test_batches_are_a_function_of_the_step(corpus: Path) -> None:
    one, two = task(corpus), task(corpus)
    late = two.batch(9)  # opens a later epoch first
    for step in range(10):
        batch = one.batch(step)
    assert torch.equal(batch.frame_labels, late.frame_labels)
    assert all(torch.equal(left, right) for left, right in zip(batch.waveforms, late.waveforms, strict=True))


def test_labels_lie_where_the_phones_are(corpus: Path) -> None:
    subject = task(corpus)
    utterance = subject.train_set[0]
    labels = subject._frame_labels(utterance.phones, 60, 1.0).flatten()  # two each 40 ms unit: 20 ms each
    names = {index: name for name, index in subject.phone_ids.items()}
    for phone in utterance.phones:
        middle = int((phone.start + phone.end) / 2 / 0.02)
        assert names[int(labels[middle])] == phone.text
    assert labels[int(utterance.duration / 0.02) + 2 :].unique().tolist() == [NO_LABEL]


def test_varied_sound_keeps_its_labels_in_time(corpus: Path) -> None:
    varied = EncoderTask(
        [str(corpus)],
        CONFIG,
        layer=1,
        padding=0,
        batch_seconds=8.0,
        augmentation=SoundAugmentation(speed=0.3, noise_share=1),
    )
    step = varied.batch(3)
    again = varied.batch(3)
    assert all(torch.equal(left, right) for left, right in zip(step.waveforms, again.waveforms, strict=True))
    plain = task(corpus).batch(3)
    assert [len(sound) for sound in step.waveforms] != [len(sound) for sound in plain.waveforms]
    for waveform, labels in zip(step.waveforms, step.frame_labels.flatten(1), strict=True):
        # The last labelled 20 ms are the last of the sound, whatever its speed.
        assert int((labels != NO_LABEL).nonzero().max()) == pytest.approx(len(waveform) / 320 - 1, abs=1)


def test_a_corpus_can_be_heard_often_and_a_speaker_kept_unseen(corpus: Path) -> None:
    def lines(**options: object) -> int:
        return len(EncoderTask([str(corpus)], CONFIG, layer=1, padding=0, **options).train_set)  # type: ignore[arg-type]

    assert lines(repeats=[3]) == 3 * lines()
    with pytest.raises(InputError, match="no utterance of split train has a pronunciation"):
        lines(without_speakers=["tone"])
    with pytest.raises(InputError, match=r"repeats=\[1, 2\] for 1 corpora"):
        lines(repeats=[1, 2])


def test_a_run_can_start_from_an_earlier_one(corpus: Path, tmp_path: Path) -> None:
    settings = LoopSettings(steps=20, learning_rate=3e-3, warmup_steps=5, log_every=10, save_every=10, threads=1)
    train(task(corpus), settings, tmp_path / "first")
    checkpoint = torch.load(tmp_path / "first/checkpoint.pt", weights_only=True)
    second = EncoderTask([str(corpus)], CONFIG, layer=1, padding=0, init_from=str(tmp_path / "first"))
    for name, value in second.model.state_dict().items():
        assert torch.equal(value, checkpoint["average"][f"model.{name}"])
    with pytest.raises(InputError, match="nowhere/checkpoint.pt does not exist"):
        EncoderTask([str(corpus)], CONFIG, layer=1, padding=0, init_from=str(tmp_path / "nowhere"))
    masking = CONFIG | {"apply_spec_augment": True, "mask_time_prob": 0.2, "mask_time_length": 2}
    third = EncoderTask([str(corpus)], masking, layer=1, padding=0, init_from=str(tmp_path / "first"))
    for name, value in second.model.state_dict().items():
        assert torch.equal(value, third.model.state_dict()[name])
    layers = int(str(CONFIG["num_hidden_layers"]))
    for change in ({"hidden_size": 48}, {"num_hidden_layers": layers + 1}, {"num_hidden_layers": layers - 1}):
        with pytest.raises(InputError, match="is of another encoder"):
            EncoderTask([str(corpus)], CONFIG | change, layer=1, padding=0, init_from=str(tmp_path / "first"))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whisper")
    config = WhisperConfig(
        d_model=32, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=1, num_mel_bins=20,
        decoder_attention_heads=2, decoder_ffn_dim=32, vocab_size=10, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(folder)
    return str(folder)


LOG_MEL = {
    "model_type": "log-mel", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 64, "conv_dim": (20, 32, 32), "conv_stride": (160, 1, 4), "mask_time_prob": 0.0,
    "layerdrop": 0.0, "hidden_dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip


def log_mel_task(corpus: Path, **options: Any) -> EncoderTask:
    return EncoderTask([str(corpus)], LOG_MEL, layer=1, padding=200, batch_seconds=8.0, **options)


def test_a_log_mel_encoder_learns_and_its_features_are_those_of_its_folder(corpus: Path, tmp_path: Path) -> None:
    settings = LoopSettings(steps=60, learning_rate=3e-3, warmup_steps=5, log_every=20, save_every=20, threads=1)
    subject = log_mel_task(corpus)
    figures = train(subject, settings, tmp_path)
    assert figures["frame_accuracy"] > 0.7  # tones are told apart by their mel bands
    encoder = load_encoder(tmp_path / "model").eval()
    waveforms, lengths = pad_normalised(subject.batch(0).waveforms[:1], 200)
    assert as_readable_as_new_files(tmp_path / "model")
    head = load_file(tmp_path / "model/phones.safetensors")
    with torch.no_grad():
        output = subject.model.eval()(waveforms, lengths)
        told = encode(encoder, [waveforms[0]], [None]) @ head["weight"].T + head["bias"]
    # What was saved is the average of the last weights, so labels agree and numbers do not.
    agreement = (told.unflatten(-1, (2, -1)).argmax(-1) == output.frames.argmax(-1)).float().mean()
    assert agreement > 0.9


def test_an_encoder_begins_as_whispers_and_is_held_near_it(corpus: Path, whisper: str, tmp_path: Path) -> None:
    held = log_mel_task(corpus, whisper=WhisperStart(whisper, teacher_weight=100.0, frozen_layers=0))
    free = log_mel_task(corpus, whisper=WhisperStart(whisper, teacher_weight=0.0, frozen_layers=0))
    generator = torch.Generator()
    batch = free.batch(0)
    assert "teacher" not in free.losses(batch, generator)
    held.model.eval()  # positions from the same start as the teacher's
    assert float(held.losses(batch, generator)["teacher"]) == pytest.approx(0.0, abs=1e-5)
    settings = LoopSettings(steps=30, learning_rate=1e-2, warmup_steps=5, log_every=30, save_every=30, threads=1)
    for name, subject in (("held", held), ("free", free)):
        train(subject, settings, tmp_path / name)
    heard = pad_normalised(batch.waveforms, 200)
    assert held.teacher is not None
    away = [float(held._unlike(held.teacher, *heard, each.model.eval()(*heard))) for each in (held, free)]
    assert away[0] < 0.7 * away[1]


def test_frozen_layers_stay_as_they_began(corpus: Path, whisper: str, tmp_path: Path) -> None:
    subject = log_mel_task(corpus, whisper=WhisperStart(whisper, teacher_weight=0.0, frozen_layers=1))
    before = {name: value.clone() for name, value in subject.model.encoder.state_dict().items()}
    settings = LoopSettings(steps=4, learning_rate=3e-3, warmup_steps=1, log_every=2, save_every=2, threads=1)
    train(subject, settings, tmp_path)
    changed = {
        name for name, value in subject.model.encoder.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed and not any(name.startswith(("feature_extractor", "encoder.layers.0")) for name in changed)
    assert any(name.startswith("encoder.layers.1") for name in changed)


def test_layers_are_not_dropped(corpus: Path) -> None:
    with pytest.raises(InputError, match=r"layerdrop=0.1 leaves out layers"):
        EncoderTask([str(corpus)], CONFIG | {"layerdrop": 0.1}, layer=1, padding=0)


def test_only_log_mel_encoders_begin_as_whispers(corpus: Path, whisper: str) -> None:
    with pytest.raises(InputError, match="starts encoders of model_type log-mel"):
        EncoderTask([str(corpus)], CONFIG, layer=1, padding=0, whisper=WhisperStart(whisper, 0.0, 0))
    with pytest.raises(InputError, match=r"teacher_weight=0.5 .* 0 has none below"):
        EncoderTask([str(corpus)], LOG_MEL, layer=0, padding=200, whisper=WhisperStart(whisper, 0.5, 0))


class TestSoundVariation:
    TONE = torch.sin(torch.arange(32_000) * (2 * np.pi * 440 / 16_000))

    def test_speed_moves_length_and_pitch_and_keeps_loudness(self) -> None:
        random = np.random.default_rng(0)
        for _ in range(5):
            sound, speed = SoundAugmentation(speed=0.2).vary(self.TONE, 16_000, random)
            assert len(sound) == pytest.approx(32_000 / speed, abs=1)
            assert torch.fft.rfft(sound).abs().argmax() * 16_000 / len(sound) == pytest.approx(440 * speed, rel=0.01)
            assert sound[1000:-1000].square().mean() == pytest.approx(0.5, rel=0.05)

    def test_nothing_asked_for_is_nothing_done(self) -> None:
        sound, speed = SoundAugmentation().vary(self.TONE, 16_000, np.random.default_rng(0))
        assert speed == 1.0
        assert torch.allclose(sound, self.TONE, atol=1e-5)

    @pytest.mark.parametrize("ratio", [0.8, 1.0, 1.25])
    def test_formants_move_and_pitch_stays(self, ratio: float) -> None:
        time = torch.arange(16_000) / 16_000
        weights = 1 / (1 + ((torch.arange(1, 60) * 125 - 1500) / 250) ** 2)  # harmonics of a voice with one resonance
        voice = (weights[:, None] * torch.sin(2 * np.pi * 125 * torch.arange(1, 60)[:, None] * time)).sum(0) / 10
        moved = shift_formants(voice, 16_000, ratio)
        assert len(moved) == len(voice)
        strongest = torch.fft.rfft(moved).abs().topk(5).indices.float()  # in Hz, of one second
        assert strongest.mean() == pytest.approx(1500 * ratio, rel=0.16)  # the envelope is smooth, so it moves softly
        assert ratio == 1 or abs(strongest.mean() - 1500 * ratio) < 0.6 * abs(1500 - 1500 * ratio)
        assert (strongest - (strongest / 125).round() * 125).abs().max() <= 2

    def test_noise_lies_within_its_bounds(self) -> None:
        random = np.random.default_rng(1)
        augmentation = SoundAugmentation(noise_share=1.0, quietest_signal_to_noise=8.0)
        for _ in range(5):
            noise = augmentation.vary(self.TONE, 16_000, random)[0] - self.TONE
            assert 7.5 < 10 * np.log10(float(self.TONE.square().mean() / noise.square().mean())) < 40.5

    def test_a_room_answers_for_its_time_and_not_longer(self) -> None:
        click = torch.zeros(32_000)
        click[8_000] = 1.0
        for seed in range(5):
            sound, _ = SoundAugmentation(room_share=1.0).vary(click, 16_000, np.random.default_rng(seed))
            energy = sound.square()
            assert energy[8_000] == pytest.approx(1, abs=0.2)  # the direct path
            assert energy[8_001:8_800].sum() > 0.05  # its answer within 50 ms
            assert energy[16_100:].sum() < 1e-6  # half a second is the longest room
            assert energy[:7_900].sum() < 1e-6

    def test_a_telephone_carries_nothing_high(self) -> None:
        click = torch.zeros(16_000)
        click[8_000] = 1.0
        sound, _ = SoundAugmentation(telephone_share=1.0).vary(click, 16_000, np.random.default_rng(0))
        spectrum = torch.fft.rfft(sound).abs()
        assert spectrum[3_500:].max() < 0.01 * spectrum[:3_300].min()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"speed": 0.7}, "speed=0.7"),
            ({"formants": -1}, "formants=-1"),
            ({"noise_share": 2}, "noise_share=2"),
            ({"room_share": 2}, "room_share=2"),
        ],
    )
    def test_bad_settings_say_why(self, change: dict[str, float], message: str) -> None:
        with pytest.raises(InputError, match=message):
            SoundAugmentation(**change)


def test_encoder_to_unit_corpus(corpus: Path, tmp_path: Path) -> None:
    settings = LoopSettings(
        steps=60,
        learning_rate=3e-3,
        warmup_steps=5,
        log_every=10,
        save_every=30,
        validate_every=30,
        ema_decay=0.9,
        threads=1,
    )
    figures = train(task(corpus), settings, tmp_path / "encoder")
    assert figures["frame_accuracy"] > 0.8

    units = UnitSettings(layer=1, num_units=8, unit_rate=25)
    quality = fit_kmeans(
        str(tmp_path / "encoder/model"), [str(corpus)], str(tmp_path / "units"), settings=units, frames=400, seed=0
    )
    assert quality.phone_purity > 0.7
    assert quality.pnmi > 0.4

    made, again = tmp_path / "units/model", tmp_path / "again"
    arguments = (str(tmp_path / "encoder/model"), [str(corpus)], str(again))
    fit_kmeans(*arguments, settings=units, frames=400, init_from=str(made), seed=1)
    old, new = UnitExtractor.from_pretrained(made), UnitExtractor.from_pretrained(again / "model")
    sound = [torch.from_numpy(soundfile.read(corpus / "3.wav", dtype="float32")[0])]
    assert (old(sound)[0] == new(sound)[0]).float().mean() > 0.5  # of eight units: chance is 0.125
    with pytest.raises(InputError, match=r"seed: 1 then, 2 now\n  init_from: .*units/model .* then, None"):
        fit_kmeans(*arguments, settings=units, frames=400, seed=2)
    before = (again / "model/centroids.safetensors").stat().st_mtime_ns
    init_from = {"init_from": str(made)}
    assert fit_kmeans(*arguments, settings=units, frames=400, **init_from, seed=1).used_units == 8
    assert (again / "model/centroids.safetensors").stat().st_mtime_ns == before
    other = (*arguments[:2], str(tmp_path / "other"))
    with pytest.raises(InputError, match="8 units at 25 Hz, wanted are 9 at 25 Hz"):
        fit_kmeans(*other, settings=replace(units, num_units=9), frames=400, **init_from, seed=1)
    with pytest.raises(InputError, match=r"padding=200, .* learnt with 0: set shared.encoder_padding=0"):
        fit_kmeans(*other, settings=replace(units, padding=200), frames=400, seed=1)

    report = extract_units([str(corpus)], str(made), str(tmp_path / "corpus"), shard_utterances=16)
    assert (report.utterances, report.failed) == (40, ())
    rows = {row.id: row for row in UnitCorpus(tmp_path / "corpus").utterances()}
    extractor = UnitExtractor.from_pretrained(made)
    samples, _ = soundfile.read(corpus / "7.wav", dtype="float32")
    assert rows["7"].units.tolist() == extractor([torch.from_numpy(samples)])[0].tolist()
    assert rows["7"].words == ("a", "b", "c")
