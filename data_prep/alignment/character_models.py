"""CTC models with letters or word pieces: any of the Hugging Face hub, and torchaudio's MMS forced aligner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from data_prep.alignment.spelling import Spelling, letters, said
from usdm.runs import split_revision
from usdm.types import InputError
from usdm.units.hub import quiet


class HubCtc:
    """`transformers.AutoModelForCTC` with its tokenizer and feature extractor (wav2vec 2.0, HuBERT, Parakeet, ...).

    A vocabulary of single characters is spelled letter by letter, with the model's word delimiter between words; any
    other is left to its tokenizer (word pieces; phones, where the tokenizer finds them).

    Args:
        model: name on the hub, with @REVISION if need be, or folder.
        language: for words of numbers (an ISO code that num2words knows).

    Raises:
        InputError: the model or one of its files cannot be had.
    """

    def __init__(self, model: str, *, language: str = "en", device: str = "cpu") -> None:
        from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

        try:
            repository, revision = split_revision(model)
            with quiet():
                self.tokenizer = AutoTokenizer.from_pretrained(repository, revision=revision)
                self.features = AutoFeatureExtractor.from_pretrained(repository, revision=revision)
                loaded = AutoModelForCTC.from_pretrained(repository, revision=revision, use_safetensors=True)
            self.model = loaded.to(device).eval()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{model}: no CTC model with tokenizer and feature extractor ({error})") from error
        self.language, self.device = language, device
        self.sample_rate: int = self.features.sampling_rate
        self.blank: int = self.model.config.pad_token_id
        self._symbols: Mapping[str, int] = self.tokenizer.get_vocab()
        special = set(self.tokenizer.all_special_tokens)
        self._by_letter = all(len(symbol) == 1 for symbol in set(self._symbols) - special)
        self.delimiter: int | None = (
            getattr(self.tokenizer, "word_delimiter_token_id", None) if self._by_letter else None
        )
        self.frame_samples = self._frame_samples()

    def spell(self, words: Sequence[str]) -> list[Spelling]:
        return [self._spell(word) for word in words]

    def _spell(self, word: str) -> Spelling:
        if self._by_letter:
            known, unknown = letters(word, self._knows, self.language)
            return Spelling(tuple(self._symbols[letter] for letter in known), unknown)
        spoken, strange = said(word, self.language), (self.tokenizer.unk_token_id, self.blank)
        # Pieces are of one case: a word in another falls apart into letters, or has no pieces at all.
        written: list[list[int]] = [
            self.tokenizer(form, add_special_tokens=False).input_ids
            for form in dict.fromkeys((spoken, spoken.lower(), spoken.upper()))
        ]
        ids = min(written, key=lambda ids: (bool(set(ids) & set(strange)), len(ids)))
        return Spelling(tuple(i for i in ids if i not in strange), word if set(ids) & set(strange) else "")

    def _knows(self, letter: str) -> bool:
        return letter in self._symbols and self._symbols[letter] not in (self.blank, self.delimiter)

    def name(self, symbol: int) -> str:
        return ""

    @torch.inference_mode()
    def log_probs(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Without masks (group norm) a model hears the padding of a shorter row: rows then go alone."""
        rows = [waveform.numpy() for waveform in waveforms]
        if not self.features.return_attention_mask or not hasattr(self.model, "_get_feat_extract_output_lengths"):
            inputs = [self.features(row, sampling_rate=self.sample_rate, return_tensors="pt") for row in rows]
            return [self.model(**row.to(self.device)).logits[0].float().log_softmax(-1) for row in inputs]
        batch = self.features(rows, sampling_rate=self.sample_rate, padding=True, return_tensors="pt").to(self.device)
        frames = self.model._get_feat_extract_output_lengths(batch["attention_mask"].sum(-1)).tolist()
        logits = self.model(**batch).logits.float().log_softmax(-1)
        return [row[:count] for row, count in zip(logits, frames, strict=True)]

    def _frame_samples(self) -> int:
        """By trial, whatever the front end: how many frames four seconds more make."""
        short, long = (self.log_probs([torch.zeros(seconds * self.sample_rate)])[0] for seconds in (4, 8))
        return round(4 * self.sample_rate / (len(long) - len(short)))


class TorchaudioCtc:
    """A model of torchaudio's alignment bundles: (B, T) -> log-probabilities (B, F, V) and lengths.

    Args:
        dictionary: letter -> symbol; "-" is the blank, "*" (anything) is not used.
    """

    delimiter: int | None = None

    def __init__(
        self, model: nn.Module, dictionary: Mapping[str, int], *, sample_rate: int, language: str, device: str
    ) -> None:
        self.model = model.to(device).eval()
        self.sample_rate, self.language, self.device = sample_rate, language, device
        self._symbols = {letter: symbol for letter, symbol in dictionary.items() if letter not in "-*"}
        self.blank = dictionary["-"]
        short, long = (self.log_probs([torch.zeros(seconds * sample_rate)])[0] for seconds in (4, 8))
        self.frame_samples = round(4 * sample_rate / (len(long) - len(short)))

    def spell(self, words: Sequence[str]) -> list[Spelling]:
        found = [letters(word, self._symbols.__contains__, self.language) for word in words]
        return [Spelling(tuple(self._symbols[letter] for letter in known), unknown) for known, unknown in found]

    def name(self, symbol: int) -> str:
        return ""

    @torch.inference_mode()
    def log_probs(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """One by one: the bundle's model normalises all rows of a batch as one."""
        outputs = [self.model(waveform[None].to(self.device))[0][0] for waveform in waveforms]
        return [output.float().log_softmax(-1) for output in outputs]


def mms_forced_aligner(*, language: str = "en", device: str = "cpu") -> TorchaudioCtc:
    """`torchaudio.pipelines.MMS_FA` (Pratap et al. 2023, "Scaling speech technology to 1,000+ languages"): romanised
    letters of over 1,000 languages; 1.2 GB, downloaded when first used.

    Raises:
        InputError: the weights cannot be downloaded.
    """
    from torchaudio.pipelines import MMS_FA

    try:
        model = MMS_FA.get_model(with_star=False)
    except OSError as error:
        raise InputError(f"the weights of MMS_FA cannot be downloaded ({error}); choose another aligner") from error
    dictionary = MMS_FA.get_dict(star=None)
    return TorchaudioCtc(model, dictionary, sample_rate=int(MMS_FA.sample_rate), language=language, device=device)
