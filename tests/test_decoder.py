"""The unit decoder: units to mel spectrograms."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from usdm.audio import MelSettings
from usdm.data.unit_corpus import UnitCorpus, UnitCorpusWriter, UnitSource, UnitUtterance
from usdm.decoder import UnitDecoder, UnitDecoderConfig, units_per_frame
from usdm.decoder import alibi as alibi_module
from usdm.decoder.alibi import Alibi, flex, flex_error, symmetric_alibi
from usdm.decoder.flow_matching import Estimate, Solver, integrate, path, path_velocity, velocity_to
from usdm.training.corpus_units import units_by_id
from usdm.training.decoder import DecoderTask
from usdm.types import InputError, ReferenceVoice
from usdm.vocoder import VocosSettings, VocosVocoder

TINY = UnitDecoderConfig(
    n_tokens=12,
    embedding_dim=8,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=2,
    num_hidden_layers=4,
    convpos_width=7,
    convpos_groups=4,
    unit_rate=25,
)


@pytest.fixture
def decoder() -> UnitDecoder:
    return UnitDecoder(TINY).eval()


@pytest.fixture
def reference() -> ReferenceVoice:
    return ReferenceVoice(torch.randint(12, (6,)), torch.randn(80, 19) - 5)


class TestPublished:
    """Against numbers of the published implementation."""

    @pytest.fixture
    def published(self, compat_dir: Path) -> tuple[UnitDecoder, dict[str, Tensor]]:
        folder = compat_dir / "voicebox"
        return UnitDecoder.from_pretrained(folder), load_file(folder / "golden.safetensors")

    def test_frames(self, compat_dir: Path) -> None:
        golden = load_file(compat_dir / "mel" / "golden.safetensors")
        frames = units_per_frame(golden["units"], 50, MelSettings())
        assert torch.equal(frames, golden["units_per_mel_frame"])
        assert len(frames) * 256 == int(golden["num_samples"])

    def test_config(self, published: tuple[UnitDecoder, dict[str, Tensor]]) -> None:
        config = published[0].config
        assert (config.n_tokens, config.hidden_size, config.convpos_width) == (40, 64, 31)
        assert (config.unit_rate, config.mel_mean, config.mel_std) == (50, -5.5419, 2.1575)

    def test_velocity(self, published: tuple[UnitDecoder, dict[str, Tensor]]) -> None:
        decoder, golden = published
        lengths = golden["est_lengths"]
        with torch.no_grad():
            velocity = decoder.estimator(
                golden["est_units"], golden["est_y"], golden["est_cond"], golden["est_t"][:, 0, 0], lengths
            )
        for row, length in enumerate(lengths):
            assert (velocity - golden["est_out"])[row, :, :length].abs().max() < 1e-4

    def test_loss(self, published: tuple[UnitDecoder, dict[str, Tensor]]) -> None:
        decoder, golden = published
        loss = decoder.loss(
            golden["est_units"],
            golden["loss_x1"],
            golden["est_lengths"],
            golden["loss_t"][:, 0, 0],
            golden["loss_noise"],
            golden["loss_mask"],
        )
        assert loss.item() == pytest.approx(golden["loss_value"].item(), abs=1e-4)

    @pytest.mark.parametrize(
        ("name", "solver", "steps", "guidance"),
        [("euler5_g0.0", "euler", 5, 0.0), ("heun6_g1.0", "heun", 6, 1.0), ("heun50_g1.0", "heun", 50, 1.0)],
    )
    def test_sampling(
        self,
        published: tuple[UnitDecoder, dict[str, Tensor]],
        name: str,
        solver: Solver,
        steps: int,
        guidance: float,
    ) -> None:
        decoder, golden = published
        units, noise = golden["gen_units"], golden[f"gen_{name}_noise"]
        velocity = decoder.guided_velocity(units, torch.zeros_like(noise), torch.tensor([units.shape[1]]), guidance)
        with torch.no_grad():
            mel = integrate(velocity, noise, steps, solver)
        assert (mel - golden[f"gen_{name}_mel"]).abs().max() < 1e-4

    def test_an_embedding_of_another_k_is_refused(self, compat_dir: Path, tmp_path: Path) -> None:
        shutil.copytree(compat_dir / "voicebox", tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "n_tokens": 50}))
        with pytest.raises(InputError, match=r"n_tokens=50.*51 rows.*has 41"):
            UnitDecoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("unit_rate", [25, 40, 50, 75, 100])
@pytest.mark.parametrize("count", [1, 2, 83, 500])
def test_frames_cover_the_units_in_order(unit_rate: int, count: int) -> None:
    frames = units_per_frame(torch.arange(count), unit_rate, MelSettings())
    assert len(frames) == count * 22_050 // unit_rate // 256
    assert (frames.diff() >= 0).all()
    # where units are longer than frames, the unit at the middle of a frame has most of it; else it has a part
    middle = (torch.arange(len(frames)) * 256 + 128) / 22_050 * unit_rate
    sample = unit_rate / 22_050
    assert ((frames + 0.5 - middle).abs() <= max(0.5, 128 * sample) + sample).all()


def test_alibi_is_symmetric_and_the_time_position_is_near_to_all() -> None:
    bias = symmetric_alibi(Alibi(4, torch.tensor([8]), 8).slopes, 9)
    assert torch.equal(bias[:, 1:, 1:], bias[:, 1:, 1:].transpose(1, 2))
    assert (bias[:, :, 0] == 0).all()
    assert bias[0, 3, 5].item() == pytest.approx(-2 * 2**-2)
    assert len(set(Alibi(6, torch.tensor([8]), 8).slopes.tolist())) == 6  # heads that are no power of two differ too


@pytest.mark.parametrize("lengths", [[60, 60], [60, 41, 60, 7]])
@pytest.mark.parametrize("gradients", [False, True])
def test_attention_is_the_same_without_a_whole_bias(
    lengths: list[int], gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    alibi = Alibi(4, torch.tensor(lengths), 60)
    states = torch.randn(3, len(lengths), 4, 61, 8, generator=torch.Generator().manual_seed(0))
    inside = (torch.arange(61) < alibi.ends[:, None])[:, None, :, None]
    bias = symmetric_alibi(alibi.slopes, 61).masked_fill(~inside.transpose(2, 3), -torch.inf)
    expected = torch.nn.functional.scaled_dot_product_attention(*states, bias) * inside
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(alibi.attend(*states) * inside, expected)
        monkeypatch.setattr(alibi_module, "BIAS_BYTES", 4 * 4 * 61 * 9)  # nine queries of one row
        alibi = Alibi(4, torch.tensor(lengths), 60)
        largest = []
        own = alibi_module.symmetric_alibi
        monkeypatch.setattr(
            alibi_module, "symmetric_alibi", lambda *given: (largest.append(bias := own(*given)), bias)[1]
        )
        torch.testing.assert_close(alibi.attend(*states) * inside, expected)
        assert gradients or max(bias.nbytes for bias in largest) <= 2 * alibi_module.BIAS_BYTES
        assert not gradients or len(largest) == 1  # and all layers share it
        alibi.attend(*states)
        assert not gradients or len(largest) == 1
    monkeypatch.setattr(alibi_module, "_compiled_flex", lambda: flex_attention)
    with torch.no_grad():
        torch.testing.assert_close(flex(*states, alibi.slopes, alibi.ends) * inside, expected)


def test_flex_attention_is_compared_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, single = torch.device("cpu"), torch.float32
    monkeypatch.setattr(alibi_module, "_compiled_flex", lambda: flex_attention)
    assert flex_error(cpu, single, 16) < 1e-5
    monkeypatch.setattr(alibi_module, "_compiled_flex", lambda: lambda *states, score_mod: flex_attention(*states))
    assert not alibi_module.flex_serves.__wrapped__(cpu, single, 16)  # without distances


def test_threads_decode_at_once(decoder: UnitDecoder) -> None:
    """Short and long ones at once: what one needs is nothing that another can change."""
    lengths = [9, 60, 13, 200, 20, 120] * 4
    units = [torch.arange(length) % 12 for length in lengths]
    expected = [decoder.generate_batch([row], steps=2, seeds=[1])[0] for row in units]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda row: decoder.generate_batch([row], steps=2, seeds=[1])[0], units))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not [name for name, _ in decoder.estimator.named_buffers()]  # nothing that requests share grows


def test_padding_changes_nothing(decoder: UnitDecoder) -> None:
    units, noisy, context = torch.randint(12, (2, 20)), torch.randn(2, 80, 20), torch.randn(2, 80, 20)
    time, lengths = torch.tensor([0.3, 0.3]), torch.tensor([20, 13])
    with torch.no_grad():
        padded = decoder.estimator(units, noisy, context, time, lengths)
        alone = decoder.estimator(units[1:, :13], noisy[1:, :, :13], context[1:, :, :13], time[1:], lengths[1:])
    assert (padded[1, :, :13] - alone[0]).abs().max() < 1e-5
    assert (padded[1, :, 13:] == 0).all()


def test_a_longer_sequence_first_changes_nothing(decoder: UnitDecoder) -> None:
    units = torch.randint(12, (10,))
    before = decoder.generate(units, steps=2, temperature=0)
    decoder.generate(torch.randint(12, (40,)), steps=1, temperature=0)
    assert torch.equal(decoder.generate(units, steps=2, temperature=0), before)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_velocity_that_is_straight_is_integrated_exactly(solver: Solver) -> None:
    noise, data = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    assert torch.allclose(integrate(lambda state, time: data - noise, noise, 7, solver), data, atol=1e-5)


def test_heun_is_nearer_than_euler_on_a_curve() -> None:
    solvers: tuple[Solver, Solver] = ("euler", "heun")
    start = torch.ones(1, 1, 1)
    error = {solver: abs(integrate(lambda state, time: state, start, 20, solver).item() - np.e) for solver in solvers}
    assert error["heun"] < 0.7 * error["euler"]


def test_the_way_to_the_true_data_is_the_path() -> None:
    data, noise, time = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.rand(2)
    state = path(noise, data, time[:, None, None], sigma_min=0.1)
    assert (
        velocity_to(data, state, time, sigma_min=0.1) - path_velocity(noise, data, sigma_min=0.1)
    ).abs().max() < 1e-4


@pytest.mark.parametrize(("steps", "solver"), [(1, "euler"), (5, "euler"), (8, "heun")])
def test_a_decoder_that_estimates_the_data_ends_at_its_last_estimate(
    monkeypatch: pytest.MonkeyPatch, steps: int, solver: Solver
) -> None:
    decoder = UnitDecoder(replace(TINY, estimate="data")).eval()
    estimates: list[Tensor] = []

    def estimate(units: Tensor, noisy: Tensor, *_: Tensor) -> Tensor:
        estimates.append(torch.randn(noisy.shape, generator=torch.Generator().manual_seed(len(estimates))))
        return estimates[-1]

    monkeypatch.setattr(decoder.estimator, "forward", estimate)
    mel = decoder.generate(torch.arange(12), steps=steps, solver=solver, guidance=0)
    assert torch.allclose(mel, decoder.denormalise(estimates[-1][0]), atol=1e-2)


def test_what_nobody_can_estimate_is_refused() -> None:
    with pytest.raises(InputError, match="estimate='noise': choose one of velocity, data"):
        replace(TINY, estimate="noise")


@pytest.mark.parametrize("with_reference", [False, True])
def test_a_sequence_sounds_the_same_alone_and_in_a_batch(
    decoder: UnitDecoder, reference: ReferenceVoice, with_reference: bool
) -> None:
    units = [torch.randint(12, (count,)) for count in (9, 4, 17)]
    voice = reference if with_reference else None

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    together = decoder.generate_batch(units, reference=voice, steps=4, generator=seeded())
    for row, mel in zip(units, together, strict=True):
        alone = decoder.generate(row, reference=voice, steps=4, generator=seeded())
        assert mel.shape == alone.shape == (80, len(row) * 882 // 256)
        assert (mel - alone).abs().max() < 1e-4


def test_rows_with_voices_and_seeds_of_their_own_sound_as_each_alone(decoder: UnitDecoder) -> None:
    units = [torch.randint(12, (count,)) for count in (9, 4, 17)]
    voices = [
        ReferenceVoice(torch.randint(12, (6,)), torch.randn(80, 19) - 5),
        None,
        ReferenceVoice(torch.randint(12, (11,)), torch.randn(80, 40) - 5),
    ]
    seeds = [5, 5, 6]
    together = decoder.generate_batch(units, references=voices, seeds=seeds, steps=4)
    for row, voice, seed, mel in zip(units, voices, seeds, together, strict=True):
        generator = torch.Generator().manual_seed(seed)
        alone = decoder.generate(row, reference=voice, steps=4, generator=generator)
        assert (mel - alone).abs().max() < 1e-4
        other = decoder.generate(row, reference=voice, steps=4, generator=torch.Generator().manual_seed(seed + 10))
        assert (mel - other).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["references", "seeds"])
def test_one_for_each_row_is_needed(decoder: UnitDecoder, name: str) -> None:
    with pytest.raises(InputError, match=f"1 {name} for 2 sequences"):
        decoder.generate_batch([torch.tensor([3]), torch.tensor([4])], **{name: [None if name == "references" else 0]})


def test_a_network_in_bfloat16_is_integrated_in_float32(decoder: UnitDecoder, tmp_path: Path) -> None:
    decoder.save_pretrained(tmp_path)
    short = UnitDecoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in short.parameters()} == {torch.bfloat16}
    units = [torch.randint(12, (count,)) for count in (9, 17)]
    exact, near = (d.generate_batch(units, steps=4, seeds=[1, 2]) for d in (decoder, short))
    for one, other in zip(exact, near, strict=True):
        assert other.dtype == torch.float32
        assert 0 < (one - other).abs().mean() < 0.05


def test_the_seed_decides(decoder: UnitDecoder) -> None:
    units = torch.randint(12, (9,))
    first, again, other = (
        decoder.generate(units, steps=2, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_temperature_zero_needs_no_seed(decoder: UnitDecoder, reference: ReferenceVoice) -> None:
    units = torch.randint(12, (9,))
    first = decoder.generate(units, reference=reference, steps=3, temperature=0)
    assert torch.equal(first, decoder.generate(units, reference=reference, steps=3, temperature=0))


def test_one_step_from_zeros_is_the_velocity_there(decoder: UnitDecoder) -> None:
    units = torch.randint(12, (9,))
    frames = units_per_frame(units, 25, decoder.mel)[None]
    zeros = torch.zeros(1, 80, frames.shape[1])
    mel = decoder.generate(units, steps=1, solver="euler", guidance=0, temperature=0)
    with torch.no_grad():
        velocity = decoder.estimator(frames, zeros, zeros, torch.zeros(1), torch.tensor([frames.shape[1]]))
    assert torch.allclose(mel, decoder.denormalise(velocity[0]), atol=1e-6)


def test_guidance_moves_away_from_the_unconditional_velocity(decoder: UnitDecoder) -> None:
    frames = torch.randint(12, (2, 9))
    context, state = torch.randn(2, 80, 9), torch.randn(2, 80, 9)
    lengths, time = torch.tensor([9, 7]), torch.tensor([0.4, 0.4])
    with torch.no_grad():
        none, two = (decoder.guided_velocity(frames, context, lengths, g)(state, time) for g in (0.0, 2.0))
        conditional = decoder.estimator(frames, state, context, time, lengths)
        dropped = decoder.estimator(torch.full_like(frames, 12), state, torch.zeros_like(context), time, lengths)
    assert torch.equal(none, conditional)
    assert torch.allclose(two, conditional + 2 * (conditional - dropped), atol=1e-5)


def test_a_reference_voice_changes_the_output(decoder: UnitDecoder, reference: ReferenceVoice) -> None:
    units = torch.randint(12, (9,))
    plain = decoder.generate(units, steps=3, temperature=0)
    louder = ReferenceVoice(reference.units, reference.mel + 2)
    voiced, other = (decoder.generate(units, reference=r, steps=3, temperature=0) for r in (reference, louder))
    assert plain.shape == voiced.shape == other.shape
    assert not torch.allclose(plain, voiced, atol=1e-2)
    assert not torch.allclose(voiced, other, atol=1e-2)


def test_the_prompt_ends_as_the_reference(
    decoder: UnitDecoder, reference: ReferenceVoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What precedes the reply is held to the reference's path: at time 1 it is the reference itself."""
    states: list[Tensor] = []
    estimate = decoder.estimator.forward

    def spy(units: Tensor, noisy: Tensor, *others: Tensor) -> Tensor:
        states.append(noisy)
        return estimate(units, noisy, *others)

    monkeypatch.setattr(decoder.estimator, "forward", spy)
    decoder.generate(torch.randint(12, (9,)), reference=reference, steps=100, solver="euler", guidance=0, temperature=1)
    prompt = min(len(units_per_frame(reference.units, 25, decoder.mel)), reference.mel.shape[1])
    wanted = decoder.normalise(reference.mel[:, :prompt])
    distance = [(state[0, :, :prompt] - wanted).abs().mean().item() for state in (states[1], states[-1])]
    assert distance[-1] < 0.05 < distance[0]


