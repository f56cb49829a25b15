"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.5, 0.8, 1.2, 2.0, 5.0)


class Metrics:
    """Of one server: each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Gauge("usdm_sessions", "sessions that are open", registry=self.registry)
        self.refused = Counter(
            "usdm_refused", "connections and requests that were refused", ["why"], registry=self.registry
        )
        self.turns = Counter("usdm_turns", "turns that were heard", registry=self.registry)
        self.responses = Counter("usdm_responses", "replies that have ended", ["status"], registry=self.registry)
        self.interruptions = Counter("usdm_interruptions", "replies that were cut off", registry=self.registry)
        self.failures = Counter("usdm_failures", "replies that failed", registry=self.registry)
        self.errors = Counter("usdm_errors", "error events", ["code"], registry=self.registry)
        self.written = Gauge("usdm_written", "replies and transcripts on the batch", registry=self.registry)
        self.first_sound = Histogram(
            "usdm_first_sound_seconds",
            "from the end of a turn, as it was detected, to the first sound of its reply",
            buckets=SECONDS,
            registry=self.registry,
        )
