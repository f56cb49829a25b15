"""Training of a small unit encoder: frame-wise phones on a middle layer, CTC phones on top.

The published encoder learnt from 436,000 hours without labels. A toy encoder has minutes, but a synthesised corpus
knows its phone times: cross-entropy on the layer that the units will be taken from teaches it directly which
differences matter, and CTC above it lets recordings without phone times teach as well.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from usdm.audio.augmentation import SoundAugmentation
from usdm.checkpoint import make_readable
from usdm.data.speech_corpus import Utterance
from usdm.data.utterance_index import UtteranceIndex
from usdm.training.loop import training_device
from usdm.training.task import TrainingTask
from usdm.types import AlignedWord, InputError
from usdm.units.encoder import encoder_class, encoder_config, is_log_mel
from usdm.units.extractor import keep_layers, pad_normalised
from usdm.units.whisper import start_from_whisper

SAMPLE_RATE = 16_000  # Hz
NO_LABEL = -100  # what cross-entropy ignores
PHONES_FILE = "phones.json"  # beside the encoder: what its phone head knows
SILENCE = "pau"  # flite's name for a pause


@dataclass(frozen=True)
class EncoderBatch:
    waveforms: list[Tensor]  # each (T,) float32
    frame_labels: Tensor  # (B, U, labels_per_unit) int64, NO_LABEL where not known
    phones: list[Tensor]  # each (N,) int64, CTC targets (0 is the blank); empty where not known

    def to(self, device: str) -> EncoderBatch:
        return EncoderBatch(
            [waveform.to(device) for waveform in self.waveforms],
            self.frame_labels.to(device),
            [phones.to(device) for phones in self.phones],
        )


@dataclass(frozen=True)
class EncoderOutput:
    frames: Tensor  # (B, U, labels_per_unit, P) logits
    ctc: Tensor  # (B, U, 1 + P) logits
    units: Tensor  # (B,) true numbers of units
    lower: tuple[Tensor, ...]  # (B, U, D) each, from the layers below the units'


class PhoneEncoder(nn.Module):
    """An encoder with a frame-wise head on `layer` and a CTC head on the last layer."""

    def __init__(self, config: PreTrainedConfig, layer: int, num_phones: int, labels_per_unit: int) -> None:
        super().__init__()
        self.layer, self.labels_per_unit = layer, labels_per_unit
        self.encoder = encoder_class(config.model_type)(config)
        self.frame_head = nn.Linear(config.hidden_size, labels_per_unit * num_phones)
        self.ctc_head = nn.Linear(config.hidden_size, 1 + num_phones)

    def forward(self, batch: Tensor, lengths: Tensor) -> EncoderOutput:
        """Padded (B, T) and (B,) samples."""
        mask = torch.arange(batch.shape[1], device=batch.device)[None] < lengths[:, None]
        output = self.encoder(batch, attention_mask=mask.long(), output_hidden_states=True)
        features = output.hidden_states[self.layer + 1]
        if is_log_mel(self.encoder.config):  # as the features that units are drawn from
            features = functional.layer_norm(features, features.shape[-1:])
        return EncoderOutput(
            frames=self.frame_head(features).unflatten(-1, (self.labels_per_unit, -1)),
            ctc=self.ctc_head(output.last_hidden_state),
            units=self.encoder._get_feat_extract_output_lengths(lengths),
            lower=output.hidden_states[1 : self.layer + 1],
        )


@dataclass(frozen=True)
class WhisperStart:
    """Recordings are few and Whisper has heard everybody, so an encoder may begin as Whisper's, and stay near it.

    Args:
        name: hub name or folder of a Whisper model.
        teacher_weight: of one minus the cosine between the layers below the units' and what they gave in the
            beginning, against 1 for the frames; 0: they may go anywhere.
        frozen_layers: so many layers, and the convolutions, do not learn; 0: everything learns.
    """

    name: str | Path
    teacher_weight: float
    frozen_layers: int


class EncoderTask(TrainingTask):
    """Task of `usdm.training.loop.train`.

    Args:
        corpora: speech corpus folders; utterances with neither phone times nor a pronunciation are not used.
        config: arguments of `transformers.Wav2Vec2Config`, or, with `model_type` "log-mel", of `LogMelConfig`.
        layer: 0-based layer that the units will be taken from.
        padding: samples of silence around each waveform (see `UnitSettings.padding`).
        labels_per_unit: phone labels that each unit predicts, evenly spaced in its time.
        batch_seconds: sound in a batch; utterances of like length go together.
        ctc_weight: of the CTC loss, against 1 for the frames.
        validation_utterances: of split "dev".
        augmentation: of training sound, drawn anew each time it is read; None leaves it as it is.
        repeats: how often an epoch hears the utterances of a corpus, one number for each of `corpora`; None: once.
        initial: folder of an earlier run on the same phones, from whose averaged weights this one starts.
        whisper: a log-mel encoder begins as Whisper's; with `init_from`, that run did.
        without_speakers: leaves these speakers out, so that a voice can be kept unseen.
        device: of the encoder; "cuda" is each process' own GPU.

    Raises:
        InputError: no utterance has labels, `repeats` is not a number for each corpus, or `init_from` is of another
            size or other phones, `whisper` does not fit, or the config drops layers.
    """

    def __init__(
        self,
        corpora: Sequence[str | Path],
        config: Mapping[str, object],
        *,
        layer: int,
        padding: int,
        labels_per_unit: int = 2,
        batch_seconds: float = 40.0,
        ctc_weight: float = 0.3,
        validation_utterances: int = 60,
        augmentation: SoundAugmentation | None = None,
        repeats: Sequence[int] | None = None,
        init_from: str | Path | None = None,
        whisper: WhisperStart | None = None,
        without_speakers: Sequence[str] = (),
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if repeats is not None and len(repeats) != len(corpora):
            raise InputError(f"repeats={list(repeats)} for {len(corpora)} corpora: give a number for each.")
        self.layer, self.padding, self.labels_per_unit = layer, padding, labels_per_unit
        self.batch_seconds, self.ctc_weight, self.seed = batch_seconds, ctc_weight, seed
        self.augmentation, self.device = augmentation, training_device(device)
        names: set[str] = set()
        self.train_set = UtteranceIndex.joined(
            [
                index
                for corpus, times in zip(corpora, repeats or [1] * len(corpora), strict=True)
                for index in [_labelled([corpus], "train", without_speakers, names)] * times
            ]
        )
        dev_set = _labelled(corpora, "dev", without_speakers, set())
        self.dev_set = dev_set.take(slice(None, None, max(1, len(dev_set) // validation_utterances)))
        self.phone_ids = {name: index for index, name in enumerate([SILENCE, *sorted(names - {SILENCE})])}
        torch.manual_seed(seed)
        settings = encoder_config({"model_type": "wav2vec2", **config}, "config")
        if settings.layerdrop:
            raise InputError(f"layerdrop={settings.layerdrop} leaves out layers, and units have theirs: set it to 0.")
        self.model = PhoneEncoder(settings, layer, len(self.phone_ids), labels_per_unit).to(self.device)
        self.whisper = whisper
        self.teacher = None if whisper is None else self._begin_as(whisper)
        if init_from is not None:
            self.model.load_state_dict(_averaged(Path(init_from) / "checkpoint.pt", self.model))
        self.unit_samples = int(np.prod(self.model.encoder.config.conv_stride))
        self._epoch = -1
        self._batches: list[list[int]] = []  # numbers in the training set
        self._first_step = 0

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def _begin_as(self, whisper: WhisperStart) -> PreTrainedModel | None:
        """Whisper's weights into the encoder. Returns the teacher, if there is to be one."""
        encoder = self.model.encoder
        if not is_log_mel(encoder.config):
            raise InputError(f"whisper={whisper.name} starts encoders of model_type log-mel: set encoder.model_type.")
        if whisper.teacher_weight and self.layer == 0:
            raise InputError(
                f"teacher_weight={whisper.teacher_weight} is of the layers below the units', and 0 has none below: "
                "set it to 0, or take the units from a higher layer."
            )
        start_from_whisper(encoder, whisper.name)
        teacher = copy.deepcopy(encoder).eval().requires_grad_(False) if whisper.teacher_weight else None
        if whisper.frozen_layers:
            for part in (encoder.feature_extractor, *encoder.encoder.layers[: whisper.frozen_layers]):
                part.requires_grad_(False)
        return teacher

    def batch(self, step: int) -> EncoderBatch:
        if self._epoch < 0 or not self._first_step <= step < self._first_step + len(self._batches):
            self._open_epoch_of(step)
        random = np.random.default_rng((self.seed, step, 1)) if self.augmentation else None
        return self._read([self.train_set[number] for number in self._batches[step - self._first_step]], random)

    def losses(self, batch: EncoderBatch, generator: torch.Generator) -> dict[str, Tensor]:
        waveforms, lengths = pad_normalised(batch.waveforms, self.padding)
        output: EncoderOutput = self.model(waveforms, lengths)
        labels = _fit(batch.frame_labels, output.frames.shape[1])
        frame_loss = functional.cross_entropy(output.frames.flatten(0, 2), labels.flatten(), ignore_index=NO_LABEL)
        known = (labels != NO_LABEL).sum()
        if known == 0:
            frame_loss = output.frames.sum() * 0.0
        ctc_loss = self._ctc(output.ctc, output.units, batch.phones)
        losses = {"loss": frame_loss + self.ctc_weight * ctc_loss, "frame": frame_loss, "ctc": ctc_loss}
        if self.whisper is not None and self.teacher is not None:
            losses["teacher"] = self._unlike(self.teacher, waveforms, lengths, output)
            losses["loss"] = losses["loss"] + self.whisper.teacher_weight * losses["teacher"]
        return losses

    def _unlike(self, teacher: PreTrainedModel, waveforms: Tensor, lengths: Tensor, output: EncoderOutput) -> Tensor:
        """One minus the cosine between layer-normalised frames of the lower layers and the teacher's, on average."""
        mask = torch.arange(waveforms.shape[1], device=waveforms.device)[None] < lengths[:, None]
        with torch.no_grad():
            taught = teacher(waveforms, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        heard = torch.arange(output.frames.shape[1], device=waveforms.device)[None] < output.units[:, None]
        distances = []
        for ours, theirs in zip(output.lower, taught[1:], strict=False):
            one, other = (functional.layer_norm(hidden[heard], hidden.shape[-1:]) for hidden in (ours, theirs))
            distances.append(1 - functional.cosine_similarity(one, other, dim=-1).mean())
        return torch.stack(distances).mean()

    def validate(self, step: int, folder: Path) -> dict[str, float]:
        """Share of frames whose phone is right, and phone error rate of the CTC head."""
        right = known = errors = phones = 0
        for start in range(0, len(self.dev_set), 8):
            batch = self._read(list(self.dev_set.take(slice(start, start + 8))))
            output: EncoderOutput = self.model(*pad_normalised(batch.waveforms, self.padding))
            labels = _fit(batch.frame_labels, output.frames.shape[1])
            mask = labels != NO_LABEL
            right += int((output.frames.argmax(-1)[mask] == labels[mask]).sum())
            known += int(mask.sum())
            for row, length, target in zip(output.ctc.argmax(-1), output.units.tolist(), batch.phones, strict=True):
                errors += _edit_distance(_collapse(row[:length]), target.tolist())
                phones += len(target)
        return {"frame_accuracy": right / max(1, known), "phone_error_rate": errors / max(1, phones)}

    def save(self, folder: Path) -> None:
        """The encoder up to its unit layer in transformers' layout, for k-means; its phone head, for `usdm align`."""
        encoder = copy.deepcopy(self.model.encoder)
        keep_layers(encoder, self.layer + 1).save_pretrained(folder)
        head = self.model.frame_head
        save_file(
            {"weight": head.weight.detach().contiguous(), "bias": head.bias.detach()}, folder / "phones.safetensors"
        )
        make_readable(folder)
        settings = {"phones": list(self.phone_ids), "labels_per_unit": self.labels_per_unit, "padding": self.padding}
        (folder / PHONES_FILE).write_text(json.dumps(settings, indent=1) + "\n")

    def _open_epoch_of(self, step: int) -> None:
        """Batches depend on (seed, epoch) alone, so any step can be opened first."""
        epoch, first = 0, 0
        while True:
            batches = self._epoch_batches(epoch)
            if step < first + len(batches):
                break
            epoch, first = epoch + 1, first + len(batches)
        self._epoch, self._first_step, self._batches = epoch, first, batches

    def _epoch_batches(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng((self.seed, epoch))
        jitter = random.uniform(0.9, 1.1, len(self.train_set))  # so that an epoch's neighbours differ from the last's
        durations = self.train_set.durations
        batches: list[list[int]] = [[]]
        longest = 0.0
        for number in np.argsort(durations * jitter, kind="stable").tolist():
            longest = max(longest, durations[number])
            if batches[-1] and longest * (len(batches[-1]) + 1) > self.batch_seconds:
                batches.append([])
                longest = durations[number]
            batches[-1].append(number)
        random.shuffle(batches)
        return batches

    def _read(self, utterances: Sequence[Utterance], random: np.random.Generator | None = None) -> EncoderBatch:
        """With `random`, the sound is varied."""
        waveforms = [utterance.read(SAMPLE_RATE).samples for utterance in utterances]
        speeds = [1.0] * len(waveforms)
        if random is not None and self.augmentation is not None:
            varied = [self.augmentation.vary(waveform, SAMPLE_RATE, random) for waveform in waveforms]
            waveforms, speeds = [sound for sound, _ in varied], [speed for _, speed in varied]
        units = max(len(waveform) for waveform in waveforms) // self.unit_samples + 1
        labels = torch.stack(
            [self._frame_labels(u.phones, units, speed) for u, speed in zip(utterances, speeds, strict=True)]
        )
        phones = [
            torch.tensor([1 + self.phone_ids[p] for p in u.pronunciation if p in self.phone_ids]) for u in utterances
        ]
        return EncoderBatch(waveforms, labels, phones).to(self.device)

    def _frame_labels(self, phones: Sequence[AlignedWord], units: int, speed: float) -> Tensor:
        """(units, labels_per_unit): the phone at the middle of each part of each unit of sound made faster."""
        labels = torch.full((units * self.labels_per_unit,), NO_LABEL)
        seconds = self.unit_samples / SAMPLE_RATE / self.labels_per_unit
        for phone in phones:
            # Part i is centred at (i + 1/2) * seconds.
            first, last = round(phone.start / speed / seconds), round(phone.end / speed / seconds)
            labels[first:last] = self.phone_ids.get(phone.text, NO_LABEL)
        return labels.view(units, self.labels_per_unit)

    def _ctc(self, logits: Tensor, units: Tensor, phones: list[Tensor]) -> Tensor:
        """Mean over utterances of the loss a phone; utterances that are too short for their phones count as zero."""
        lengths = torch.tensor([len(target) for target in phones], device=logits.device)
        loss = functional.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1), torch.cat(phones).long(), units, lengths,
            reduction="none", zero_infinity=True,
        )  # fmt: skip
        return (loss / lengths.clamp(min=1)).mean()


