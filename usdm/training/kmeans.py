"""`fit_kmeans`: a trained encoder and speech -> a finished unit extractor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from usdm.data.speech_corpus import Utterance
from usdm.data.utterance_index import UtteranceIndex
from usdm.runs import arguments_of, claim, write_text
from usdm.training.encoder import PHONES_FILE
from usdm.training.loop import training_device
from usdm.training.run_folder import MODEL_FOLDER, finished
from usdm.types import InputError
from usdm.units.centroids import nearest_centroid
from usdm.units.encoder import load_encoder
from usdm.units.extractor import UnitExtractor
from usdm.units.kmeans import UnitQuality, class_means, fit_centroids, unit_quality
from usdm.units.settings import UnitSettings


def fit_kmeans(
    encoder_folder: str | Path,
    corpora: Sequence[str | Path],
    output_dir: str | Path,
    *,
    settings: UnitSettings,
    frames: int,
    init_from: str | Path | None = None,
    seed: int,
    device: str = "cpu",
    overwrite: bool = False,
) -> UnitQuality:
    """Cluster encoder features of random training utterances and write the unit extractor to `output_dir/model`.

    Args:
        encoder_folder: of an encoder in transformers' layout.
        frames: how many features the centroids are fitted on.
        init_from: folder of a unit extractor with as many units at the same rate; each unit then starts at the
            mean of the frames that have it there, so that it keeps its meaning, and models that know the old
            units can learn on from there.
        device: of the encoders and of k-means; on "cpu" it is scikit-learn's.
        overwrite: delete the units of another encoder, other speech or other settings in `output_dir`.

    Returns:
        Quality of the units on dev utterances whose phone times are known; also in `quality.json`.

    Raises:
        InputError: the encoder, the settings and the predecessor do not fit together, its training padded waveforms
            otherwise, there is too little speech, or `output_dir` has other units.
    """
    given = arguments_of(fit_kmeans, locals(), but=("output_dir", "overwrite"))
    with claim(output_dir, given.settings, given.inputs, results=[MODEL_FOLDER], overwrite=overwrite) as run:
        if finished(run):
            return UnitQuality(**run.record.figures)
        model = Path(output_dir) / MODEL_FOLDER
        quality = _fit(encoder_folder, corpora, model, settings, frames, init_from, seed, device)
        run.finish(asdict(quality))
    return quality


def _fit(
    encoder: str | Path,
    corpora: Sequence[str | Path],
    folder: Path,
    settings: UnitSettings,
    frames: int,
    init_from: str | Path | None,
    seed: int,
    device: str,
) -> UnitQuality:
    _check_padding(encoder, settings)
    model = load_encoder(encoder)
    placeholder = torch.zeros(settings.num_units, model.config.hidden_size)
    device = training_device(device)
    extractor = UnitExtractor(model, placeholder, settings).to(device)
    before = None if init_from is None else _previous(init_from, settings).to(device)
    once = UtteranceIndex.read(corpora, "train", once=True)
    utterances = once.take(np.random.default_rng(seed).permutation(len(once)))
    spoken = UtteranceIndex.read(corpora, "dev", lambda utterance: bool(utterance.phones))
    if not (len(once) and len(spoken)):
        raise InputError(
            f"{', '.join(map(str, corpora))}: no utterance of split train, or none of dev that knows its phones"
        )

    gathered: list[Tensor] = []
    known: list[Tensor] = []  # the predecessor's units of these frames
    with tqdm(total=frames, unit="frame", desc="fit_kmeans: features") as progress:
        for utterance, features in _features(extractor, utterances):
            gathered.append(features.cpu())
            if before is not None:
                known.append(before([utterance.read(before.sample_rate).samples])[0])
            progress.update(len(features))
            if progress.n >= frames:
                break
    features, initial = torch.cat(gathered)[:frames], None
    if before is not None:
        initial = class_means(features, torch.cat(known)[:frames], settings.num_units, seed=seed)
    centroids = fit_centroids(features, settings.num_units, seed=seed, initial=initial, device=device)
    extractor.centroids = centroids.to(device)
    extractor.save_pretrained(folder)

    quality = unit_quality(*_units_and_phones(extractor, spoken))
    write_text(folder / "quality.json", json.dumps(asdict(quality), indent=1) + "\n")
    return quality


def _check_padding(encoder: str | Path, settings: UnitSettings) -> None:
    trained = Path(encoder) / PHONES_FILE
    if not trained.is_file():
        return  # not an encoder of `train_encoder`
    try:
        padding = json.loads(trained.read_bytes())["padding"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{trained}: damaged ({error!r}); train the encoder again") from error
    if padding != settings.padding:
        raise InputError(
            f"padding={settings.padding}, but {encoder} learnt with {padding}: set shared.encoder_padding={padding}"
        )


def _previous(folder: str | Path, settings: UnitSettings) -> UnitExtractor:
    extractor = UnitExtractor.from_pretrained(folder)
    theirs, ours = (extractor.num_units, extractor.unit_rate), (settings.num_units, settings.unit_rate)
    if theirs != ours:
        raise InputError(
            f"init_from={folder} has {theirs[0]} units at {theirs[1]} Hz, wanted are {ours[0]} at {ours[1]} Hz: a "
            "unit cannot keep its meaning; leave the predecessor out"
        )
    return extractor


@torch.inference_mode()
def _features(
    extractor: UnitExtractor, utterances: Iterable[Utterance], batch: int = 8
) -> Iterator[tuple[Utterance, Tensor]]:
    """Each utterance with its (U, D) features."""
    left = iter(utterances)
    while rows := list(islice(left, batch)):
        waveforms = [row.read(extractor.sample_rate).samples for row in rows]
        features, lengths = extractor.features(waveforms)
        for row, feature, length in zip(rows, features, lengths, strict=True):
            yield row, feature[:length]


def _units_and_phones(extractor: UnitExtractor, utterances: UtteranceIndex) -> tuple[Tensor, Tensor]:
    """Units and, at the middle of each, the phone."""
    names = {name: index for index, name in enumerate(sorted({p.text for u in utterances for p in u.phones}))}
    units, phones = [], []
    for utterance, features in _features(extractor, utterances):
        for index, unit in enumerate(nearest_centroid(features, extractor.centroids).tolist()):
            middle = (index + 0.5) / extractor.unit_rate
            spoken = next((p.text for p in utterance.phones if p.start <= middle < p.end), None)
            if spoken is not None:
                units.append(unit)
                phones.append(names[spoken])
    return torch.tensor(units), torch.tensor(phones)
