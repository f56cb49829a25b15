"""A server for one loaded model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from usdm.chain import SpokenDialogPipeline
from usdm.serve.engine import Engine
from usdm.serve.limits import Limits
from usdm.serve.server import Server
from usdm.serve.session import Model
from usdm.serve.settings import SessionConfig, TurnDetection
from usdm.turns import PushToTalk, Silence, TurnDetector
from usdm.turns import TurnDetection as TurnSettings


def make_server(
    pipeline: SpokenDialogPipeline,
    detection: TurnSettings,
    capacity: int = 8,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    token: str | None = None,
    chain: str | None = None,
) -> Server:
    """`detection`: of a session that asks for none itself. `capacity`: replies written at once. `chain`: as for
    `pipeline.respond`.

    Raises InputError for a capacity below 1, an unknown chain, and a detection that the model cannot do.
    """
    engine = Engine(pipeline, capacity)
    bundle = pipeline.folders["llm"].parent
    silence = detection if isinstance(detection, Silence) else Silence()

    def by_silence(wanted: TurnDetection, interrupt_ms: int) -> Callable[[], TurnDetector]:
        own = replace(
            silence,
            threshold=wanted.threshold,
            prefix_padding_ms=wanted.prefix_padding_ms,
            silence_ms=wanted.silence_duration_ms,
            interrupt_ms=interrupt_ms,
        )
        return lambda: own.detector(pipeline.parts.units, bundle)

    first = None
    if not isinstance(detection, PushToTalk):
        first = TurnDetection(
            threshold=silence.threshold,
            prefix_padding_ms=silence.prefix_padding_ms,
            silence_duration_ms=silence.silence_ms,
        )
    config = SessionConfig(turn_detection=first, interrupt_after_ms=silence.interrupt_ms)
    model = Model(
        name=bundle.name,
        voices=pipeline.voices,
        detectors={"server_vad": by_silence},
        check_text=pipeline.parts.template.check_text,
    )
    return Server(engine, model, config, limits, token, chain)
