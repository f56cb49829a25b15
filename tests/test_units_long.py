"""Long and streamed sound, and extractors whose files are wrong or cannot be written."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import random_extractor
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from usdm.types import InputError
from usdm.units import UnitExtractor
from usdm.units.centroids import read_centroids
from usdm.units.conversion import convert_extractor
from usdm.units.sliding import plan_windows
from usdm.units.streaming import StreamingUnitExtractor


@pytest.fixture
def extractor() -> UnitExtractor:
    torch.manual_seed(0)
    made = random_extractor(20)
    made.centroids = made.features([torch.randn(16_000)])[0][0, :20].clone()
    return made


@pytest.mark.parametrize(("frames", "size", "context"), [(100, 30, 10), (101, 30, 10), (31, 30, 0), (7, 30, 14)])
def test_windows_cover_every_frame_once_with_its_context(frames: int, size: int, context: int) -> None:
    windows = list(plan_windows(frames, size, context))
    assert [i for w in windows for i in range(w.kept_first, w.kept_end)] == list(range(frames))
    for w in windows:
        assert w.end - w.first <= size
        assert w.first == max(0, w.kept_first - context)
        assert w.end == min(frames, w.kept_end + context)


def test_units_of_long_sound_depend_on_what_is_near_alone(extractor: UnitExtractor) -> None:
    extractor.settings = replace(extractor.settings, window=2.0, context=0.5, normalize=False)
    torch.manual_seed(1)
    one, other = torch.randn(2, 16_000 * 8)
    other[16_000 * 4 :] = one[16_000 * 4 :]
    units, others = extractor([one, other])
    assert units[115:].tolist() == others[115:].tolist()  # one layer sees 0.5 s, the convolutions a little more
    assert units[:90].tolist() != others[:90].tolist()


def streamed(extractor: UnitExtractor, waveform: Tensor, block: int, **settings: float) -> tuple[Tensor, int]:
    """All units, and how many of them came before the end."""
    stream = StreamingUnitExtractor(extractor, **settings)
    parts = [stream.push(samples) for samples in waveform.split(block)]
    return torch.cat([*parts, stream.finish()]), sum(map(len, parts))


@pytest.mark.parametrize("length", [16_000 * 5, 16_000 * 5 + 333, 47_999])
def test_streaming_gives_as_many_units_and_most_of_them_early(extractor: UnitExtractor, length: int) -> None:
    torch.manual_seed(2)
    waveform = torch.randn(length)
    units, early = streamed(extractor, waveform, 1_234)
    assert len(units) == len(extractor([waveform])[0])
    assert early >= len(units) - 25 * (0.5 + 1.0) - 2


def test_streamed_units_are_those_of_the_whole_where_statistics_agree(extractor: UnitExtractor) -> None:
    """Stationary noise soon has the mean and variance of the whole, and this encoder's one layer hardly attends."""
    torch.manual_seed(3)
    waveform = torch.randn(16_000 * 6)
    units, _ = streamed(extractor, waveform, 800, left_context=100.0, lookahead=2.0)
    assert (units == extractor([waveform])[0]).float().mean() > 0.9
    other = extractor([torch.randn(16_000 * 6)])[0]
    assert (units == other).float().mean() < 0.5  # agreement is not by chance


def test_a_short_turn_is_encoded_as_a_whole(extractor: UnitExtractor) -> None:
    torch.manual_seed(4)
    waveform = 0.1 + 0.01 * torch.randn(16_000)
    units, early = streamed(extractor, waveform, 400)
    assert early == 0
    assert units.tolist() == extractor([waveform])[0].tolist()


def test_the_block_size_of_a_stream_does_not_change_how_much_is_held(extractor: UnitExtractor) -> None:
    stream = StreamingUnitExtractor(extractor, left_context=1.0)
    for _ in range(100):
        stream.push(torch.randn(3_200))
    assert stream.held_seconds < 1.0 + 1.0 + 0.5 + 0.5
    assert stream.seconds == pytest.approx(20.0)


def test_a_stream_without_enough_sound_is_refused(extractor: UnitExtractor) -> None:
    extractor.settings = replace(extractor.settings, padding=0)
    stream = StreamingUnitExtractor(extractor)
    stream.push(torch.randn(100))
    with pytest.raises(InputError, match="0.006 s"):
        stream.finish()


