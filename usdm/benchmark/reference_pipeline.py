"""The published procedure on any system's weights: what this package's own chain is measured against.

As the published script has it (USDM, arXiv 2402.05706): the whole recording is encoded once it has ended; every
stage is a `generate` call of its own that reads the whole prompt again; what a stage may not write is a list of
ids; between the calls text is decoded, put into the template and tokenized again; 50-step Heun with guidance 1
makes the mel of the whole reply, in 49 evaluations of a batch of two; one recording at a time.

Two things are as this package has them, so that both give the same answer. Greedy stages take the likeliest id;
the script draws from the one likeliest, which differs only where several are equally likely. And where a text,
tokenized again, has other ids than the model wrote, the reply goes on from the ids that it wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from usdm.audio import resample
from usdm.chain import Components, DecoderSampling
from usdm.chain.stages import timed
from usdm.lm import Generated, check_sampling, in_transformers, max_positions
from usdm.tokens import DialogTemplate, TurnContent
from usdm.tokens.layout import Words
from usdm.tokens.vocabulary import unit_token
from usdm.types import InputError, ReferenceVoice, Sampling, SpokenReply, Waveform

REFERENCE_DECODER = DecoderSampling(steps=50, solver="heun", guidance=1.0, temperature=1.0)


@dataclass(frozen=True)
class ReferenceReply(SpokenReply):
    """A reply of the published procedure."""

    changed: tuple[str, ...] = ()  # stages whose text, tokenized again, has other ids than the model wrote


@torch.inference_mode()
def reference_respond(
    parts: Components,
    question: Waveform,
    *,
    sampling: Mapping[str, Sampling] | None = None,
    reference: ReferenceVoice | None = None,
    layout: str | None = None,
    seed: int = 0,
) -> ReferenceReply:
    """Answer a recording as the published script does.

    `sampling` by stage, greedy where it has none; `reference` a voice to speak in; `layout` None is the
    checkpoint's own; `seed` is the decoder's. What lies between two stages counts for the later one. Raises
    InputError for a layout without a recording to read, and for a sequence that outgrows the model's positions.
    """
    timings: dict[str, float] = {}
    template, tokenizer = parts.template, parts.template.vocabulary.tokenizer.backend_tokenizer
    with timed(timings, "units"):
        (units,) = parts.units([resample(question.samples, question.sample_rate, parts.units.sample_rate)])
    content = TurnContent(user_units=units)
    ids: list[int] = []
    tail = 0  # ids at the end that were written by the stage before, and the wording that follows them
    written_before: str | None = None
    truncated, changed = [], []
    for stage in template.layout(layout).stages:
        with timed(timings, stage):
            tokenized = tokenizer.encode(turn_so_far(template, content, stage, layout)).ids
            if written_before is None:
                ids = template.prompt(stage, content, layout=layout)
            else:
                following = template.following(written_before, layout)
                ids += following
                if tokenized[-tail - len(following) :] != ids[-tail - len(following) :]:
                    changed.append(written_before)
            generated = _generate(parts, ids, stage, layout, (sampling or {}).get(stage, Sampling()))
            content = _with(content, template, template.layout(layout).slot_of(stage), generated.ids)
        ids += generated.ids
        written_before, tail = stage, len(generated.ids)
        if not generated.stopped:
            truncated.append(stage)
    sound = None
    if content.agent_units is not None and len(content.agent_units):
        sound = _sound(parts, content.agent_units, reference, seed, timings)
    return ReferenceReply(
        user_units=units,
        user_text=content.user_text,
        agent_text=content.agent_text,
        agent_units=content.agent_units,
        waveform=sound,
        sample_rate=parts.speech.sample_rate,
        timings=timings,
        truncated=tuple(truncated),
        changed=tuple(changed),
    )


def turn_so_far(template: DialogTemplate, content: TurnContent, stage: str, layout: str | None = None) -> str:
    """The turn up to what `stage` emits as one string, units by their tokens' names. Raises InputError for
    content that is missing."""
    turn = template.settings.preamble
    for part in template.layout(layout).parts:
        if isinstance(part, Words):
            turn += part.text
        elif getattr(part, "stage", None) == stage:
            break
        elif (value := getattr(content, part.slot)) is None:
            raise InputError(f"layout={layout}: it begins with {part.slot}, and only a recording is given")
        else:
            turn += value if isinstance(value, str) else "".join(map(unit_token, value.tolist()))
    return turn


def _generate(parts: Components, ids: Sequence[int], stage: str, layout: str | None, sampling: Sampling) -> Generated:
    """One `generate` call of `transformers` on the whole prompt."""
    check_sampling(sampling)
    model, template = in_transformers(parts.llm), parts.template
    room = (max_positions(model) or len(ids) + sampling.max_new_tokens) - len(ids)
    if room < 1:
        raise InputError(f"the sequence has {len(ids)} ids, which fill the model: give a shorter recording")
    stop = template.stop_id(stage, layout)
    input_ids = torch.tensor([ids], device=model.device)
    options: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        options = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        options["top_k"] = sampling.top_k or len(template.vocabulary)
    if sampling.repetition_penalty != 1.0:
        penalty = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty, prompt_ignore_length=len(ids))
        options["logits_processor"] = LogitsProcessorList([penalty])
    if sampling.num_beams > 1:  # probabilities of what is allowed, as here
        options |= {"num_beams": sampling.num_beams, "early_stopping": True, "renormalize_logits": True}
    generate: Any = model.generate
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(sampling.seed)
        output: Tensor = generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=min(sampling.max_new_tokens, room),
            bad_words_ids=forbidden_ids(template.allowed(stage, layout)),
            eos_token_id=stop,
            pad_token_id=template.vocabulary.pad_id,
            **options,
        )
    written = output[0, len(ids) :].tolist()
    stopped = written[-1] == stop
    return Generated(written[:-1] if stopped else written, stopped)


def forbidden_ids(allowed: Tensor) -> list[list[int]]:
    """(V,) bool -> what is not allowed, as `bad_words_ids` has it."""
    return [[id_] for id_ in torch.nonzero(~allowed)[:, 0].tolist()]


def _with(content: TurnContent, template: DialogTemplate, slot: str, ids: list[int]) -> TurnContent:
    vocabulary = template.vocabulary
    new: Any = vocabulary.decode_units(ids) if slot.endswith("units") else vocabulary.decode_text(ids)
    return replace(content, **{slot: new})


def _sound(
    parts: Components, units: Tensor, reference: ReferenceVoice | None, seed: int, timings: dict[str, float]
) -> Tensor:
    """(U,) units -> (T,) sound."""
    generator = torch.Generator().manual_seed(seed)
    settings: dict[str, Any] = asdict(REFERENCE_DECODER)
    with timed(timings, "decode"):
        mel = parts.flow_matching.decoder.generate(units, reference=reference, generator=generator, **settings)
        if mel.is_cuda:
            torch.cuda.synchronize(mel.device)
    with timed(timings, "vocode"):
        return parts.flow_matching.vocoder(mel[None])[0].float().cpu()
