"""OpenTelemetry: each job as a span with its waits and tries, and the figures as metrics.

    observer     takes events on the event loop, and works on them in a thread
    recorder     makes spans and metrics of them
    exporting    the SDK with the exporters that the variables name
    scraping     the metrics in Prometheus' form, for who serves them

An extra (``inference-mcp[otel]``), off and unimported unless one of OpenTelemetry's own
variables names an exporter or an endpoint, or the metrics are served; all else about the export
is set by its variables too. Above is ``server``; below are ``observe``, whose events this
listens to, and the log. Nothing here knows MCP, LocalAI's client or a job's content: what is
sent are names, numbers and error codes, never a text, a path, a key or a picture.

This module is all that is loaded where nothing is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from inference_mcp.logs import log

if TYPE_CHECKING:
    from inference_mcp.telemetry.observer import Telemetry

__all__ = ["INSTALL", "asked_for", "open_telemetry", "why_not_scraped"]

INSTALL = "pip install 'inference-mcp[otel]'"
"""What a warning says where something is missing."""


def asked_for(environ: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
    """The exporters' names of each signal that the environment asks for; empty: there is none.

    A signal without an exporter of its own goes to ``otlp`` where an endpoint is set.
    """
    found: dict[str, tuple[str, ...]] = {}
    if _is_disabled(environ):
        return found
    for signal in ("TRACES", "METRICS"):
        endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
        usual = "otlp" if any(environ.get(name, "").strip() for name in endpoints) else ""
        said = environ.get(f"OTEL_{signal}_EXPORTER", "").strip() or usual
        names = (name.strip().lower() for name in said.split(","))
        if exporters := tuple(name for name in names if name not in ("", "none")):
            found[signal.lower()] = exporters
    return found


def why_not_scraped(environ: Mapping[str, str]) -> str | None:
    """Why there can be no metrics in Prometheus' form, and what to do; ``None``: there can."""
    if _is_disabled(environ):
        return "OTEL_SDK_DISABLED turns the metrics off. Unset it, then start the server again."
    if not _is_installed("opentelemetry.exporter.prometheus"):
        return f"The metrics need OpenTelemetry: {INSTALL}, then start the server again."
    return None


def open_telemetry(
    environ: Mapping[str, str], base_url: str, version: str, *, scraped: bool = False
) -> Telemetry | None:
    """The observer that the environment asks for; ``base_url`` is LocalAI's.

    ``scraped``: the metrics are wanted in Prometheus' form too, where they can be had.
    ``None`` where nothing is wanted, or, after a warning in the log, the extra is not installed.
    """
    wanted = asked_for(environ)
    scraped = scraped and why_not_scraped(environ) is None
    if not (wanted or scraped):
        return None
    from functools import partial

    if not _is_installed("opentelemetry.sdk"):
        problem = "OpenTelemetry's variables ask for an export, but its SDK is not installed."
        log("warning", "telemetry.off", problem=problem, next_step=INSTALL)
        return None
    from inference_mcp.telemetry.exporting import opened
    from inference_mcp.telemetry.observer import Telemetry

    return Telemetry(partial(opened, wanted, environ, base_url, version, scraped), scraped=scraped)


def _is_disabled(environ: Mapping[str, str]) -> bool:
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _is_installed(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ImportError:  # what it lies in is not installed
        return False
