"""Several instances on one table in simulated time, and what must not happen.

What is real: `Membership` and all that it uses but the statements, and `Supervisor`. What is
simulated: the clock, the table, the thread of a beat or a reading, and the workers, each of which
has a session some seconds after it was started. A process that stands still does nothing, but its
clock runs on. Everything is drawn from one generator, so that a run is the same each time.
"""

import functools
import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

from rebreak_idle import supervisor as supervisors
from rebreak_idle.errors import DatabaseError
from rebreak_idle.fleet import sharing
from rebreak_idle.fleet.instance import Instance
from rebreak_idle.fleet.membership import Membership
from rebreak_idle.fleet.table import TableUnreachable
from rebreak_idle.mailbox import Mailbox
from rebreak_idle.proof import Proof
from rebreak_idle.status import State, Status
from rebreak_idle.supervisor import Supervisor
from tests.support.harness import quick_config

SILENCE_SECONDS = 30.0
GAP_SECONDS = 20.0
REFRESH_SECONDS = 300.0
# A row's change is noticed by a refresh, which may fail and be tried again.
CONFIG = quick_config(refresh_interval_seconds=REFRESH_SECONDS)


class MemoryTable:
    """The table as `FleetTable` leaves it: each beat is one moment."""

    def __init__(self) -> None:
        self.rows: dict[str, Instance] = {}
        self.condemned: Callable[[Instance], None] = lambda _row: None

    def beat(self, row: Instance, condemned: Iterable[Instance] = ()) -> list[Instance]:
        for each in condemned:
            found = self.rows.get(each.name)
            if found and (found.incarnation, found.beat) == (each.incarnation, each.beat):
                del self.rows[each.name]
                self.condemned(each)
        before = list(self.rows.values())
        self.rows[row.name] = replace(row, settled=self.may_settle(row))
        return before

    def may_settle(self, row: Instance) -> bool:
        """Who was condemned has not settled, whatever the beat says that was under way."""
        before = self.rows.get(row.name)
        return row.settled and before is not None and before.incarnation == row.incarnation

    def leave(self, row: Instance) -> None:
        if (found := self.rows.get(row.name)) and found.incarnation == row.incarnation:
            del self.rows[row.name]


