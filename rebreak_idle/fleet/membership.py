"""This instance's part in the fleet: its beats, its view, and what follows from them."""

from __future__ import annotations

import math
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import NamedTuple

from ..errors import DatabaseError
from ..log import fleet_logger as logger
from ..proof import Proof
from .beats import Beats
from .census import Census
from .instance import Instance
from .news import News
from .observation import Observation
from .share import Share
from .show import show_instances
from .table import FleetTable, NoTable, TableReadOnly, TableUnreachable, TableUnusable

LEAVE_SECONDS = 2.0


class Joined(NamedTuple):
    """What a first beat brought, if there was one."""

    at: float
    """When the reading of the rows begins."""
    asked_at: float = 0.0
    rows: list[Instance] | None = None
    trouble: NoTable | TableUnusable | None = None


class Membership:
    """Whose the mailboxes are, as this instance sees it.

    All of it is used on the supervisor's thread, but for `join`. It is *alone* where the table is
    not there or cannot be used: then every mailbox is its own.

    ``clock`` gives seconds that only grow, also while the machine sleeps where there is such a
    clock; ``random`` is `random.random`.
    """

    def __init__(
        self,
        table: FleetTable,
        name: str,
        silence_seconds: float,
        clock: Callable[[], float],
        random: Callable[[], float],
        proof: Proof,
    ) -> None:
        self._table = table
        self.proof = proof
        self._name = name
        self._incarnation = str(uuid.uuid4())
        self._silence_seconds = silence_seconds
        self._clock = clock
        self._beats = Beats(silence_seconds, clock, random)
        self._observation = Observation(name, silence_seconds)
        self._share = Share(name)
        self._number = 0
        self._condemned: list[Instance] = []
        self._adopted_at = self._rows_asked_at = 0.0
        self._is_new = False
        self._news = News(clock)

    # Whose a mailbox is

    @property
    def is_alone(self) -> bool:
        return self._share.is_alone

    def is_mine(self, mailbox_id: str) -> bool:
        """Whether this instance is to watch the mailbox."""
        return self._share.is_mine(mailbox_id)

    def release(self, watched: Iterable[str]) -> set[str]:
        """Those of the mailboxes, watched here and another's, that may be left to their owners.

        None, where what the others say is from before an outage or a standstill.
        """
        if not self._beats.are_rows_fresh:
            return set()
        released = self._share.released(watched, self._observation.others())
        self._news.released(Counter(released.values()))
        return set(released)

    def rows_read(self, mailbox_ids: Iterable[str]) -> None:
        """These are the mailboxes; `joined` was called before."""
        self._share.set_mailboxes(mailbox_ids)
        if self._is_new:
            self._is_new = False
            self._news.joined(self._name, self._share)

    # Joining

    def join(self) -> Joined:
        """Write the first row, where there is a fleet to join.

        Called before each reading of the mailboxes, on the thread that reads them.

        Raises:
            DatabaseError: the database did not answer, so nothing is known of the others.
        """
        asked_at = self._clock()
        if not self.is_alone:
            return Joined(asked_at)
        row = self._next_row(Census(0, False))
        try:
            rows = self._table.beat(row)
        except (NoTable, TableUnusable) as error:
            return Joined(self._clock(), trouble=error)
        except TableUnreachable as error:
            remedy = "check DATABASE_URL and that the database runs"
            raise DatabaseError(f"{error}: {remedy}") from error
        return Joined(self._clock(), asked_at, rows)

    def joined(self, joined: Joined) -> None:
        """Take in what `join` brought, when the rows are there as well."""
        if joined.trouble is not None:
            self._be_alone(joined.trouble)
        elif joined.rows is not None:
            self._beats.begin(joined.asked_at)
            self._is_new = True
            self._begin_anew()
            self._observation.saw(joined.rows, joined.asked_at, joined.at)
            self._adopt(joined.at)
            self._plan()
            self.proof.look_up_seconds = self._silence_seconds
            self.proof.gap_seconds = self._beats.gap_seconds
        self._rows_asked_at = joined.at

    def _be_alone(self, why: NoTable | TableUnusable) -> None:
        self._news.alone(why, is_new=not self.is_alone)
        self._share.adopt(None)
        self.proof.look_up_seconds = self.proof.gap_seconds = math.inf

    # Beating

    @property
    def wait_seconds(self) -> float:
        """How long the supervisor may wait before it asks `is_beat_due` again."""
        return math.inf if self.is_alone else self._beats.wait_seconds

    @property
    def able_seconds(self) -> float:
        """For how long this process has neither stood still nor watched nothing at all."""
        return self._beats.able_seconds

    def is_beat_due(self) -> bool:
        """To be asked each time that the supervisor wakes: a loop that hangs does not beat."""
        self._notice_standstill()
        return not self.is_alone and self._beats.is_due()

    def _notice_standstill(self) -> None:
        still_seconds = self._beats.stood_still()
        if still_seconds is not None and not self.is_alone:
            self._news.stood_still(still_seconds)
            self._begin_anew()
            self.proof.epoch += 1

    def _begin_anew(self) -> None:
        self._observation.begin_anew()
        self._condemned = []

    def begin_beat(self, census: Census) -> Callable[[], Callable[[], bool]]:
        """A beat, to be called on any other thread; what it returns is to be called here, and
        tells whether the view is another one.
        """
        self._beats.is_under_way = True
        self._beats.watches(census.watched)
        row = self._next_row(census)
        condemned = self._condemned

        def beat() -> Callable[[], bool]:
            asked_at = self._clock()
            try:
                rows = self._table.beat(row, condemned)
            except (TableUnreachable, TableReadOnly) as error:
                text = str(error)
                return lambda: self.not_beaten(text)
            except (NoTable, TableUnusable) as error:
                trouble = error
                return lambda: self._fell_out(trouble)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next beat comes
                logger.exception("unexpected error in a beat:")
                text = f"unexpected error {error.__class__.__name__}"
                return lambda: self.not_beaten(text)
            return lambda: self._beaten(rows, asked_at)

        return beat

    def _next_row(self, census: Census) -> Instance:
        self._number += 1
        return self._row(census)

    def _row(self, census: Census) -> Instance:
        return Instance(
            name=self._name,
            incarnation=self._incarnation,
            beat=self._number,
            leaving=False,
            view=self._share.view,
            settled=census.is_settled and self._rows_asked_at >= self._adopted_at,
            share=self._share.fingerprints[self._name],
            mailboxes=self._share.mine,
            watched=census.watched,
        )

    def not_beaten(self, text: str) -> bool:
        """A beat failed, or could not even begin."""
        self._beats.failed()
        self._news.unreachable(text)
        return False

    def _fell_out(self, trouble: NoTable | TableUnusable) -> bool:
        self._beats.is_under_way = False
        self._be_alone(trouble)
        return True

    def _beaten(self, rows: list[Instance], asked_at: float) -> bool:
        now = self._clock()
        self._notice_standstill()
        if self._beats.succeeded(asked_at):
            self._begin_anew()
        self._news.reachable()
        silent = {
            name
            for name in self._observation.others()
            if self._observation.silent_seconds(name, now) > self._beats.gap_seconds
        }
        self._observation.saw(rows, asked_at, now)
        was_forgotten = self._look_at_own_row(rows)
        is_new = self._adopt(now, silent) or was_forgotten
        self._plan()
        return is_new

    def _look_at_own_row(self, rows: Collection[Instance]) -> bool:
        """Whether the others gave this instance up; they see its row again from now on."""
        own = next((row for row in rows if row.name == self._name), None)
        if own is None:
            self._news.given_up()
            self._adopted_at = self._clock()
        elif own.incarnation != self._incarnation:
            self._news.namesake(self._name)
        return own is None

    def _adopt(self, now: float, silent: Collection[str] = ()) -> bool:
        """Act on who is there now; whether that is another view."""
        before, counts = self._share.names, self._share.counts
        names = frozenset({self._name, *self._observation.others()})
        if not self.is_alone and before == names:
            return False
        self._share.adopt(names)
        self._adopted_at = now
        if not self._is_new:
            gone = {name: counts[name] for name in before - names}
            self._news.changed(gone, silent, names - before, self._share)
        return True

    def _plan(self) -> None:
        """When to beat next: in good time to notice that another has fallen silent, and at once
        to condemn it.
        """
        silent = self._observation.silent()
        if not silent:
            self._beats.plan(self._observation.silences_at())
        elif silent != self._condemned:
            self._beats.plan([self._clock()])
        else:
            self._beats.plan()
        self._condemned = silent

    def report(self, census: Census) -> None:
        """Log the instances."""
        if not self.is_alone:
            own = self._row(census)
            show_instances([own, *self._observation.others().values()], self._name)

    # Leaving

    def leave(self) -> None:
        """Delete one's own row, so that the others take over at once; at most two seconds."""
        if self.is_alone:
            return
        row = self._next_row(Census(0, False))
        leaving = threading.Thread(target=self._leave, args=(row,), name="idle-fleet", daemon=True)
        with suppress(RuntimeError):  # no thread can be started: the others notice its silence
            leaving.start()
            leaving.join(LEAVE_SECONDS)

    def _leave(self, row: Instance) -> None:
        with suppress(NoTable, TableUnusable, TableUnreachable):
            self._table.leave(row)
