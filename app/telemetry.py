"""Logs and metrics: what an operator sees.

Logs are one line per outcome, JSON or for people, on standard error. They never carry a secret, a query string or the
content of a message: whoever adds a field keeps to that.

Metrics are made by each process against a registry of its own. Where the supervisor has set PROMETHEUS_MULTIPROC_DIR
before the process started, every process writes its numbers there and any web process answers for them all.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from app.errors import Unavailable
from app.settings import Settings, environment

MULTIPROC = "PROMETHEUS_MULTIPROC_DIR"
LONGEST_FOREIGN_LINE = 500

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


def configure_logging(settings: Settings) -> None:
    """Sets up the log lines of this process, the libraries' own ones from warning upwards included."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        structlog.configure(
            processors=[
                *shared,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(serializer=_json_bytes),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        )
    else:
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the default one prints variables: message contents
        )
        structlog.configure(
            processors=[*shared, console],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
    root = logging.getLogger()
    root.handlers[:] = [_Foreign()]
    root.setLevel(logging.WARNING)


def _json_bytes(event: structlog.typing.EventDict, default: object = None, **_: object) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)


class _Foreign(logging.Handler):
    """Passes the libraries' lines on, shortened: some of them quote what they were given."""

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()[:LONGEST_FOREIGN_LINE]
        structlog.get_logger().log(record.levelno, "library", logger=record.name, line=line)


class Metrics:
    """Every metric there is. Names begin with ``reprise_``; times are in seconds.

    Each object has a registry of its own, so that tests may have several; with ``directory`` (the value of
    PROMETHEUS_MULTIPROC_DIR) `exposition` answers for all processes that share it.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory
        registry = self._registry = CollectorRegistry()
        self.messages = Counter(
            "reprise_messages_total",
            "Messages that reached a final state, by state; counted by the process that ended them.",
            ["status"],
            registry=registry,
        )
        self.generations = Counter(
            "reprise_generations_total",
            "Attempts ended in a worker, by outcome (completed, error, abandoned, handed_back).",
            ["outcome"],
            registry=registry,
        )
        self.tokens = Counter("reprise_tokens_total", "Content deltas received from models.", registry=registry)
        self.active = Gauge(
            "reprise_generations_active", "Generations under way.", registry=registry, multiprocess_mode="livesum"
        )
        self.time_to_first_token = Histogram(
            "reprise_time_to_first_token_seconds",
            "From initiate to the first content delta, the queue included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.observers = Gauge(
            "reprise_observers",
            "Open observer connections, by kind (stream, streams, websocket, feed).",
            ["kind"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.slow_observers = Counter(
            "reprise_slow_observers_total", "Observers let go because they read too slowly.", registry=registry
        )
        self.queue_depth = Gauge(
            "reprise_queue_depth", "Waiting messages.", registry=registry, multiprocess_mode="livemostrecent"
        )
        self.queue_age = Gauge(
            "reprise_queue_age_seconds",
            "Age of the oldest waiting message.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.dead_letters = Gauge(
            "reprise_dead_letters",
            "Feed entries given up on and kept for an operator.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.workers = Gauge(
            "reprise_workers",
            "Workers alive, by kind.",
            ["kind"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.reclaimed = Counter(
            "reprise_reclaimed_total", "Messages taken from workers found dead.", registry=registry
        )
        self.dead_lettered = Counter(
            "reprise_dead_lettered_total", "Feed entries that became dead letters.", ["group"], registry=registry
        )
        self.webhook_attempts = Counter(
            "reprise_webhook_attempts_total",
            "Attempts to deliver an event to a webhook, by outcome (delivered, failed, dead, lost).",
            ["outcome"],
            registry=registry,
        )
        self.engine_errors = Counter(
            "reprise_engine_errors_total",
            "Steps that failed because an engine did not serve, by engine (redis, postgresql).",
            ["engine"],
            registry=registry,
        )
        self.requests = Counter(
            "reprise_http_requests_total",
            "HTTP requests answered, by method, route and status.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.latency = Histogram(
            "reprise_http_response_seconds",
            "From the request to the start of its answer, by route.",
            ["route"],
            buckets=_FAST,
            registry=registry,
        )
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Counts one generation as under way for the time of the block."""
        self.active.inc()
        try:
            yield
        finally:
            self.active.dec()

    @contextmanager
    def observing(self, kind: str) -> Iterator[None]:
        """Counts one observer connection as open for the time of the block."""
        gauge = self.observers.labels(kind)
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def first_token(self, seconds: float) -> None:
        self.time_to_first_token.observe(seconds)

    def message_ended(self, status: str) -> None:
        """This process put a message into a final state."""
        self.messages.labels(status).inc()

    def generation_ended(self, outcome: str, tokens: int) -> None:
        """An attempt ended in this worker."""
        self.generations.labels(outcome).inc()
        self.tokens.inc(tokens)

    def took_over(self, messages: int) -> None:
        """Messages were taken from dead workers."""
        self.reclaimed.inc(messages)

    def webhook_attempted(self, outcome: str) -> None:
        """This process tried to deliver an event to a webhook."""
        self.webhook_attempts.labels(outcome).inc()

    def unavailable(self, error: Unavailable) -> None:
        """An engine did not serve."""
        self.engine_errors.labels(str(error.details.get("engine", "redis"))).inc()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """One HTTP request was answered; ``route`` is its template, never its path."""
        key = (method, route, status)
        found = self._answered.get(key)
        if found is None:
            found = self.requests.labels(method, route, str(status)), self.latency.labels(route)
            self._answered[key] = found
        found[0].inc()
        found[1].observe(seconds)

    def exposition(self) -> bytes:
        """The metrics as Prometheus reads them (text format 0.0.4)."""
        if self._directory is None:
            return generate_latest(self._registry)
        everybody = CollectorRegistry()
        MultiProcessCollector(everybody, self._directory)  # type: ignore[no-untyped-call]
        return generate_latest(everybody)


def open_metrics() -> Metrics:
    """This process's metrics, shared with the other processes where the supervisor has made a place for that."""
    return Metrics(environment(MULTIPROC))
