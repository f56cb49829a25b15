"""A server for one loaded model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from usdm.chain import SpokenDialogPipeline
from usdm.lm import warm_up as warm_up_model
from usdm.serve.engine import Engine
from usdm.serve.limits import Limits
from usdm.serve.server import Server
from usdm.serve.session import Model
from usdm.serve.settings import SessionConfig, TurnDetection
from usdm.turns import HEAD_FOLDER, Silence, TurnDetector, TurnHeadRule
from usdm.turns import TurnDetection as TurnRule

# What a client's eagerness means to the turn head: from which probability, and after which silence in any case. The
# protocol has the latter.
EAGERNESS = {"low": (0.8, 8000), "medium": (0.5, 4000), "auto": (0.5, 4000), "high": (0.3, 2000)}


def make_server(
    pipeline: SpokenDialogPipeline,
    rule: TurnRule,
    capacity: int = 8,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    token: str | None = None,
    chain: str | None = None,
) -> Server:
    """`rule`: how turns are found in a session that asks for nothing else. `capacity`: replies written at once.
    `chain`: as for `pipeline.respond`.

    Raises InputError for a capacity below 1, an unknown chain, and a rule that the model lacks something for.
    """
    pipeline.chain(chain)
    engine = Engine(pipeline, capacity)
    units, bundle = pipeline.parts.units, pipeline.folders["llm"].parent
    rule.detector(units, bundle)
    silence = rule if isinstance(rule, Silence) else Silence()

    def by_silence(wanted: TurnDetection, interrupt_ms: int) -> Callable[[], TurnDetector]:
        own = replace(
            silence,
            threshold=wanted.threshold,
            prefix_padding_ms=wanted.prefix_padding_ms,
            silence_ms=wanted.silence_duration_ms,
            interrupt_ms=interrupt_ms,
        )
        return lambda: own.detector(units, bundle)

    detectors = {"server_vad": by_silence}
    head = rule if isinstance(rule, TurnHeadRule) else TurnHeadRule()
    if isinstance(rule, TurnHeadRule) or (bundle / HEAD_FOLDER).is_dir():

        def by_head(wanted: TurnDetection, interrupt_ms: int) -> Callable[[], TurnDetector]:
            own = replace(head, interrupt_ms=interrupt_ms)
            if wanted.eagerness is not None:
                over, longest = EAGERNESS[wanted.eagerness]
                own = replace(own, over=over, long_ms=longest)
            return lambda: own.detector(units, bundle)

        detectors["semantic_vad"] = by_head
    config = _first_config(rule)
    model = Model(bundle.name, pipeline.voices, detectors, pipeline.parts.template.check_text)
    return Server(engine, model, config, limits, token, chain)


def warm_up(pipeline: SpokenDialogPipeline) -> None:
    """Answer a second of noise, for nobody: libraries choose their kernels, and CUDA graphs are made, before anybody
    waits for it."""
    warm_up_model(pipeline.parts.llm)
    rate = pipeline.parts.units.sample_rate
    noise = 0.1 * torch.randn(rate, generator=torch.Generator().manual_seed(0))
    listener = pipeline.listen(rate)
    listener.push(noise)
    for _ in listener.stream():
        pass


def _first_config(rule: TurnRule) -> SessionConfig:
    """Of a session that has asked for nothing."""
    if isinstance(rule, Silence):
        detection = TurnDetection(
            threshold=rule.threshold,
            prefix_padding_ms=rule.prefix_padding_ms,
            silence_duration_ms=rule.silence_ms,
        )
        return SessionConfig(turn_detection=detection, interrupt_after_ms=rule.interrupt_ms)
    if isinstance(rule, TurnHeadRule):
        return SessionConfig(turn_detection=TurnDetection("semantic_vad"), interrupt_after_ms=rule.interrupt_ms)
    return SessionConfig()
