"""Codes of neural codecs as units, and tokenizers of one's own."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest
import torch
from random_codecs import BUILD, CODES, random_codec
from tiny_models import as_readable_as_new_files

from usdm.types import InputError
from usdm.units import UnitExtractor, load_unit_tokenizer
from usdm.units.codebooks import CodebookLayout, Layout
from usdm.units.codec import CodecSettings, CodecTokenizer, make_codec_tokenizer

LAYOUTS: tuple[Layout, ...] = ("flattened", "delayed", "first")
FRAME_RATES = {"encodec": 75, "mimi": 12.5, "dac": 50, "xcodec2": 50}


@pytest.mark.parametrize(("layout", "codebooks", "frames"), list(itertools.product(LAYOUTS, range(1, 5), range(4))))
def test_every_layout_inverts(layout: Layout, codebooks: int, frames: int) -> None:
    own = CodebookLayout(layout, codebooks, codes=2)
    for values in itertools.product(range(2), repeat=codebooks * frames):
        codes = torch.tensor(values, dtype=torch.int64).view(codebooks, frames)
        units = own.units(codes)
        assert len(units) % own.units_per_frame == 0
        assert not len(units) or (int(units.min()) >= 0 and int(units.max()) < own.num_units)
        assert torch.equal(own.frames(units), codes[:1] if layout == "first" else codes)


def test_a_delayed_codebook_is_as_late_as_its_number() -> None:
    own = CodebookLayout("delayed", codebooks=2, codes=10)
    assert own.units(torch.tensor([[1, 2, 3], [4, 5, 6]])).tolist() == [1, 20, 2, 14, 3, 15, 20, 16]


def test_units_out_of_order_stand_for_the_code_before() -> None:
    own = CodebookLayout("flattened", codebooks=2, codes=10)
    assert own.frames(torch.tensor([1, 14, 15, 3, 2, 16, 7])).tolist() == [[1, 1, 2], [4, 4, 6]]
    assert own.frames(torch.tensor([11, 11])).tolist() == [[0], [1]]
    assert own.frames(torch.tensor([5])).shape == (2, 0)


@pytest.mark.parametrize(("settings", "told"), [(("rows", 1, 2), "layout='rows'"), (("first", 0, 2), "codebooks=0")])
def test_layouts_that_cannot_be(settings: tuple, told: str) -> None:
    with pytest.raises(InputError, match=told):
        CodebookLayout(*settings)


@pytest.mark.parametrize("kind", BUILD)
def test_a_codec_tokenizes_and_speaks(kind: str, tmp_path: Path) -> None:
    codebooks = 1 if kind == "xcodec2" else 3
    tokenizer = CodecTokenizer(random_codec(kind), CodecSettings("flattened", codebooks))
    assert tokenizer.num_units == codebooks * CODES and tokenizer.frame_rate == FRAME_RATES[kind]
    assert tokenizer.unit_rate == FRAME_RATES[kind] * codebooks
    sounds = [0.1 * torch.randn(length, generator=torch.Generator().manual_seed(length)) for length in (9000, 5000)]
    units = tokenizer([*sounds, sounds[0]])
    hop = tokenizer.sample_rate / tokenizer.frame_rate
    assert [len(row) for row in units[:2]] == [codebooks * -(-len(sound) // int(hop)) for sound in sounds]
    assert torch.equal(units[0], units[2]) and torch.equal(units[1], tokenizer([sounds[1]])[0])
    assert len(tokenizer.decode(units[1])) == len(units[1]) // codebooks * hop
    stream = tokenizer.stream()
    for block in sounds[1].split(1000):
        assert not len(stream.push(block))
    assert torch.equal(stream.finish(), units[1])

    tokenizer.save_pretrained(tmp_path)
    assert as_readable_as_new_files(tmp_path)
    again = load_unit_tokenizer(tmp_path)
    assert isinstance(again, CodecTokenizer) and again.identity == tokenizer.identity
    assert torch.equal(again([sounds[0]])[0], units[0])


def test_what_units_depend_on_is_their_identity() -> None:
    codec = random_codec("dac")
    one, other = (CodecTokenizer(codec, CodecSettings(layout, 2)).identity for layout in ("flattened", "delayed"))
    assert one != other
    with torch.no_grad():
        next(codec.parameters()).add_(0.01)
    assert CodecTokenizer(codec, CodecSettings("flattened", 2)).identity != one


def test_units_that_no_frame_has_are_refused() -> None:
    tokenizer = CodecTokenizer(random_codec("dac"), CodecSettings("flattened", 2))
    with pytest.raises(InputError, match=f"this codec's are 0..{2 * CODES - 1}"):
        tokenizer.decode(torch.tensor([2 * CODES]))
    with pytest.raises(InputError, match=r"shape \(0,\)"):
        tokenizer([torch.zeros(0)])


def test_codecs_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="codebooks=9: this dac has 4"):
        CodecTokenizer(random_codec("dac"), CodecSettings("first", 9))
    with pytest.raises(InputError, match="no codec can be read"):
        make_codec_tokenizer(tmp_path / "nowhere", tmp_path / "out", CodecSettings())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hubert"}))
    with pytest.raises(InputError, match="model_type 'hubert' is none of the codecs encodec, mimi"):
        make_codec_tokenizer(tmp_path, tmp_path / "out", CodecSettings())


OWN_TOKENIZER = '''
"""Loudness in eight steps: a unit tokenizer of one's own, whole."""
import json
from pathlib import Path
import torch
from usdm.units import UnitTokenizer

class Loudness(UnitTokenizer):
    num_units, unit_rate, sample_rate, identity = 8, 25, 16_000, "loudness-8"

    def forward(self, waveforms):
        frames = [waveform[: len(waveform) // 640 * 640].view(-1, 640) for waveform in waveforms]
        return [(8 + frame.square().mean(1).clamp_min(1e-8).log10()).long().clamp(0, 7) for frame in frames]

    @classmethod
    def from_pretrained(cls, folder):
        return cls()

    def save_pretrained(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "units.json").write_text(json.dumps({"class": "own_loudness.Loudness"}))
'''


@pytest.fixture
def own_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a tokenizer whose class lies outside the package."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_loudness.py").write_text(OWN_TOKENIZER)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(sys.modules, "own_loudness", raising=False)
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "units.json").write_text(json.dumps({"class": "own_loudness.Loudness"}))
    return tmp_path / "units"


def test_a_tokenizer_of_one_s_own(own_tokenizer: Path) -> None:
    tokenizer = load_unit_tokenizer(own_tokenizer)
    assert not isinstance(tokenizer, UnitExtractor)
    units = tokenizer([torch.cat([torch.full((640,), 1e-3), torch.ones(640)])])[0]
    assert units.tolist() == [2, 7]
    stream = tokenizer.stream()
    stream.push(torch.ones(640))
    assert stream.finish().tolist() == [7]


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("own_loudness.Nothing", "cannot be imported"),
        ("nowhere.Kind", "cannot be imported"),
        ("os.system", "no subclass"),
    ],
)
def test_a_class_that_is_no_tokenizer_is_refused(own_tokenizer: Path, named: str, told: str) -> None:
    (own_tokenizer / "units.json").write_text(json.dumps({"class": named}))
    with pytest.raises(InputError, match=f"units.json: class='{named}' .*{told}"):
        load_unit_tokenizer(own_tokenizer)