class Worker:
    """Has a session soon after its start, unless its process can log in nowhere."""

    def __init__(self, process: "Process", mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.scanner = SimpleNamespace(withdraw=lambda: None, owed=False)
        self.is_up = False
        self.is_dead = False
        """Whether its server has closed the session, and it does not know."""
        self._process = process
        self._stopping = False
        self._began_at = process.world.now
        self._epoch = 0

    def start(self) -> None:
        self._log_in()

    def _log_in(self) -> None:
        self.is_up, self.is_dead = False, False
        self._began_at = self._process.world.now
        self._process.later(self._process.world.draw(0.5, 6), self._logged_in)

    def _logged_in(self) -> None:
        if self._stopping:
            return
        if not self._process.can_log_in:
            self._process.later(60, self._logged_in)
            return
        self.is_up, self._epoch = True, self._process.proof.epoch

    def prove(self) -> None:
        """The process stood still: whether the session still answers is seen by and by."""
        self._process.later(self._process.world.draw(0.1, 25), self._answered)

    def _answered(self) -> None:
        if self.is_dead:
            self._log_in()
        self._epoch = self._process.proof.epoch

    def ask_to_stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._process.world.closed(self._process, self)
        self.is_up = False
        self._process.later(self._process.world.draw(0.1, 15), self._reap)

    def _reap(self) -> None:
        self._process.supervisor._reap(self)  # type: ignore[arg-type]

    def is_stopping(self) -> bool:
        return self._stopping

    def is_alive(self) -> bool:
        return True

    def join(self) -> None: ...

    def status(self) -> Status:
        state = State.IDLING if self.is_up else State.BACKING_OFF
        since = None if self.is_up else self._began_at
        return Status(state, 0, False, None, -1, "", None, since, self._epoch)


class Reading:
    """As `rebreak_idle.reading.Reading`, in simulated time."""

    wait_seconds = None

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._due_at = process.world.now
        self._is_under_way = self._once_more = False

    def ask(self) -> None:
        self._once_more = self._is_under_way
        self._due_at = self._process.world.now

    def start_if_due(self) -> None:
        process = self._process
        if self._is_under_way or process.world.now < self._due_at:
            return
        self._is_under_way = True
        process.later(process.world.draw(0, 0.5), self._read)

    def _read(self) -> None:
        process = self._process
        supervisor: Any = process.supervisor
        try:
            result = supervisor._read()
        except DatabaseError as error:
            text = str(error)
            process.later(process.world.draw(0, 5), lambda: supervisor.not_read(text))
        else:
            process.later(process.world.draw(0, 2), lambda: supervisor._read_both(*result))

    def done(self) -> None:
        self._over(REFRESH_SECONDS)

    def failed(self) -> float:
        self._over(10.0)
        return 10.0

    def _over(self, seconds: float) -> None:
        self._is_under_way = False
        self._due_at = self._process.world.now + (0.0 if self._once_more else seconds)
        self._once_more = False


class Process:
    """One instance."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.is_running = True
        """Neither dead, nor stopping, nor standing still."""
        self.can_log_in = True
        self.is_cut_off = False
        self.able_since = world.now
        """Since when nothing has kept it from beating."""
        self.proof = Proof()
        self._generation = 0
        self._stood_since = 0.0
        self._held_up: list[Callable[[], None]] = []
        self.membership = Membership(
            self, name, SILENCE_SECONDS, self._clock, world.random.random, self.proof,
        )  # type: ignore[arg-type]  # fmt: skip
        self.supervisor: Any = Supervisor(
            self._read_rows, self._make_worker, SimpleNamespace(), lambda _rows: None,
            self.membership, CONFIG, 10**6,
        )  # type: ignore[arg-type]  # fmt: skip
        self.supervisor._reading = Reading(self)
        self.later(0, self._turn)

    def _clock(self) -> float:
        return self.world.clock_of(self)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do it then, or when the process goes on; never, once it has ended."""
        generation = self._generation

        def act() -> None:
            if self._generation != generation:
                return
            if self.is_running:
                action()
            else:
                self._held_up.append(act)

        self.world.at(self.world.now + seconds, act)

    # What the real ones use

    def _read_rows(self) -> list[Mailbox]:
        if not self.world.answers(self):
            raise DatabaseError("away")
        return list(self.world.rows.values())

    def _make_worker(self, mailbox: Mailbox, _ended: object, _scanner: object) -> Worker:
        return Worker(self, mailbox)

    def beat(self, row: Instance, condemned: Iterable[Instance] = ()) -> list[Instance]:
        """As the table's, where the database answers."""
        if not self.world.answers(self):
            raise TableUnreachable("away")
        return self.world.table.beat(row, condemned)

    def leave(self, row: Instance) -> None:
        if self.world.answers(self):
            self.world.table.leave(row)

    def _turn(self) -> None:
        """One turn of the supervisor's loop."""
        self.supervisor._reading.start_if_due()
        epoch = self.proof.epoch
        if self.membership.is_beat_due():
            self._prove_if_new(epoch)
            beat = self.membership.begin_beat(self.supervisor._census())
            self.later(self.world.draw(0, 1), lambda: self._beat(beat))
        self._prove_if_new(epoch)
        self.later(min(5.0, max(0.01, self.membership.wait_seconds)), self._turn)

    def _beat(self, beat: Callable[[], Callable[[], bool]]) -> None:
        outcome = beat()
        waited = self.world.draw(0, 1) if self.world.answers(self) else self.world.draw(0, 5)
        self.later(waited, lambda: self._beaten(outcome))

    def _beaten(self, outcome: Callable[[], bool]) -> None:
        epoch = self.proof.epoch
        self.supervisor._beaten(outcome)
        self._prove_if_new(epoch)

    def _prove_if_new(self, epoch: int) -> None:
        if self.proof.epoch != epoch:
            for worker in self.workers:
                worker.prove()

    @property
    def workers(self) -> list[Worker]:
        return list(self.supervisor._workers.values())

    def has_session(self, id_: str) -> bool:
        worker = self.supervisor._workers.get(id_)
        return self.is_running and worker is not None and worker.is_up and not worker.is_dead

    # What is done to it

    def end(self) -> None:
        self._generation += 1
        self.is_running = False
        self.world.processes.remove(self)

    def stop(self) -> None:
        """SIGTERM."""
        self.membership._leave(self.membership._next_row(supervisors.Census(0, False)))
        self.end()

    def stand_still(self) -> None:
        self.is_running = False
        self._stood_since = self.world.now

    def go_on(self) -> None:
        """Sessions are lost where it stood still for long and was given up. (Where it was not, a
        beat that was under way says rightly that it has settled.)
        """
        is_long = self.world.now - self._stood_since > GAP_SECONDS
        if is_long and self.name not in self.world.table.rows:
            for worker in self.workers:
                worker.is_dead = worker.is_up
        self.is_running = True
        self.able_since = self.world.now
        held_up, self._held_up = self._held_up, []
        for action in held_up:
            self.world.at(self.world.now + self.world.draw(0, 0.2), action)


class World:
    """The instances, the table, the rows and the clock."""

    def __init__(self, seed: int, mailboxes: int = 10) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.table = MemoryTable()
        self.table.condemned = self._condemned
        self.rows: dict[str, Mailbox] = {}
        self.processes: list[Process] = []
        self.is_database_up = True
        self.faults: list[str] = []
        self.may_condemn = True
        self._restarted_at: defaultdict[str, float] = defaultdict(lambda: -1e9)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._names = itertools.count()
        for _ in range(mailboxes):
            self.add_row()

    def clock_of(self, _process: Process) -> float:
        return self.now

    def draw(self, least: float, most: float) -> float:
        return self.random.uniform(least, most)

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = end

    def answers(self, process: Process) -> bool:
        return self.is_database_up and not process.is_cut_off

    # What happens

    def start(self, can_log_in: bool = True) -> Process:
        process = Process(self, f"i{next(self._names)}")
        process.can_log_in = can_log_in
        self.processes.append(process)
        return process

    def add_row(self) -> None:
        id_ = f"m{next(self._names)}"
        self.rows[id_] = Mailbox(id_, "u", id_, "host", 993, id_, "1")

    def change_row(self, id_: str) -> None:
        self.rows[id_] = replace(self.rows[id_], stored_password=str(self.random.random()))

    def hear_of_rows(self) -> None:
        """As when each notices that the rows changed."""
        for process in self.processes:
            process.later(self.draw(0, 10), process.supervisor.refresh)

    def database_goes(self, up: bool) -> None:
        self.is_database_up = up
        for process in self.processes:
            process.able_since = self.now

    def cut_off(self, process: Process, cut: bool) -> None:
        process.is_cut_off = cut
        process.able_since = self.now

    # What must not happen

    def closed(self, process: Process, worker: Worker) -> None:
        """A session is ended by its own process: a release must leave another one."""
        id_ = worker.mailbox.id
        if id_ in process.supervisor._wanted:
            self._restarted_at[id_] = self.now  # its row changed
        elif id_ in self.rows and id_ in process.supervisor._rows:
            self._released(process, worker)

    def _released(self, process: Process, worker: Worker) -> None:
        id_ = worker.mailbox.id
        share = process.membership._share
        owner = next((p for p in self.processes if p.name == share._owner_of(id_)), None)
        if owner is None or not owner.is_running:
            return  # it died or stands still
        if self.now - self._restarted_at[id_] <= GAP_SECONDS + 6:
            return  # its row changed
        if worker.is_up and not any(p.has_session(id_) for p in self.processes if p != process):
            self.faults.append(
                f"{self.now:.1f}: {process.name} leaves {id_} to {owner.name}, without a session"
            )

    def _condemned(self, row: Instance) -> None:
        if not self.may_condemn:
            self.faults.append(f"{self.now:.1f}: {row.name} was condemned")
        process = next((p for p in self.processes if p.name == row.name), None)
        if process is None or not process.is_running or not self.answers(process):
            return
        if self.now - process.able_since > SILENCE_SECONDS:
            self.faults.append(f"{self.now:.1f}: {row.name} is alive, and was condemned")

    def sessions(self) -> dict[str, int]:
        return {id_: sum(p.has_session(id_) for p in self.processes) for id_ in self.rows}


_owners = functools.cache(sharing.owners_of_slots)


@contextmanager
def simulated_time(world: World) -> Iterator[None]:
    """The supervisor's own clock is the world's; the owners of a view are worked out once."""
    clock = SimpleNamespace(monotonic=lambda: world.now)
    with (
        mock.patch.object(supervisors, "time", clock),
        mock.patch.object(sharing, "owners_of_slots", lambda names: _owners(frozenset(names))),
    ):
        yield
