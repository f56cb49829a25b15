"""A system of any size with random weights: for speed and memory, which do not depend on what was learnt.

Nothing is read or downloaded, and everything is made on its device. The language model, by far the largest, is
shaped without memory first and then filled in its own precision: no second copy, no weight drawn twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Wav2Vec2Config, Wav2Vec2Model

from usdm.audio import MelSettings
from usdm.chain.components import Components
from usdm.chain.options import LoadOptions
from usdm.chain.pipeline import SpokenDialogPipeline
from usdm.chain.settings import GenerationSettings
from usdm.decoder import UnitDecoder, UnitDecoderConfig
from usdm.lm import build_model
from usdm.tokens import LAYOUTS, DialogTemplate, SpeechTextVocabulary, TemplateSettings, extend_tokenizer
from usdm.types import InputError, Sampling
from usdm.unit_to_speech import DecoderSampling, FlowMatchingToSpeech
from usdm.units import UnitExtractor, UnitSettings
from usdm.vocoder import BigVGANVocoder, Vocoder, VocosSettings, VocosVocoder
from usdm.vocoder.bigvgan import use_fused_activation
from usdm.vocoder.bigvgan_generator import BigVGANGenerator, BigVGANSettings

SPACE = "\u2581"
SPECIAL_PIECES = ("<unk>", "<s>", "</s>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
CHARACTERS = (SPACE, *map(chr, range(ord("!"), ord("~") + 1)))
WORD_SCORE, CHARACTER_SCORE = -1.0, -20.0  # log-probabilities: few long pieces rather than many short ones


def random_pipeline(
    *,
    text_tokens: int,
    reply_seconds: float,
    sampling: DecoderSampling,
    text_size: int,
    units: UnitSettings,
    encoder: Mapping[str, Any],
    llm: Mapping[str, Any],
    decoder: UnitDecoderConfig,
    vocoder: Mapping[str, Any],
    options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> SpokenDialogPipeline:
    """A whole system whose greedy replies have a set length, the same for the same seed and device.

    Args:
        text_tokens: ids of every transcript and of every written reply.
        reply_seconds: of every spoken reply.
        sampling: how mels are drawn where a caller does not say.
        text_size: text ids, of which those of bytes, characters and the template's words mean something.
        encoder: settings of `transformers.Wav2Vec2Config`.
        llm: settings of `usdm.lm.build_model`.
        vocoder: a published BigVGAN configuration, or settings of a Vocos.

    Raises:
        InputError: an unknown setting, parts that do not fit each other, options that random weights do not have.
    """
    if options.quantization is not None or options.device_map is not None:
        raise InputError(
            f"quantization={options.quantization}, device_map={options.device_map}: random weights are made whole on "
            "one device; leave both out, or save a model and load that"
        )
    base = random_tokenizer(text_size, TemplateSettings())
    template = DialogTemplate(SpeechTextVocabulary.from_tokenizer(extend_tokenizer(base, units.num_units)))
    options = options.settled(shaped_model(template, llm, torch.float32).num_parameters())
    options.check()
    with torch.random.fork_rng([options.place] if options.on_cuda else []):
        torch.manual_seed(seed)
        parts = Components(
            units=random_extractor(encoder, units, options),
            llm=random_model(template, llm, options),
            template=template,
            speech=FlowMatchingToSpeech(random_decoder(decoder, options), random_vocoder(vocoder, options)),
        )
    lengths = {"transcribe": text_tokens, "respond": text_tokens, "speak": round(reply_seconds * units.unit_rate)}
    limits = {stage: Sampling(max_new_tokens=length) for stage, length in lengths.items()}
    return SpokenDialogPipeline(parts, {}, GenerationSettings(limits, sampling))


def random_tokenizer(text_size: int, template: TemplateSettings) -> PreTrainedTokenizerFast:
    """A tokenizer with `text_size` ids in the shape of Llama's and Mistral's, that begins sequences with <s>.

    It has the template's own words as pieces, so that prompts are about as long as a trained tokenizer makes
    them; other text falls into characters and bytes. Raises InputError if the pieces are more than `text_size`.
    """
    wording = f"{template.preamble} {template.user_heading} {template.agent_heading}"
    words = sorted({f"{before}{word}" for word in re.findall(r"[A-Za-z]{2,}", wording) for before in ("", SPACE)})
    pieces = [*SPECIAL_PIECES, *BYTES, *CHARACTERS, *words]
    if len(pieces) > text_size:
        raise InputError(f"text_size={text_size}: this template alone needs {len(pieces)} pieces; give more")
    pieces += [f"{SPACE}~{number}" for number in range(text_size - len(pieces))]
    scores = dict.fromkeys(words, WORD_SCORE)
    scored = [(piece, scores.get(piece, CHARACTER_SCORE)) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=SPECIAL_PIECES.index("<unk>"), byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def shaped_model(template: DialogTemplate, settings: Mapping[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """A language model without memory. Raises InputError as `build_model` does."""
    with torch.device("meta"):
        return build_model(template.vocabulary, **{**settings, "dtype": str(dtype).removeprefix("torch.")})


def random_model(template: DialogTemplate, settings: Mapping[str, Any], options: LoadOptions) -> PreTrainedModel:
    """A language model that, greedily, never ends a stage. Raises InputError as `build_model` does."""
    model = shaped_model(template, settings, options.dtype or torch.float32)
    model.to_empty(device=options.place)
    model.init_weights()
    if options.attention is not None:
        model.set_attn_implementation(options.attention)
    stops = {template.stop_id(stage, name) for name in LAYOUTS for stage in template.layout(name).stages}
    head: Any = model.get_output_embeddings()
    with torch.no_grad():
        head.weight[sorted(stops)] = 0.0  # their logits are 0, and the highest of thousands is above that
    return model.eval()


def random_extractor(settings: Mapping[str, Any], units: UnitSettings, options: LoadOptions) -> UnitExtractor:
    """An encoder with no more layers than are used, and centroids as wide as its output."""
    config = Wav2Vec2Config(**{**settings, "num_hidden_layers": units.layer + 1})
    with torch.device(options.place):
        encoder = Wav2Vec2Model(config)
        centroids = torch.randn(units.num_units, config.hidden_size)
    return UnitExtractor(encoder, centroids, units)


def random_decoder(config: UnitDecoderConfig, options: LoadOptions) -> UnitDecoder:
    with torch.device(options.place):
        return UnitDecoder(config).to(options.decoder_dtype).eval()


def random_vocoder(config: Mapping[str, Any], options: LoadOptions) -> Vocoder:
    """Raises InputError for settings that no vocoder has."""
    if "upsample_initial_channel" not in config:
        try:
            settings = VocosSettings(**config)
        except TypeError as error:
            raise InputError(f"vocoder: neither a BigVGAN configuration nor settings of a Vocos ({error})") from error
        return VocosVocoder(settings).to(options.place).eval()
    with torch.device(options.place):
        generator = BigVGANGenerator(BigVGANSettings.from_config(config))
    if options.vocoder_cuda_kernel:
        use_fused_activation(generator)
    return BigVGANVocoder(generator, MelSettings(num_mels=config["num_mels"])).eval()