@pytest.mark.parametrize(
    ("units", "settings", "message"),
    [
        ([3, 12], {}, r"units 3\.\.12: this decoder knows 0\.\.11"),
        ([-1, 3], {}, r"units -1\.\.3"),
        ([], {}, "at least one"),
        ([3], {"steps": 0}, "steps=0"),
        ([3], {"solver": "rk4"}, "euler, heun"),
        ([3], {"temperature": -1.0}, "negative"),
    ],
)
def test_bad_requests_say_why(decoder: UnitDecoder, units: list[int], settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decoder.generate(torch.tensor(units, dtype=torch.int64), **settings)


def test_a_reference_of_another_mel_is_refused(decoder: UnitDecoder) -> None:
    with pytest.raises(InputError, match="100 bands"):
        decoder.generate(torch.tensor([3]), reference=ReferenceVoice(torch.tensor([3]), torch.zeros(100, 3)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 0.0), (torch.float16, 2e-2)])
def test_saved_and_loaded_it_speaks_the_same(
    decoder: UnitDecoder, tmp_path: Path, dtype: torch.dtype | None, tolerance: float
) -> None:
    decoder.save_pretrained(tmp_path, dtype=dtype)
    loaded = UnitDecoder.from_pretrained(tmp_path)
    assert loaded.config == TINY
    assert loaded.unit_rate == 25
    assert all(name.startswith("estimator.") for name in load_file(tmp_path / "model.safetensors"))
    units = torch.randint(12, (9,))
    mels = [each.generate(units, steps=2, temperature=0) for each in (decoder, loaded)]
    assert (mels[0] - mels[1]).abs().max() <= tolerance


