"""Spans of requests and tasks for OpenTelemetry, an extra: without the setting `log.otel` nothing of it is imported.

Where spans go is said by the standard environment: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS,
OTEL_TRACES_EXPORTER (otlp, console or none), OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dragon import __version__
from dragon.config import LogConfig
from dragon.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

FLUSH_WAIT = 2.0  # seconds that the last spans have to get away when a process ends
Attributes = Mapping[str, str | int]


class Span:
    """A span that has begun; its `traceparent` is for what happens within."""

    def __init__(self, span: OtelSpan) -> None:
        found = span.get_span_context()
        self.traceparent = f"00-{found.trace_id:032x}-{found.span_id:016x}-{int(found.trace_flags):02x}"
        self._span: OtelSpan | None = span

    def end(self, attributes: Attributes, error: str | None = None) -> None:
        """Ends it, once; `error` says why it failed."""
        span, self._span = self._span, None
        if span is None:
            return
        from opentelemetry.trace import Status, StatusCode

        span.set_attributes(dict(attributes))
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end()


class Tracing:
    """Makes the spans of one process."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("dragon", __version__)
        self._extract = TraceContextTextMapPropagator().extract
        self._kinds = {"server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER}

    def begin(self, name: str, kind: str, parent: str, attributes: Attributes) -> Span:
        """Begins a span of the kind `server` or `consumer` below `parent`, a traceparent or ""."""
        context = self._extract({"traceparent": parent} if parent else {})
        started = self._tracer.start_span(name, context, self._kinds[kind], dict(attributes))
        return Span(started)

    def close(self) -> None:
        """Sends what has not been sent yet, as far as that is possible within FLUSH_WAIT."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(FLUSH_WAIT)


def open_tracing(config: LogConfig, service: str) -> Tracing | None:
    """The spans of this process, which is called `service` unless OTEL_SERVICE_NAME says otherwise; None: not wanted.

    Raises ConfigError when OpenTelemetry is wanted and not there.
    """
    if not config.otel:
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter(os.environ.get("OTEL_TRACES_EXPORTER") or "otlp")
    except ImportError as error:
        raise ConfigError(
            f"the setting log.otel wants OpenTelemetry, which is not there ({error}): pip install 'dragon[otel]'"
        ) from None
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


def _exporter(name: str) -> Any:
    if name not in _EXPORTERS:
        raise ConfigError(f"OTEL_TRACES_EXPORTER is {name!r}, dragon knows {', '.join(_EXPORTERS)}")
    return _EXPORTERS[name]()


def _otlp() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _console() -> Any:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\n")


_EXPORTERS: dict[str, Callable[[], Any]] = {"otlp": _otlp, "console": _console, "none": lambda: None}
