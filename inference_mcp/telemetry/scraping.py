"""The metrics in Prometheus' text form, by OpenTelemetry's own exporter and its names for them.

They are kept in a registry of their own: what else is registered in this process is not shown,
and nothing of ours goes where another may serve it. Above is ``exporting``, in whose thread all
of this is imported and called; whoever serves the text knows nothing of how it is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference_mcp.telemetry.observer import Expose, Exposition

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader

__all__ = ["scraping"]


def scraping() -> tuple[MetricReader, Expose]:
    """What collects the metrics, and what shows them in the form that a scraper accepts."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry)

    def expose(accept: str) -> Exposition:
        encode, content_type = choose_encoder(accept)
        return Exposition(encode(registry), content_type)

    return reader, expose