def _averaged(checkpoint: Path, model: PhoneEncoder) -> dict[str, Tensor]:
    """The weights that a run of the loop would have saved."""
    if not checkpoint.is_file():
        raise InputError(f"{checkpoint} does not exist: init_from= takes the folder of an earlier run")
    try:
        average = torch.load(checkpoint, weights_only=True, map_location="cpu")["average"]
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{checkpoint}: damaged, or no checkpoint of the training loop ({error!r})") from error
    state = {name.removeprefix("model."): value for name, value in average.items()}
    own = model.state_dict()
    masked = "encoder.masked_spec_embed"  # what stands for a masked frame: only an encoder with masks has it
    earlier = state.pop(masked, own.get(masked))
    if masked in own:
        state[masked] = earlier
    names = [*own, *(name for name in state if name not in own)]
    if different := [n for n in names if n not in own or n not in state or state[n].shape != own[n].shape]:
        raise InputError(
            f"{checkpoint} is of another encoder, or other phones: {different[0]} and {len(different) - 1} more "
            "weights do not fit; start without init_from="
        )
    return state


def _labelled(
    corpora: Sequence[str | Path], split: str, without_speakers: Sequence[str], phones: set[str]
) -> UtteranceIndex:
    """One utterance for each recording that says what its phones are, whose names go into `phones`.

    Several turns may share a recording.
    """

    def is_labelled(utterance: Utterance) -> bool:
        if not utterance.pronunciation or utterance.speaker in without_speakers:
            return False
        phones.update(utterance.pronunciation)
        return True

    index = UtteranceIndex.read(corpora, split, is_labelled, once=True)
    if not len(index):
        folders = ", ".join(map(str, corpora))
        raise InputError(f"{folders}: no utterance of split {split} has a pronunciation for the encoder to learn from.")
    return index


def _fit(labels: Tensor, units: int) -> Tensor:
    """Cut or fill (B, U', n) to `units`: the last, partial unit of a waveform gets no label."""
    return functional.pad(labels[:, :units], (0, 0, 0, max(0, units - labels.shape[1])), value=NO_LABEL)


def _collapse(ids: Tensor) -> list[int]:
    return [index for index in torch.unique_consecutive(ids).tolist() if index != 0]


def _edit_distance(left: Sequence[int], right: Sequence[int]) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
