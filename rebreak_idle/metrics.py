"""The metrics for Prometheus: the only module that knows prometheus-client, and read only where
METRICS_LISTEN is set. No mailbox is named in them, so that there are as many series with ten
thousand as with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .counters import Counters
from .endpoint import PLAIN, Page, Pages
from .health import Health
from .reactions import COARSE_SECONDS, RESULTS, Reactions
from .roster import Roster
from .status import State

PREFIX = "rebreak_idle_"


class Metrics(Collector):
    """Reads what the daemon counts, each time that it is asked. Any thread.

    ``hosts_down`` tells how many hosts all their mailboxes wait for.
    """

    def __init__(
        self,
        roster: Roster,
        reactions: Reactions,
        counters: Counters,
        health: Health,
        hosts_down: Callable[[], int],
    ) -> None:
        self._roster = roster
        self._reactions = reactions
        self._counters = counters
        self._health = health
        self._hosts_down = hosts_down

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        yield from self._mailboxes()
        yield from self._scans()
        yield _counter(
            "reconnects",
            "Sessions that were lost, or did not come about, and are tried again",
            self._counters.reconnects,
        )
        yield _counter(
            "refused_logins", "Logins that a server refused", self._counters.refused_logins
        )
        yield _gauge("hosts_down", "Hosts that all their mailboxes wait for", self._hosts_down())
        yield _gauge(
            "last_refresh_age_seconds",
            "How long ago the rows were read, or the program began",
            self._health.refresh_age_seconds,
        )

    def _mailboxes(self) -> Iterator[Metric]:
        found, unwatched = self._roster.census()
        states = GaugeMetricFamily(
            f"{PREFIX}mailboxes", "Mailboxes of this process by state", labels=["state"]
        )
        for state in State:
            states.add_metric([state.value], found[state])
        yield states
        yield _gauge(
            "mailboxes_unwatched",
            "Mailboxes that have not been watched for 15 minutes and are not parked",
            unwatched,
        )

    def _scans(self) -> Iterator[Metric]:
        totals = self._reactions.totals
        scans = CounterMetricFamily(
            f"{PREFIX}scans", "Scan requests that ended, by result", labels=["result"]
        )
        for result in RESULTS:
            scans.add_metric([result], totals.results.get(result, 0))
        yield scans
        ends = [*(str(float(end)) for end in COARSE_SECONDS), "+Inf"]
        yield HistogramMetricFamily(
            f"{PREFIX}reaction_seconds",
            "From hearing of mail to the 2xx",
            buckets=list(zip(ends, accumulate(totals.reactions), strict=True)),
            sum_value=totals.reaction_seconds,
        )
        yield _gauge("scans_owed", "Mailboxes that are owed a scan", self._reactions.scans_owed)
        yield _gauge(
            "oldest_owed_scan_seconds",
            "How long the oldest scan has been owed; 0 where none is",
            self._reactions.oldest_seconds,
        )


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, what, value=value)


def _counter(name: str, what: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, what, value=value)


def pages(metrics: Metrics, health: Health) -> Pages:
    """What the endpoint answers."""
    registry = CollectorRegistry()
    registry.register(metrics)

    def show_metrics(accepted: str) -> Page:
        encode, kind = choose_encoder(accepted)
        return Page(HTTPStatus.OK, kind, encode(registry))

    def show_health(_accepted: str) -> Page:
        if problem := health.problem():
            return Page(HTTPStatus.SERVICE_UNAVAILABLE, PLAIN, f"{problem}\n".encode())
        return Page(HTTPStatus.OK, PLAIN, b"ok\n")

    return {"/metrics": show_metrics, "/healthz": show_health}