def test_a_config_with_an_unknown_key_is_refused(decoder: UnitDecoder, tmp_path: Path) -> None:
    decoder.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**asdict(TINY), "num_speakers": 2}))
    with pytest.raises(InputError, match="num_speakers"):
        UnitDecoder.from_pretrained(tmp_path)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Sound whose pitch the units tell, in utterances of several lengths; the last one is for validation."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    random = np.random.default_rng(0)
    rows, units = [], []
    for index, count in enumerate((10, 25, 40, 30)):
        spoken = random.integers(12, size=count)
        phase = 2 * np.pi * np.cumsum(np.repeat(200 + 150 * spoken, 640)) / 16_000
        soundfile.write(folder / f"{index}.wav", 0.3 * np.sin(phase), 16_000)
        rows.append(
            {
                "id": str(index),
                "audio": f"{index}.wav",
                "speaker": "hum",
                "role": "agent",
                "dialog": "0",
                "turn": index,
                "split": "dev" if index == 3 else "train",
                "text": "hum",
                "duration": count / 25,
            }
        )
        units.append(spoken)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with UnitCorpusWriter(folder / "units.parquet", UnitSource(12, 25, "hums")) as writer:
        for row, spoken in zip(rows, units, strict=True):
            numbers = spoken.astype(np.uint16)
            writer.write(UnitUtterance(str(row["id"]), "hum", "agent", "0", 0, str(row["split"]), "hum", numbers))
    return folder


