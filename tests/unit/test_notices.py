"""What the backend is told of a mailbox, and how it is delivered."""

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from rebreak_idle.errors import BackendUnavailable, ScanFailed
from rebreak_idle.log import log
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.notices import Notice, Notices, Told
from rebreak_idle.notifier import PROBE_MAX_SECONDS, Notifier, Watcher
from rebreak_idle.roster import UNWATCHED_SECONDS, Roster
from rebreak_idle.status import State, Status, Trouble, Who
from tests.support.waiting import wait_for

SECONDS = 10.0
WALL = 1_795_852_800.0  # 2026-11-28T08:00:00Z
AWAY = BackendUnavailable("the backend refuses connections", is_certain=True)
UNKNOWN = ScanFailed("the backend answered 404", is_answer=True)


class Clock:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now

    def wall(self) -> float:
        return WALL + self.now - 5000


def mailbox(id_: str = "anna", **fields: str) -> Mailbox:
    row = Mailbox(id_, f"user-of-{id_}", f"{id_}@example.org", "h", 993, id_, "p")
    return replace(row, **fields)  # type: ignore[arg-type]  # texts


REFUSED = Trouble("the server refused the login: no", Who.USER, refused=True)
LOST = Trouble("network trouble: reset")


class Subject:
    """One mailbox whose states a test sets, and what is told of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.notices = Notices(str.upper, self.clock, self.clock.wall)
        self.row = mailbox()
        self.unwatched_since: float | None = None
        self.state_since = self.clock.now

    def is_in(self, state: State, trouble: Trouble | None = None, after: float = 0) -> str:
        """What is told once it is in this state: its JSON in short, or empty."""
        self.state_since = self.clock.now
        if state in (State.IDLING, State.POLLING):
            self.unwatched_since = None
            self.clock.now += after
            return self.short(self.notices.watched(self.row))
        if self.unwatched_since is None:
            self.unwatched_since = self.clock.now
        self.clock.now += after
        for_seconds = self.clock.now - self.state_since
        status = Status(state, for_seconds, False, None, 0.0, "", trouble, self.unwatched_since)
        return self.short(self.notices.unwatched(self.row, status))

    def short(self, notice: Notice | None) -> str:
        return f"{notice.state} {notice.who}" if notice else ""


@pytest.fixture
def subject() -> Subject:
    return Subject()


# --- what is told ---------------------------------------------------------------------------------


def test_the_body_is_the_contract_s(subject: Subject) -> None:
    """Every field, in the contract's spelling."""
    subject.unwatched_since = 4990.0
    status = Status(State.PARKED, 5.5, False, None, 0.0, "", REFUSED, 4990.0)
    notice = subject.notices.unwatched(subject.row, status)
    assert notice
    assert list(notice.body.items()) == [
        ("connectionId", "anna"),
        ("userId", "user-of-anna"),
        ("state", "parked"),
        ("who", "user"),
        ("reason", "THE SERVER REFUSED THE LOGIN: NO"),
        ("since", "2026-11-28T07:59:54.500Z"),
    ]


def test_a_good_first_state_is_not_told(subject: Subject) -> None:
    """After a start: it connects, is watched, loses its session, is watched again."""
    for state in (State.CONNECTING, State.IDLING, State.BACKING_OFF, State.CONNECTING):
        assert subject.is_in(state, LOST) == ""
    assert subject.is_in(State.POLLING) == ""


def test_parked_is_told_at_once_and_watched_after_it(subject: Subject) -> None:
    """Once each; then it is as new."""
    assert subject.is_in(State.CONNECTING) == ""
    assert subject.is_in(State.PARKED, REFUSED) == "parked user"
    assert subject.is_in(State.PARKED, REFUSED, after=9000) == ""
    assert subject.is_in(State.IDLING) == "watched nobody"
    assert subject.is_in(State.IDLING) == ""


def test_parked_stays_told_while_it_is_tried_again(subject: Subject) -> None:
    """Each retry connects for a moment; that is no news, and its failure none either."""
    assert subject.is_in(State.PARKED, REFUSED) == "parked user"
    for _ in range(3):
        assert subject.is_in(State.CONNECTING, REFUSED, after=1000) == ""
        assert subject.is_in(State.PARKED, REFUSED, after=1000) == ""


