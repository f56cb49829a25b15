"""Training of the unit decoder: regression first, flow matching after.

Flow matching alone takes long to speak: most of its gradient is about noise. The same estimator trained to
map zero noise at time 0 straight to the mel by L1 says words after a fraction of the steps, and because that
is flow matching with the noise set to zero (the velocity from zeros is the mel itself), its weights are where
flow matching starts from, whether velocity or mel is estimated. A share of regression rows stays in every later
batch, so that one Euler step at temperature 0 remains the fast and steady way to speak, and more steps at
temperature 1 the lively one.

The masks are the published recipe (Voicebox, arXiv 2306.15687): everything is dropped with probability 0.2,
so that guidance has an unconditional velocity; else all of the mel is masked with probability 0.3, or a
stretch of 70-100 % of it, and what is left is context, as a reference voice is in generation. Where many voices
are learnt and one of them shall be the voice of replies without a reference, only that one's rows go without
context: else such replies would be spoken in everybody's mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from usdm.audio import MelSpectrogram, write_audio
from usdm.data.speech_corpus import Utterance
from usdm.data.unit_corpus import UnitCorpus
from usdm.decoder import UnitDecoder, UnitDecoderConfig, units_per_frame
from usdm.decoder.decoder import scored_frames
from usdm.decoder.flow_matching import masked_mean
from usdm.training.corpus_units import evenly_spread, units_by_id, utterances_with_units
from usdm.training.loop import training_device
from usdm.training.pictures import save_mel_picture
from usdm.training.task import TrainingTask
from usdm.types import InputError, ReferenceVoice
from usdm.vocoder import load_vocoder

DROP_SHARE = 0.2  # of rows without units and context
FULL_MASK_SHARE = 0.3  # of the other rows
LENGTH_TOLERANCE = 0.25  # seconds by which an utterance's units and sound may differ in length
HEARD_UTTERANCES = 2  # of the validation set, left as sound and picture
PROMPT_SHARE = 0.4  # of an utterance, as the reference voice for its rest
KEPT_BYTES = 4 << 30  # of examples in memory; others are made each time


@dataclass(frozen=True)
class DecoderBatch:
    units: Tensor  # (B, M) int64 per frame, K where dropped
    mel: Tensor  # (B, n_feats, M) normalised
    lengths: Tensor  # (B,) frames
    context: Tensor  # (B, 1, M), 1 where the mel is given
    regression: Tensor  # (B,) bool: rows judged as a regression from zeros

    def to(self, device: str) -> DecoderBatch:
        return DecoderBatch(**{name: value.to(device) for name, value in vars(self).items()})


class DecoderTask(TrainingTask):
    """Task of `usdm.training.loop.train`: random crops of speech corpora and their units.

    Args:
        corpora: speech corpus folders.
        units: unit corpora, Parquet files or folders of them; utterances without units are left out.
        config: the decoder's size, K and unit rate.
        roles: take utterances of these only.
        regression_steps: batches of regression alone, before flow matching begins.
        regression_share: of each later batch's rows.
        shortest_mask: the masked stretch is this share of a row's frames, or more.
        prompted_share: of the rows with context, those whose context is their beginning, as a reference voice is.
        default_speaker: whose voice is learnt without context; None: everybody's.
        initial: folder of a decoder to start from; None: random weights.
        vocoder: folder; with it, validation leaves sound.

    Raises:
        InputError: a corpus cannot be read, its units are not of `config`'s kind, or nothing is left.
    """

    def __init__(
        self,
        corpora: Sequence[str | Path],
        units: str | Path | Sequence[str | Path],
        config: UnitDecoderConfig,
        *,
        roles: Sequence[str] | None = None,
        regression_steps: int,
        regression_share: float = 0.25,
        shortest_mask: float = 0.7,
        prompted_share: float = 0.0,
        default_speaker: str | None = None,
        batch_size: int = 8,
        crop_seconds: float = 3.0,
        validation_utterances: int = 8,
        init_from: str | Path | None = None,
        vocoder: str | Path | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        torch.manual_seed(seed)
        self.device = device = training_device(device)
        self.decoder = _decoder(config, init_from).to(device)
        self.regression_steps = regression_steps
        self.regression_rows = round(regression_share * batch_size)
        self.shortest_mask = shortest_mask
        self.prompted_share = prompted_share
        self.default_speaker = default_speaker
        self.batch_size = batch_size
        self.crop_frames = int(crop_seconds * self.decoder.mel.frame_rate)
        self.seed = seed
        self.mel = MelSpectrogram(self.decoder.mel)
        self.vocoder = load_vocoder(vocoder) if vocoder is not None else None
        unit_corpus = UnitCorpus(units)
        self.unit_source = unit_corpus.source
        self.units = units_by_id(unit_corpus, config.n_tokens, config.unit_rate)
        self.train_set, speakers = utterances_with_units(corpora, "train", roles, self.units)
        dev_set, _ = utterances_with_units(corpora, "dev", roles, self.units)
        self.dev_set = evenly_spread(dev_set, validation_utterances)
        by_default = [n for n, spoken in enumerate(dev_set) if default_speaker in (None, spoken.speaker)]
        self.unprompted_dev_set = evenly_spread(dev_set.take(np.array(by_default, np.int64)), validation_utterances)
        if default_speaker is not None and default_speaker not in speakers:
            raise InputError(
                f"default_speaker={default_speaker!r} says nothing in these corpora: choose one of "
                f"{', '.join(sorted(speakers)[:10])}"
            )
        durations = self.train_set.durations
        self._share = durations / durations.sum()  # every second is drawn equally often
        self._examples: dict[str, tuple[Tensor, Tensor]] = {}
        self._kept = 0  # bytes of examples

    def modules(self) -> dict[str, nn.Module]:
        return {"decoder": self.decoder}

    def batch(self, step: int) -> DecoderBatch:
        random = np.random.default_rng([self.seed, step])
        all_regression = step < self.regression_steps
        regression = torch.arange(self.batch_size) < (self.batch_size if all_regression else self.regression_rows)
        units = torch.zeros(self.batch_size, self.crop_frames, dtype=torch.int64)
        mel = torch.zeros(self.batch_size, self.decoder.config.n_feats, self.crop_frames)
        context = torch.zeros(self.batch_size, 1, self.crop_frames)
        lengths = torch.zeros(self.batch_size, dtype=torch.int64)
        for row, index in enumerate(random.choice(len(self._share), self.batch_size, p=self._share)):
            utterance = self.train_set[int(index)]
            row_units, row_mel = self._example(utterance)
            start = int(random.integers(max(0, len(row_units) - self.crop_frames) + 1))
            length = min(self.crop_frames, len(row_units) - start)
            lengths[row] = length
            mel[row, :, :length] = self.decoder.normalise(row_mel[:, start : start + length].float())
            if not regression[row] and random.random() < DROP_SHARE:
                units[row, :length] = self.decoder.num_units
            else:
                units[row, :length] = row_units[start : start + length]
                context[row, 0, :length] = self._context(utterance, length, random)
        return DecoderBatch(units, mel, lengths, context, regression).to(self.device)

    def losses(self, batch: DecoderBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """L1 on regression rows, mean square on the others, averaged over all their frames alike."""
        flow = ~batch.regression
        time = torch.rand(len(flow), generator=generator).to(self.device) * flow
        noise = torch.randn(batch.mel.shape, generator=generator).to(self.device) * flow[:, None, None]
        error = self.decoder.estimate_error(batch.units, batch.mel, batch.lengths, time, noise, batch.context)
        scored = scored_frames(batch.lengths, batch.context)
        distance = torch.where(flow[:, None, None], error.square(), error.abs())
        parts = {"loss": masked_mean(distance, scored)}
        if batch.regression.any():
            parts["regression"] = masked_mean(distance[batch.regression], scored[batch.regression]).detach()
        if flow.any():
            parts["flow"] = masked_mean(distance[flow], scored[flow]).detach()
        return parts

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """L1 log-mel distance: one step from zeros, and 8 steps from noise with guidance; and one step with the
        beginning of the utterance as the reference voice for its rest.
        """
        ways: dict[str, Mapping[str, float]] = {"one_step": {"steps": 1, "guidance": 0.0, "temperature": 0.0}}
        if step > self.regression_steps:
            ways["eight_steps"] = {"steps": 8, "guidance": 1.0, "temperature": 1.0}
        distances: dict[str, list[float]] = {name: [] for name in ways}
        for index, utterance in enumerate(self.unprompted_dev_set):
            _, target = self._example(utterance)
            mels = {"recording": target.float()}
            for name, way in ways.items():
                mels[name] = self._generate(utterance, way)[:, : target.shape[1]]
                distances[name].append((mels[name] - mels["recording"]).abs().mean().item())
            if index < HEARD_UTTERANCES:
                self._leave(mels, folder, f"{step:07d}_{index}")
        distances["prompted"] = [self._prompted_distance(utterance) for utterance in self.dev_set]
        return {f"mel_distance_{name}": float(np.mean(values)) for name, values in distances.items()}

    def save(self, folder: Path) -> None:
        """The finished decoder, stored in half precision, and which units it speaks."""
        self.decoder.save_pretrained(folder, dtype=torch.float16)
        self.unit_source.save(folder)

    def _generate(self, utterance: Utterance, way: Mapping[str, float]) -> Tensor:
        """(n_feats, M) log-mel."""
        mel = self.decoder.generate(
            self.units[utterance.id],
            steps=int(way["steps"]),
            solver="euler",
            guidance=way["guidance"],
            temperature=way["temperature"],
            generator=torch.Generator().manual_seed(self.seed),
        )
        return mel.cpu()

    def _prompted_distance(self, utterance: Utterance) -> float:
        units, target = self.units[utterance.id], self._example(utterance)[1].float()
        split = max(1, round(PROMPT_SHARE * len(units)))
        start = len(units_per_frame(units[:split], self.decoder.unit_rate, self.decoder.mel))
        reference = ReferenceVoice(units[:split], target[:, :start])
        mel = self.decoder.generate(
            units[split:], reference=reference, steps=1, solver="euler", guidance=0.0, temperature=0.0
        ).cpu()
        length = min(mel.shape[1], target.shape[1] - start)
        return (mel[:, :length] - target[:, start : start + length]).abs().mean().item()

    def _leave(self, mels: Mapping[str, Tensor], folder: Path, name: str) -> None:
        save_mel_picture(folder / f"{name}.png", mels, self.decoder.mel)
        if self.vocoder is not None:
            for way, mel in mels.items():
                write_audio(folder / f"{name}_{way}.wav", self.vocoder(mel[None])[0], self.vocoder.sample_rate)

    def _context(self, utterance: Utterance, length: int, random: np.random.Generator) -> Tensor:
        """(length,), 0 where the mel is masked: everywhere, or in one stretch."""
        context = torch.zeros(length)
        if self.default_speaker in (None, utterance.speaker) and random.random() < FULL_MASK_SHARE:
            return context
        masked = round(random.uniform(self.shortest_mask, 1.0) * length)
        start = int(random.integers(length - masked + 1))
        if self.prompted_share and random.random() < self.prompted_share:
            start = length - masked
        context[:start] = 1
        context[start + masked :] = 1
        return context

    def _example(self, utterance: Utterance) -> tuple[Tensor, Tensor]:
        """Units per frame (M,) and log-mel (n_feats, M), made once and kept: 50 MB an hour, up to `KEPT_BYTES`."""
        if (example := self._examples.get(utterance.id)) is None:
            samples = utterance.read(self.decoder.mel.sample_rate).samples
            frames = units_per_frame(self.units[utterance.id], self.decoder.unit_rate, self.decoder.mel)
            with torch.no_grad():
                mel = self.mel(samples[None])[0]
            if abs(len(frames) - mel.shape[1]) > LENGTH_TOLERANCE * self.decoder.mel.frame_rate:
                raise InputError(
                    f"{utterance.id}: {mel.shape[1]} mel frames but units for {len(frames)}; "
                    "extract the units of this corpus again"
                )
            length = min(len(frames), mel.shape[1])
            example = frames[:length].to(torch.int32), mel[:, :length].half()
            if self._kept < KEPT_BYTES:
                self._examples[utterance.id] = example
                self._kept += sum(part.nbytes for part in example)
        return example


def _decoder(config: UnitDecoderConfig, init_from: str | Path | None) -> UnitDecoder:
    if init_from is None:
        return UnitDecoder(config)
    decoder = UnitDecoder.from_pretrained(init_from)
    if replace(decoder.config, estimate=config.estimate) != config:
        raise InputError(f"init_from={init_from} is a decoder of another kind: {decoder.config}, wanted is {config}")
    decoder.config = config  # from zeros and in one step, velocity and mel are the same: each goes on from the other
    return decoder.train()