@pytest.fixture
def make_task(corpus: Path) -> Callable[..., DecoderTask]:
    def make(
        regression_steps: int = 10,
        seed: int = 0,
        vocoder: Path | None = None,
        estimate: Estimate = "velocity",
        init_from: Path | None = None,
    ) -> DecoderTask:
        return DecoderTask(
            [corpus],
            corpus / "units.parquet",
            replace(TINY, estimate=estimate),
            regression_steps=regression_steps,
            init_from=init_from,
            regression_share=0.25,
            batch_size=8,
            crop_seconds=0.6,
            vocoder=vocoder,
            seed=seed,
        )

    return make


def test_batches_depend_on_seed_and_step_alone(make_task: Callable[..., DecoderTask]) -> None:
    first, second = make_task(), make_task()
    second.batch(0)
    for step in (3, 30):
        one, two = first.batch(step), second.batch(step)
        assert all(torch.equal(vars(one)[name], vars(two)[name]) for name in vars(one))
    assert not torch.equal(first.batch(3).mel, first.batch(4).mel)
    assert not torch.equal(first.batch(3).mel, make_task(seed=1).batch(3).mel)


def test_units_and_mel_of_a_batch_belong_together(make_task: Callable[..., DecoderTask]) -> None:
    """A unit's pitch must be where its mel has the most energy."""
    task = make_task()
    bands: dict[int, list[float]] = {}
    for step in range(5):
        batch = task.batch(step)
        for units, mel, length in zip(batch.units, batch.mel, batch.lengths, strict=True):
            for frame in range(int(length)):
                bands.setdefault(int(units[frame]), []).append(float(mel[:, frame].argmax()))
    middles = [float(np.median(bands[unit])) for unit in sorted(bands)]
    assert middles == sorted(middles)