def test_not_watched_for_15_minutes(subject: Subject) -> None:
    """However often it tries; from when its watch ended."""
    assert subject.is_in(State.IDLING) == ""
    minute = 60.0
    for _ in range(7):
        assert subject.is_in(State.BACKING_OFF, LOST, after=minute) == ""
        assert subject.is_in(State.CONNECTING, LOST, after=minute) == ""
    assert subject.is_in(State.BACKING_OFF, LOST, after=minute - 1) == ""
    assert subject.is_in(State.BACKING_OFF, LOST, after=1) == "unwatched nobody"
    assert subject.is_in(State.CONNECTING, LOST, after=1) == ""
    seen = subject.notices._seen["anna"].last
    assert seen
    assert seen.since == WALL
    assert subject.is_in(State.IDLING) == "watched nobody"


def test_a_mailbox_that_never_came_about_is_told_too(subject: Subject) -> None:
    """Its thread could not even be started, or waits in line since the start."""
    assert subject.is_in(State.CONNECTING, after=UNWATCHED_SECONDS) == "unwatched nobody"


def test_another_reason_to_be_parked_is_news(subject: Subject) -> None:
    """The operator mended the key; now it is the user's turn."""
    assert subject.is_in(State.PARKED, Trouble("key", Who.OPERATOR)) == "parked operator"
    assert subject.is_in(State.PARKED, REFUSED) == "parked user"


def test_a_row_that_changed_is_told_anew(subject: Subject) -> None:
    """Somebody gave a new password and waits for what comes of it: it is no better."""
    assert subject.is_in(State.PARKED, REFUSED) == "parked user"
    subject.row = mailbox(stored_password="q")
    assert subject.is_in(State.CONNECTING) == ""
    assert subject.is_in(State.PARKED, REFUSED) == "parked user"
    subject.row = mailbox(stored_password="r")
    assert subject.is_in(State.IDLING) == "watched nobody"


def test_a_changed_row_does_not_begin_the_fifteen_minutes_anew(subject: Subject) -> None:
    """It was not watched before either."""
    assert subject.is_in(State.BACKING_OFF, LOST, after=800) == ""
    subject.row, subject.unwatched_since = mailbox(stored_password="q"), None
    assert subject.is_in(State.CONNECTING, after=100) == "unwatched nobody"


def test_a_row_that_is_gone_is_forgotten(subject: Subject) -> None:
    """When it comes back it is as after a start."""
    assert subject.is_in(State.PARKED, REFUSED) == "parked user"
    subject.notices.keep_only(set())
    assert subject.is_in(State.IDLING) == ""


# --- how it is delivered --------------------------------------------------------------------------


class Client:
    """A backend whose answers a test hands out one by one; None is a 2xx."""

    def __init__(self) -> None:
        self.bodies: queue.Queue[dict[str, object]] = queue.Queue()
        self.answers: queue.Queue[ScanFailed | None] = queue.Queue()
        self.under_way: list[object] = []
        self.twice: list[object] = []
        self.most = 0

    def tell(self, body: dict[str, object]) -> None:
        id_ = body["connectionId"]
        if id_ in self.under_way:
            self.twice.append(id_)
        self.under_way.append(id_)
        self.most = max(self.most, len(self.under_way))
        self.bodies.put(body)
        error = self.answers.get(timeout=SECONDS)
        self.under_way.remove(id_)
        if error is not None:
            raise error

    def next(self) -> str:
        body = self.bodies.get(timeout=SECONDS)
        return f"{body['connectionId']} {body['state']}"

    def abort_overdue(self) -> None: ...


