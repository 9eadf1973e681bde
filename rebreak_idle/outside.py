"""What the outside sees of all mailboxes: the figures in the log, the backend, Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from .config import Config
from .endpoint import Endpoint, Pages
from .figures import Figures
from .health import Health
from .notices import Notices
from .notifier import SENDERS, Notifier, Watcher
from .roster import Roster
from .scan.notice_client import NoticeClient
from .services import Services


class Outside:
    """Knows all workers, and tells those who want to know. ``post`` has something called by the
    refresh loop.
    """

    def __init__(
        self, config: Config, services: Services, post: Callable[[Callable[[], None]], None]
    ) -> None:
        self.roster = Roster()
        self._config = config
        self._services = services
        interval = config.refresh_interval_seconds
        self._figures = Figures(services.scans.reactions, self.roster, interval)
        self._health = Health(post, interval, time.monotonic)

    def refreshed(self) -> None:
        """The rows were read."""
        self._health.refreshed()
        self._figures.refreshed()

    def start(self, endpoint: Endpoint | None, shown: Callable[[str], str]) -> None:
        """Start the threads that tell the outside; ``shown`` makes a text fit for it.

        Raises:
            RuntimeError: the system gives no thread.
        """
        if endpoint is not None:
            endpoint.start(self._pages())
        if self._config.connection_state_path is not None:
            notifier = Notifier(NoticeClient(self._config), time.monotonic)
            notifier.start(min(SENDERS, self._config.scan_concurrency))
            Watcher(self.roster, Notices(shown), notifier).start()

    def _pages(self) -> Pages:
        # Read only where it is used: its package may not be installed, and takes 3 MiB.
        from .metrics import Metrics, pages

        services = self._services
        reactions, hosts_down = services.scans.reactions, services.hosts.count_down
        metrics = Metrics(self.roster, reactions, services.counters, self._health, hosts_down)
        return pages(metrics, self._health)