def test_the_recipe_s_shares(make_task: Callable[..., DecoderTask]) -> None:
    task = make_task(regression_steps=2)
    assert task.batch(1).regression.all()
    assert not (task.batch(1).units == 12).any()
    batches = [task.batch(step) for step in range(2, 60)]
    assert all(batch.regression.sum() == 2 for batch in batches)
    flow = [(batch, row) for batch in batches for row in range(2, 8)]
    dropped = [(batch.units[row] == 12).any().item() for batch, row in flow]
    assert 0.12 < np.mean(dropped) < 0.28
    given = [batch.context[row].sum().item() / batch.lengths[row].item() for batch, row in flow]
    assert max(given) <= 0.3 + 0.05
    assert all(share == 0 for share, drop in zip(given, dropped, strict=True) if drop)
    kept = [share for share, drop in zip(given, dropped, strict=True) if not drop]
    assert 0.2 < np.mean([share == 0 for share in kept]) < 0.45


@pytest.mark.parametrize("estimate", ["velocity", "data"])
def test_training_lowers_both_losses(make_task: Callable[..., DecoderTask], estimate: Estimate) -> None:
    task = make_task(regression_steps=20, estimate=estimate)
    optimizer = torch.optim.AdamW(task.decoder.parameters(), lr=3e-3)

    def losses(step: int) -> dict[str, Tensor]:
        return task.losses(task.batch(step), torch.Generator().manual_seed(step))

    before, flow_before = losses(0), losses(100)
    assert "flow" not in before
    for step in range(60):
        optimizer.zero_grad()
        losses(step)["loss"].backward()
        optimizer.step()
    assert losses(0)["regression"] < 0.7 * before["regression"]
    assert losses(100)["flow"] < 0.8 * flow_before["flow"]