def test_centroids_are_read_from_arrays_and_tensors_and_never_unpickled(tmp_path: Path) -> None:
    table = torch.randn(5, 3)
    np.save(tmp_path / "a.npy", table.double().numpy())
    torch.save(table, tmp_path / "a.pt")
    torch.save({"centroids": table, "layer": torch.tensor(3)}, tmp_path / "b.pt")
    save_file({"km": table}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.pt", "b.pt", "a.safetensors"):
        assert torch.equal(read_centroids(tmp_path / name), table), name

    (tmp_path / "km.km").write_bytes(b"\x80\x04anything")
    with pytest.raises(InputError, match=r"km.km is a pickled model.*numpy\.save\('centroids\.npy'"):
        read_centroids(tmp_path / "km.km")
    np.save(tmp_path / "objects.npy", np.array([object()]), allow_pickle=True)
    torch.save({"centroids": Path("anything")}, tmp_path / "objects.pt")
    for name in ("objects.npy", "objects.pt"):
        with pytest.raises(InputError, match="holds more than numbers"):
            read_centroids(tmp_path / name)
    for name in ("a.npy", "a.pt", "a.safetensors"):
        cut = tmp_path / f"cut{Path(name).suffix}"
        cut.write_bytes((tmp_path / name).read_bytes()[:-7])
        with pytest.raises(InputError, match="truncated"):
            read_centroids(cut)
    np.save(tmp_path / "flat.npy", np.zeros(4))
    np.save(tmp_path / "nan.npy", np.full((2, 2), np.nan))
    for name in ("flat.npy", "nan.npy"):
        with pytest.raises(InputError, match=r"finite centroids of shape \(K, D\)"):
            read_centroids(tmp_path / name)
    with pytest.raises(InputError, match="not exist"):
        read_centroids(tmp_path / "absent.npy")
    (tmp_path / "a.txt").write_text("1 2")
    with pytest.raises(InputError, match="'.txt'"):
        read_centroids(tmp_path / "a.txt")


def test_files_that_are_not_of_one_extractor_are_refused(extractor: UnitExtractor, tmp_path: Path) -> None:
    extractor.save_pretrained(tmp_path)
    settings = tmp_path / "units.json"
    assert json.loads(settings.read_text())["centroid_hash"] == extractor.identity
    other = tmp_path / "centroids.safetensors"
    save_file({"centroids": extractor.centroids + 1}, other)
    with pytest.raises(InputError, match=f"hash .* written for {extractor.identity}"):
        UnitExtractor.from_pretrained(tmp_path)
    other.write_bytes(other.read_bytes()[:-5])
    with pytest.raises(InputError, match="centroids.safetensors is truncated"):
        UnitExtractor.from_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="model.safetensors"):
        UnitExtractor.from_pretrained(tmp_path)
    settings.write_text('{"layer": 0, "speed": 3}')
    with pytest.raises(InputError, match="units.json.*speed"):
        UnitExtractor.from_pretrained(tmp_path)


@contextmanager
def no_large_files() -> Iterator[None]:
    """No file may grow above 8 KB, which is more than the config and less than the weights."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_no_extractor_behind(extractor: UnitExtractor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"), no_large_files():
        extractor.save_pretrained(tmp_path / "units")
    assert list((tmp_path / "units").iterdir()) == []


def test_a_checkpoint_with_other_layers_than_its_config_is_refused_with_both(tmp_path: Path) -> None:
    config = Wav2Vec2Config(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, do_stable_layer_norm=True)
    torch.save({"model": {"encoder.layers.1.fc1.bias": torch.zeros(3)}}, tmp_path / "e.pt")
    np.save(tmp_path / "km.npy", np.zeros((20, 16)))
    settings = replace(random_extractor(20).settings, layer=2)
    with pytest.raises(InputError, match="2 layers, the config 3"):
        convert_extractor(tmp_path / "e.pt", tmp_path / "km.npy", tmp_path / "u", config=config, settings=settings)
    with pytest.raises(InputError, match="units=xlsr2_1b_v2"):
        convert_extractor(tmp_path / "e.pt", tmp_path / "km.npy", tmp_path / "u", config=None, settings=settings)
    Wav2Vec2Model(config).save_pretrained(tmp_path / "hub")
    with pytest.raises(InputError, match="brings its own config"):
        convert_extractor(tmp_path / "hub", tmp_path / "km.npy", tmp_path / "u", config=config, settings=settings)
    assert not (tmp_path / "u").exists()
