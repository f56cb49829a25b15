"""Log-mel encoders: Whisper's frames and layers under Wav2Vec2's names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertModel, WhisperConfig, WhisperFeatureExtractor, WhisperModel

from usdm.types import InputError
from usdm.units.log_mel import LOUDNESS, POSITIONS, LogMelConfig, LogMelModel, Sinusoids
from usdm.units.whisper import start_from_whisper

WIDTH, LAYERS, BANDS = 48, 3, 20
WHISPER = WhisperConfig(
    d_model=WIDTH, encoder_layers=LAYERS, encoder_attention_heads=4, encoder_ffn_dim=64, decoder_layers=1,
    decoder_attention_heads=4, decoder_ffn_dim=64, num_mel_bins=BANDS, max_source_positions=100, vocab_size=60,
    pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, init_std=0.2,
)  # fmt: skip


def config(**changes: object) -> LogMelConfig:
    sizes = dict(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=64,
        conv_dim=(BANDS, WIDTH, WIDTH), mask_time_prob=0.0,
    )  # fmt: skip
    return LogMelConfig(**(sizes | changes))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> tuple[WhisperModel, Path]:
    torch.manual_seed(0)
    model = WhisperModel(WHISPER).eval()
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    return model, folder


def noise(seconds: float) -> Tensor:
    """Of variance 1."""
    sound = torch.randn(int(16_000 * seconds), generator=torch.Generator().manual_seed(0))
    return sound / sound.std()


def test_the_spectrogram_is_whispers() -> None:
    features = LogMelModel(config()).feature_extractor
    sound = noise(1.0)
    theirs = WhisperFeatureExtractor(feature_size=BANDS, chunk_length=1)(
        (LOUDNESS * sound).numpy(), sampling_rate=16_000, return_tensors="pt"
    ).input_features[0]
    # Theirs is centred: its frame 2 begins 120 samples into the sound. Nothing here is near either floor.
    moved = features.log_mel(sound[None, 120:])[0]
    torch.testing.assert_close(moved, theirs[:, 2 : 2 + moved.shape[1]], atol=1e-3, rtol=1e-3)


def test_convolutions_and_layers_are_whispers(whisper: tuple[WhisperModel, Path]) -> None:
    model, folder = whisper
    encoder = LogMelModel(config()).eval()
    start_from_whisper(encoder, folder)
    sound = noise(1.0)[None]
    with torch.no_grad():
        mel = encoder.feature_extractor.log_mel(sound)
        theirs = functional.gelu(model.encoder.conv2(functional.gelu(model.encoder.conv1(mel))))
        frames = encoder.feature_extractor(sound)
        # Whisper pads both convolutions: its first frame hears what is not there.
        torch.testing.assert_close(frames, theirs[:, :, 1 : 1 + frames.shape[2]], atol=1e-4, rtol=1e-4)
        hidden = frames.transpose(1, 2) + model.encoder.embed_positions.weight[: frames.shape[2]]
        for layer in model.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        expected = functional.layer_norm(hidden, (WIDTH,))
        torch.testing.assert_close(encoder(sound).last_hidden_state, expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(LogMelModel(config()).eval()(sound).last_hidden_state, expected, atol=0.1)


def test_longer_steps_leave_out_frames_and_keep_their_positions(whisper: tuple[WhisperModel, Path]) -> None:
    every, second = LogMelModel(config()).eval(), LogMelModel(config(conv_stride=(160, 1, 4))).eval()
    for encoder in (every, second):
        start_from_whisper(encoder, whisper[1])
    sound = noise(1.0)[None]
    with torch.no_grad():
        all_frames = every.feature_extractor(sound)
        torch.testing.assert_close(second.feature_extractor(sound), all_frames[:, :, ::2])
        positions = every.encoder.pos_conv_embed(all_frames.transpose(1, 2))
        torch.testing.assert_close(second.encoder.pos_conv_embed(all_frames.transpose(1, 2)[:, ::2]), positions[::2])
    theirs = whisper[0].encoder.embed_positions.weight
    torch.testing.assert_close(positions, theirs[: len(positions)], atol=1e-5, rtol=1e-5)


def test_training_starts_to_count_anywhere(whisper: tuple[WhisperModel, Path]) -> None:
    positions = Sinusoids(config())
    frames = torch.zeros(1, 40, WIDTH)
    still = positions.eval()(frames)
    assert torch.equal(positions(frames), still)
    torch.manual_seed(0)
    drawn = [positions.train()(frames) for _ in range(8)]
    assert len({float(row[0, 0]) for row in drawn}) > 4
    for row in drawn:
        # Sinusoids' products depend on distances alone.
        torch.testing.assert_close(row @ row.T, still @ still.T, atol=1e-3, rtol=1e-3)
    whole = torch.zeros(1, POSITIONS + 10, WIDTH)
    assert torch.equal(positions.train()(whole), positions.eval()(whole))


def test_layers_above_whispers_last_start_as_that_one(whisper: tuple[WhisperModel, Path]) -> None:
    encoder = LogMelModel(config(num_hidden_layers=LAYERS + 1))
    start_from_whisper(encoder, whisper[1])
    *_, last, above = encoder.encoder.layers
    for one, other in zip(last.state_dict().values(), above.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_what_does_not_fit_is_refused(whisper: tuple[WhisperModel, Path], tmp_path: Path) -> None:
    wide = LogMelModel(config(hidden_size=64, conv_dim=(BANDS + 2, 64, 64)))
    with pytest.raises(InputError, match="mel bands 20 against 22, width 48 against 64"):
        start_from_whisper(wide, whisper[1])
    with pytest.raises(InputError, match="nobody/nothing is neither a folder"):
        start_from_whisper(wide, "nobody/nothing")
    BertModel(BertConfig(hidden_size=12, num_attention_heads=2, num_hidden_layers=1)).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="model_type is 'bert'"):
        start_from_whisper(wide, tmp_path / "bert")
    weights = WhisperModel(WHISPER).state_dict()
    some = {name: value.clone() for name, value in weights.items() if "fc1" not in name}
    save_file(some, tmp_path / "model.safetensors", metadata={"format": "pt"})
    WHISPER.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"lack \['encoder.layers.0.fc1"):
        start_from_whisper(LogMelModel(config()), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read or are damaged"):
        start_from_whisper(LogMelModel(config()), tmp_path)