class Delivery:
    """A notifier with its threads, and a clock that a test moves."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.client = Client()
        self.notifier = Notifier(self.client, self.clock)

    def tell(self, id_: str, state: Told = Told.PARKED) -> None:
        self.notifier.tell(Notice(mailbox(id_), state, Who.USER, "no", WALL))

    def move_clock(self, seconds: float) -> None:
        self.clock.now += seconds
        with self.notifier._changed:
            self.notifier._changed.notify_all()

    def wait_failures(self, number: int) -> None:
        wait_for(lambda: self.notifier._failures == number, SECONDS, "a failure")


@contextmanager
def delivery_of(senders: int) -> Iterator[Delivery]:
    subject = Delivery()
    threads = subject.notifier.start(senders)
    try:
        yield subject
    finally:
        subject.notifier.stop()
        for _ in range(100):
            subject.client.answers.put(None)
        for thread in threads:
            thread.join(SECONDS)
        assert not subject.client.twice


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)


def test_the_newest_state_alone_is_sent() -> None:
    """What was never sent is replaced, what is under way is followed by the newest."""
    with delivery_of(1) as delivery:
        delivery.tell("anna")
        assert delivery.client.next() == "anna parked"
        for state in (Told.WATCHED, Told.UNWATCHED, Told.WATCHED):
            delivery.tell("anna", state)
            delivery.tell("ben", state)
        delivery.client.answers.put(None)
        assert delivery.client.next() == "ben watched"
        delivery.client.answers.put(None)
        assert delivery.client.next() == "anna watched"
        delivery.client.answers.put(None)
        wait_for(lambda: not delivery.notifier._entries, SECONDS, "everything to be told")
        assert delivery.client.bodies.empty()


def test_one_request_a_mailbox_and_so_many_in_all() -> None:
    """News of a mailbox whose request is under way waits for its end, those of others do not."""
    with delivery_of(4) as delivery:
        for id_ in ("a", "b", "c", "d", "e"):
            delivery.tell(id_)
        assert {delivery.client.next() for _ in range(4)} == {
            f"{id_} parked" for id_ in ("a", "b", "c", "d")
        }
        delivery.tell("a", Told.WATCHED)
        delivery.client.answers.put(None)
        assert delivery.client.next() == "e parked"
        for _ in range(4):
            delivery.client.answers.put(None)
        assert delivery.client.next() == "a watched"
        assert delivery.client.most == 4


def test_it_is_told_until_a_2xx(said: list[str]) -> None:
    """One line that it cannot be told, one that it can, however often it was tried."""
    with delivery_of(2) as delivery:
        delivery.tell("anna")
        for number in range(1, 4):
            assert delivery.client.next() == "anna parked"
            delivery.client.answers.put(AWAY)
            delivery.wait_failures(number)
            delivery.move_clock(PROBE_MAX_SECONDS)
        assert delivery.client.next() == "anna parked"
        delivery.client.answers.put(None)
        wait_for(lambda: len(said) == 2, SECONDS, "both lines")
        assert said == [
            "the backend cannot be told which mailboxes are parked, unwatched or watched again: "
            "the backend refuses connections — it is told as soon as it takes it",
            "the backend can be told again: it knows of every mailbox",
        ]


def test_one_request_at_a_time_probes() -> None:
    """While the backend is away, whoever is next; when it answers, all at once."""
    with delivery_of(4) as delivery:
        delivery.tell("a")
        delivery.client.next()
        delivery.client.answers.put(AWAY)
        delivery.wait_failures(1)
        for id_ in ("b", "c", "d"):
            delivery.tell(id_)
        assert delivery.client.bodies.empty()
        delivery.move_clock(1.0)
        assert delivery.client.next() == "b parked"
        assert delivery.client.bodies.empty()
        delivery.client.answers.put(None)
        assert {delivery.client.next() for _ in range(3)} == {"a parked", "c parked", "d parked"}


def test_one_that_is_refused_does_not_hold_up_the_others() -> None:
    """It is tried again, seldomer each time; what is new goes first."""
    with delivery_of(1) as delivery:
        delivery.tell("unknown")
        for number in range(1, 4):
            assert delivery.client.next() == "unknown parked"
            delivery.client.answers.put(UNKNOWN)
            delivery.wait_failures(number)
            delivery.move_clock(300.0)
        assert delivery.client.next() == "unknown parked"
        for id_ in ("a", "b"):
            delivery.tell(id_)
        delivery.client.answers.put(UNKNOWN)
        delivery.wait_failures(4)
        delivery.move_clock(300.0)
        for id_ in ("a", "b"):
            assert delivery.client.next() == f"{id_} parked"
            delivery.client.answers.put(None)
        assert delivery.client.next() == "unknown parked"


def test_a_row_that_is_gone_is_told_no_more(said: list[str]) -> None:
    """Neither what waits nor what is tried again, nor what is under way when that fails."""
    with delivery_of(1) as delivery:
        delivery.tell("gone")
        assert delivery.client.next() == "gone parked"
        delivery.tell("waits")
        delivery.notifier.keep_only({"anna"})
        delivery.client.answers.put(UNKNOWN)
        delivery.wait_failures(1)
        delivery.tell("anna")
        delivery.move_clock(300.0)
        assert delivery.client.next() == "anna parked"
        assert set(delivery.notifier._entries) == {"anna"}
        assert not said


# --- who looks ------------------------------------------------------------------------------------


class Worker:
    """A worker whose state a test sets."""

    def __init__(self, id_: str, state: State, unwatched_since: float = 5000.0) -> None:
        self.mailbox = mailbox(id_)
        self.state = state
        self.unwatched_since = unwatched_since

    def is_stopping(self) -> bool:
        return self.state is State.STOPPED

    def status(self) -> Status:
        return Status(self.state, 0.0, False, None, 0.0, "", REFUSED, self.unwatched_since)


def test_a_look_at_all_tells_what_is_news() -> None:
    """Each state once; rows that are gone are forgotten everywhere."""
    with delivery_of(1) as delivery:
        roster, clock = Roster(), delivery.clock
        notices = Notices(str, clock, clock.wall)
        watcher = Watcher(roster, notices, delivery.notifier)
        anna, ben = Worker("anna", State.PARKED), Worker("ben", State.IDLING)
        roster.add(anna)
        roster.add(ben)
        watcher.look()
        assert delivery.client.next() == "anna parked"
        delivery.client.answers.put(None)
        anna.state, ben.state = State.SCANNING, State.BACKING_OFF
        watcher.look()
        assert delivery.client.next() == "anna watched"
        delivery.client.answers.put(None)
        clock.now += UNWATCHED_SECONDS
        watcher.look()
        assert delivery.client.next() == "ben unwatched"
        roster.keep_only([anna.mailbox])
        watcher.look()
        delivery.client.answers.put(AWAY)
        wait_for(lambda: not delivery.notifier._entries, SECONDS, "the row to be forgotten")
        assert not notices.ids


def test_of_a_mailbox_that_another_process_watches_nothing_is_kept() -> None:
    """When it comes back it is as new: not unwatched for as long as it was away, and what was told
    of it before is no reason to tell nothing.
    """
    with delivery_of(1) as delivery:
        roster, clock = Roster(), delivery.clock
        watcher = Watcher(roster, Notices(str, clock, clock.wall), delivery.notifier)
        anna, ben = Worker("anna", State.BACKING_OFF), Worker("ben", State.PARKED)
        for worker in (anna, ben):
            roster.add(worker)
        watcher.look()
        assert delivery.client.next() == "ben parked"
        delivery.client.answers.put(None)
        for worker in (anna, ben):
            worker.state = State.STOPPED
            roster.ended(worker)
        roster.keep_only([])
        watcher.look()
        clock.now += 2 * UNWATCHED_SECONDS
        roster.keep_only([anna.mailbox, ben.mailbox])
        roster.add(Worker("anna", State.CONNECTING, clock.now))
        roster.add(Worker("ben", State.PARKED, clock.now))
        watcher.look()
        assert delivery.client.next() == "ben parked"
        delivery.client.answers.put(None)
        wait_for(lambda: not delivery.notifier._entries, SECONDS, "nothing more to be told")


def test_the_thread_that_looks_outlives_a_fault(said: list[str]) -> None:
    """A fault of ours is said, and it looks again."""
    looked = threading.Semaphore(0)

    class Faulty(Roster):
        def workers(self) -> list[object]:  # type: ignore[override]
            looked.release()
            raise ValueError("a fault")

    with delivery_of(1) as delivery:
        watcher = Watcher(Faulty(), Notices(str), delivery.notifier, 0.01)
        thread = watcher.start()
        for _ in range(3):
            assert looked.acquire(timeout=SECONDS)
        watcher.stop()
        thread.join(SECONDS)
        assert said[0] == "unexpected error:"