def test_one_estimate_goes_on_from_the_other(make_task: Callable[..., DecoderTask], tmp_path: Path) -> None:
    """One step from zeros is the same; from there on the estimate is the wanted one."""
    start = make_task().decoder.eval()
    start.save_pretrained(tmp_path)
    onward = make_task(estimate="data", init_from=tmp_path).decoder.eval()
    assert (start.config.estimate, onward.config.estimate) == ("velocity", "data")
    units = torch.arange(12)
    one_step = [each.generate(units, steps=1, guidance=0, temperature=0) for each in (start, onward)]
    two_steps = [each.generate(units, steps=2, guidance=0) for each in (start, onward)]
    assert torch.equal(*one_step)
    assert not torch.allclose(*two_steps, atol=0.1)


def test_validation_leaves_pictures_and_sound(make_task: Callable[..., DecoderTask], tmp_path: Path) -> None:
    VocosVocoder(VocosSettings(dim=16, intermediate_dim=32, num_layers=1)).save_pretrained(tmp_path / "vocoder")
    task = make_task(vocoder=tmp_path / "vocoder")
    assert set(task.validate(5, tmp_path)) == {"mel_distance_one_step", "mel_distance_prompted"}
    later = {"mel_distance_one_step", "mel_distance_eight_steps", "mel_distance_prompted"}
    assert set(task.validate(11, tmp_path)) == later
    assert sorted(path.name for path in tmp_path.glob("0000011*")) == [
        "0000011_0.png",
        "0000011_0_eight_steps.wav",
        "0000011_0_one_step.wav",
        "0000011_0_recording.wav",
    ]
    task.save(tmp_path / "model")
    assert UnitDecoder.from_pretrained(tmp_path / "model").num_units == 12
    assert UnitSource.load(tmp_path / "model") == task.unit_source


def test_units_of_another_kind_are_refused(corpus: Path) -> None:
    units = UnitCorpus(corpus / "units.parquet")
    with pytest.raises(InputError, match=r"num_units=12, but the decoder 40"):
        units_by_id(units, 40, 25)
    with pytest.raises(InputError, match=r"unit_rate=25, but the decoder 50"):
        units_by_id(units, 12, 50)


def test_units_that_do_not_fit_the_sound_are_refused(make_task: Callable[..., DecoderTask], corpus: Path) -> None:
    task = make_task()
    task.units = {name: units.repeat(2) for name, units in task.units.items()}
    with pytest.raises(InputError, match="extract the units of this corpus again"):
        task.batch(0)
