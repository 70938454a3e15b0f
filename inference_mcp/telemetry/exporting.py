"""OpenTelemetry's SDK with the exporters that its variables name.

Everything else (endpoint, headers, protocol, sampling, intervals, the service's name) the SDK
reads from its variables itself. Nothing global is set, so what others record in this process is
not sent along. Above is ``observer``, in whose thread all of this is imported and made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from inference_mcp.logs import log
from inference_mcp.telemetry import INSTALL
from inference_mcp.telemetry.observer import Expose, Opened

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["QUIET_S", "Seldom", "opened"]

QUIET_S = 600.0
"""How often the SDK may say the same in the log: a collector may be down for days."""

_PROTOCOLS = {"": "otlp_proto_http", "http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""The exporter of each value of ``OTEL_EXPORTER_OTLP_PROTOCOL``."""


def opened(
    wanted: Mapping[str, tuple[str, ...]],
    environ: Mapping[str, str],
    base_url: str,
    version: str,
    scraped: bool = False,
) -> Opened | None:
    """The SDK with the exporters that were asked for; ``None`` if there is none of them."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import NoOpTracer

    from inference_mcp.telemetry.recorder import Recorder
    from inference_mcp.telemetry.scraping import scraping

    exporters: list[SpanExporter] = list(_made("traces", wanted, environ))
    readers = [_reader(made) for made in _made("metrics", wanted, environ)]
    expose: Expose | None = None
    if scraped:
        reader, expose = scraping()
        readers.append(reader)
    if not (exporters or readers):
        return None
    resource = _resource(version)
    # Its own end would wait 30 s for a collector that is down.
    traces = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        traces.add_span_processor(BatchSpanProcessor(exporter))
    metrics = MeterProvider(readers, resource, shutdown_on_exit=False)
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith("opentelemetry."):
            logging.getLogger(name).addFilter(Seldom())
    tracer = traces.get_tracer("inference_mcp", version) if exporters else NoOpTracer()
    recorder = Recorder(tracer, metrics.get_meter("inference_mcp", version), base_url)

    def flush() -> None:
        traces.force_flush()
        metrics.force_flush()

    return Opened(recorder, flush, expose)


def _made(
    signal: str, wanted: Mapping[str, tuple[str, ...]], environ: Mapping[str, str]
) -> Iterator[Any]:
    """An exporter for each name, as packages offer them to OpenTelemetry; or a warning."""
    from importlib.metadata import entry_points

    variable = f"OTEL_{signal.upper()}_EXPORTER"
    for name in wanted.get(signal, ()):
        if name == "console":
            problem = f"{variable} names console, which writes to stdout; that is the protocol's."
            log("warning", "telemetry.off", problem=problem, next_step="Use otlp.")
            continue
        known = _otlp(signal, environ) if name == "otlp" else name
        found = entry_points(group=f"opentelemetry_{signal}_exporter", name=known)
        if not found:
            problem = f"The {signal} exporter or its protocol that is asked for is not installed."
            log("warning", "telemetry.off", problem=problem, next_step=f"For OTLP/HTTP: {INSTALL}")
        for each in found:
            yield each.load()()


def _otlp(signal: str, environ: Mapping[str, str]) -> str:
    """The name of the exporter for the protocol that is set, which by default is HTTP."""
    general = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip()
    protocol = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "").strip() or general
    return _PROTOCOLS.get(protocol.lower(), "")


def _reader(made: Any) -> MetricReader:
    """What an entry point gave: some readers (Prometheus') deliver by themselves."""
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

    return made if isinstance(made, MetricReader) else PeriodicExportingMetricReader(made)


def _resource(version: str) -> Resource:
    """This server, under the name and with what else the variables give it.

    Each process is an instance of its own: hosts start several, whose metrics must not mix.
    """
    import uuid

    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours = {"service.name": "inference-mcp", "service.version": version}
    ours["service.instance.id"] = str(uuid.uuid4())
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})


class Seldom(logging.Filter):
    """Lets a logger say the same thing once in ``QUIET_S``."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it has not been said lately."""
        if len(self._told) > 100:  # texts that never repeat
            self._told.clear()
        now, text = time.monotonic(), str(record.msg)
        if now - self._told.get(text, -QUIET_S) < QUIET_S:
            return False
        self._told[text] = now
        return True
