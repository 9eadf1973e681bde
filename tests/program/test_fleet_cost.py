"""What it costs: ten instances and 100,000 mailboxes, without sessions.

.venv/bin/python -m pytest -s tests/program/test_fleet_cost.py
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rebreak_idle.database_url import parse_database_url
from rebreak_idle.fleet.census import Census
from rebreak_idle.fleet.membership import Membership
from rebreak_idle.fleet.share import Share
from rebreak_idle.fleet.table import FleetTable
from rebreak_idle.proof import Proof
from tests.support.fleet_rig import TABLE
from tests.support.servers import Database
from tests.support.waiting import wait_for

MAILBOXES = 100_000
IDS = [str(number) for number in range(MAILBOXES)]
NAMES = [f"host-{number}" for number in range(10)]
# Beats come ten times as often as by default.
SILENCE_SECONDS = 3.0
BEATS = 20


class Instance:
    """A daemon's part in the fleet, without its sessions."""

    def __init__(self, database: Database, name: str) -> None:
        table = FleetTable(parse_database_url(database.url), "one")
        self.beats = 0
        self.membership = Membership(
            table, name, SILENCE_SECONDS, time.monotonic, random.random, Proof()
        )
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def join(self) -> None:
        self.membership.joined(self.membership.join())
        self.membership.rows_read(IDS)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_stopping.wait(self.membership.wait_seconds):
            if self.membership.is_beat_due():
                self.membership.begin_beat(Census(1, True))()()
                self.beats += 1


def transactions_and_connections(database: Database) -> tuple[int, int]:
    """So far, in this database; a connection is counted when it ends. PostgreSQL makes one
    transaction for itself as it begins, which is not counted here.
    """
    ((transactions, connections),) = database.execute(
        "SELECT xact_commit + xact_rollback - sessions, sessions FROM pg_stat_database "
        "WHERE datname = current_database()"
    )
    return transactions, connections


@contextmanager
def ten_instances(database: Database) -> Iterator[list[Instance]]:
    """They know each other, and beat."""
    database.execute(TABLE)
    instances = [Instance(database, name) for name in NAMES]
    for instance in instances:
        instance.join()
    try:
        for instance in instances:
            instance.start()
        yield instances
    finally:
        for instance in instances:
            instance.stop()


def test_a_beat_is_one_transaction_on_one_connection(database: Database) -> None:
    """So ten instances that beat every ten seconds cost one of each a second in all."""
    with ten_instances(database) as instances:
        before, began_at = transactions_and_connections(database), time.monotonic()
        start = [instance.beats for instance in instances]
        wait_for(
            lambda: all(i.beats - s >= BEATS for i, s in zip(instances, start, strict=True)),
            300,
            f"{BEATS} beats of each",
        )
        seconds = time.monotonic() - began_at
    beats = sum(instance.beats for instance in instances) - sum(start)
    transactions, connections = (
        after - first
        for after, first in zip(transactions_and_connections(database), before, strict=True)
    )
    # The connections of the two looks, and one beat of each instance that was under way at them.
    slack = 2 + 2 * len(instances)
    print(
        f"{beats} beats in {seconds:.1f} s: {transactions} transactions, {connections} connections"
    )
    assert beats - slack <= transactions <= beats + slack
    assert beats - slack <= connections <= beats + slack


def test_a_death_moves_a_ninth_of_its_share_to_each() -> None:
    """And nothing else; shares are worked out in a fraction of a second."""
    share = Share(NAMES[0])
    began_at = time.perf_counter()
    share.set_mailboxes(IDS)
    read_at = time.perf_counter()
    share.adopt(frozenset(NAMES))
    adopted_at = time.perf_counter()
    before = dict(share.counts)
    print(f"rows: {read_at - began_at:.2f} s, a view: {adopted_at - read_at:.2f} s")
    print(f"largest share: {max(before.values())}, smallest: {min(before.values())}")
    dead = NAMES[-1]
    share.adopt(frozenset(NAMES[:-1]))
    moved = {name: share.counts[name] - before[name] for name in NAMES[:-1]}
    print(f"{dead} had {before[dead]}; the others get {sorted(moved.values())}")
    assert sum(moved.values()) == before[dead]
    assert min(moved.values()) > 0
    assert max(moved.values()) < 2 * before[dead] / 9
