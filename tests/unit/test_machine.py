"""The promise, held by a machine that does everything that can happen in any order."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rebreak_idle.imap.responses import Kind, Line
from rebreak_idle.status import State
from tests.support.simulation import TOKEN_MOODS, World

MAILBOXES = 3
WITH_TOKENS = 2
mailboxes = st.integers(0, MAILBOXES - 1).map(str)
mostly = st.sampled_from([True, True, True, False])
# After whatever happened: longer than any wait of the daemon, a park of six hours included.
LONG_SECONDS = 8 * 3600.0
AT_ONCE_SECONDS = 1.0


class Promise(RuleBasedStateMachine):
    """Mail arrives, connections die, servers stall, the backend fails, rows change, time passes."""

    @initialize(places=st.integers(1, 2))
    def begin(self, places: int) -> None:
        self.world = World(MAILBOXES, places, WITH_TOKENS)
        self.world.refresh()

    @rule(id_=mailboxes)
    def mail_arrives(self, id_: str) -> None:
        self.world.arrive(id_)

    @rule(id_=mailboxes)
    def mail_arrives_unannounced(self, id_: str) -> None:
        server = self.world.servers[id_]
        announcing, server.announcing = server.announcing, False
        self.world.arrive(id_)
        server.announcing = announcing

    @rule(id_=mailboxes)
    def mail_arrives_and_the_connection_dies(self, id_: str) -> None:
        self.world.arrive(id_)
        self.connection_dies(id_, kept=True)

    @rule(id_=mailboxes)
    def mail_is_deleted(self, id_: str) -> None:
        self.world.servers[id_].expunge()

    @rule(id_=mailboxes, announcing=mostly)
    def server_announces(self, id_: str, announcing: bool) -> None:
        self.world.servers[id_].announcing = announcing

    @rule(id_=mailboxes, kept=st.booleans())
    def connection_dies(self, id_: str, kept: bool) -> None:
        for session in self.world.servers[id_].sessions:
            session.dead = True
            if not kept:
                session.pending.clear()

    @rule(id_=mailboxes)
    def peer_vanishes(self, id_: str) -> None:
        for session in self.world.servers[id_].sessions:
            session.vanish()

    @rule(id_=mailboxes)
    def idle_is_ended_by_the_server(self, id_: str) -> None:
        for session in self.world.servers[id_].sessions:
            session.idling = False

    @rule(id_=mailboxes)
    def nonsense_is_said(self, id_: str) -> None:
        self.world.servers[id_].announce(Line(Kind.UNREADABLE, text=b"?"))

    @rule(id_=mailboxes, up=st.booleans())
    def server_goes(self, id_: str, up: bool) -> None:
        server = self.world.servers[id_]
        server.up = up
        if not up:
            for session in server.sessions:
                session.dead = True

    @rule(id_=mailboxes, stalled=st.booleans())
    def server_stalls(self, id_: str, stalled: bool) -> None:
        self.world.servers[id_].stalled = stalled

    @rule(id_=mailboxes, refusing=st.booleans())
    def server_refuses_the_password(self, id_: str, refusing: bool) -> None:
        self.world.servers[id_].refusing = refusing

    @rule(id_=mailboxes, offered=mostly, told=mostly)
    def server_changes_its_make(self, id_: str, offered: bool, told: bool) -> None:
        server = self.world.servers[id_]
        server.offers_idle, server.tells_uidnext = offered, told

    @rule(id_=mailboxes)
    def uids_are_given_anew(self, id_: str) -> None:
        server = self.world.servers[id_]
        server.uidvalidity += 1
        server.uidnext = server.exists + 1

    @rule(
        mood=st.sampled_from(["well", "failing", "busy", "away", "unreachable"]),
        seconds=st.sampled_from([0, 3, 100]),
    )
    def backend_changes(self, mood: str, seconds: float) -> None:
        self.world.backend_mood, self.world.scan_seconds = mood, seconds

    @rule(mood=st.sampled_from(list(TOKEN_MOODS)), life=st.sampled_from([30.0, 400.0, 3600.0]))
    def backend_hands_out_other_tokens(self, mood: str, life: float) -> None:
        self.world.token_mood, self.world.token_life_seconds = mood, life

    @rule(id_=mailboxes, dies=st.booleans())
    def tokens_are_revoked(self, id_: str, dies: bool) -> None:
        self.world.servers[id_].tokens.clear()
        if dies:
            self.connection_dies(id_, kept=False)

    @rule(id_=mailboxes, ends=st.booleans())
    def server_ends_sessions_with_their_tokens(self, id_: str, ends: bool) -> None:
        self.world.servers[id_].ends_sessions = ends

    @rule(id_=mailboxes, connects=mostly)
    def inbox_cannot_be_opened(self, id_: str, connects: bool) -> None:
        self.world.servers[id_].connects_users = connects

    @rule(id_=mailboxes)
    def row_changes(self, id_: str) -> None:
        if id_ in self.world.rows:
            self.world.change_row(id_)

    @rule(id_=mailboxes, active=st.booleans())
    def row_is_activated(self, id_: str, active: bool) -> None:
        if active:
            self.world.add_row(id_)
        else:
            self.world.rows.pop(id_, None)

    @rule()
    def rows_are_read(self) -> None:
        self.world.refresh()

    @rule()
    def rows_cannot_be_read(self) -> None:
        self.world.supervisor.not_read("down")

    @rule(seconds=st.sampled_from([0.005, 0.5, 4.0, 61.0, 400.0, 1600.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @precondition(
        lambda self: (
            self.world.backend_mood == self.world.token_mood == "well"
            and not self.world.scan_seconds
        )
    )
    @rule(id_=mailboxes)
    def announced_mail_is_scanned_at_once(self, id_: str) -> None:
        """Where all is well, a mail is scanned as soon as the server tells of it."""
        server = self.world.servers[id_]
        server.up = server.offers_idle = server.announcing = server.tells_uidnext = True
        server.stalled = server.refusing = False
        server.connects_users = True
        self.world.change_row(id_)
        self.world.refresh()
        self.world.pass_time(LONG_SECONDS)
        before = len([scan for scan in self.world.scans if scan.mailbox == id_])
        self.world.arrive(id_)
        self.world.pass_time(AT_ONCE_SECONDS)
        assert not self.world.missed(id_)
        after = len([scan for scan in self.world.scans if scan.mailbox == id_])
        assert after == before + 1

    @invariant()
    def no_thread_died(self) -> None:
        if hasattr(self, "world"):
            assert len(self.world.under_way) <= self.world.places

    def teardown(self) -> None:
        """The promise: once all is well again, nothing that ever arrived is unscanned."""
        if not hasattr(self, "world"):
            return
        self.world.mend()
        self.world.pass_time(LONG_SECONDS)
        missed = {id_: self.world.missed(id_) for id_ in self.world.servers}
        self.world.end()
        assert not any(missed.values()), missed


TestPromise = Promise.TestCase
TestPromise.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_many_that_wait_for_host_and_backend_cost_nothing() -> None:
    """Fifty mailboxes that owe a scan and wait for their host are not woken to look around."""
    world = World(50, 2)
    world.refresh()
    world.pass_time(60)
    world.backend_mood = "unreachable"
    for id_, server in world.servers.items():
        world.arrive(id_)
        server.up = False
        for session in server.sessions:
            session.dead = True
    world.pass_time(600)
    before = world.turns.given
    world.pass_time(600)
    # One that is to probe its host looks each second; the backend is probed every ten.
    assert world.turns.given - before < 2 * 600 + 600
    world.mend()
    world.pass_time(LONG_SECONDS)
    assert not any(world.missed(id_) for id_ in world.servers)
    world.end()


def test_a_polled_mailbox_among_busy_ones_gets_its_scan() -> None:
    """Ten mailboxes with mail all the time do not keep an eleventh from its turn."""
    world = World(11, 1)
    world.servers["10"].offers_idle = False
    world.refresh()
    world.pass_time(60)
    world.scan_seconds = 1.0
    for _ in range(240):
        for number in range(10):
            world.arrive(str(number))
        world.arrive("10")
        world.pass_time(1)
    scans = [scan.mailbox for scan in world.scans[-200:]]
    # It is asked for mail each minute; each time its scan comes after one round of the others.
    assert scans.count("10") >= 2
    begun = [scan.begun for scan in world.scans if scan.mailbox == "10"]
    assert len(begun) >= 4
    world.mend()
    world.pass_time(LONG_SECONDS)
    world.end()


def test_nothing_is_missed_over_the_ends_of_tokens() -> None:
    """Ten hours with a mail a minute, at servers that end sessions each hour: no back-off, a token
    for each hour, and no mail that is not scanned within seconds.
    """
    world = World(3, 2, with_tokens=3)
    world.refresh()
    world.pass_time(60)
    for _ in range(600):
        for id_ in world.servers:
            world.arrive(id_)
        world.pass_time(60)
        assert not any(world.missed(id_) for id_ in world.servers)
    asked = [id_ for id_, fresh in world.token_requests if not fresh]
    assert len(asked) == len(world.token_requests)
    assert all(10 <= asked.count(id_) <= 12 for id_ in world.servers)
    assert max(worker._recovery._attempt for worker in world.workers) == 1
    world.end()


def test_a_backend_that_hands_out_no_tokens_is_not_stormed() -> None:
    """Fifty mailboxes whose tokens end while the backend is away: one request at a time probes, the
    sessions that run go on, and all return when it is back.
    """
    world = World(50, 2, with_tokens=50)
    world.refresh()
    world.pass_time(60)
    assert len(world.token_requests) == 50
    for mood in ("unreachable", "secret"):
        world.token_mood = mood
        world.pass_time(7200)  # all tokens have ended
        before = len(world.token_requests)
        world.pass_time(600)
        assert len(world.token_requests) - before <= 600 / 8 + 1
        world.token_mood = "well"
        for id_ in world.servers:
            world.arrive(id_)
        world.pass_time(420)
        assert not any(world.missed(id_) for id_ in world.servers)
    world.end()


def test_a_refused_token_is_asked_for_anew_once() -> None:
    """Revoked: a fresh one is tried at once, and works. For good: parked, and seldom tried."""
    world = World(1, 1, with_tokens=1)
    world.refresh()
    world.pass_time(60)
    server = world.servers["0"]
    server.tokens.clear()
    server.sessions[0].dead = True
    world.pass_time(10)
    assert world.token_requests == [("0", False), ("0", True)]
    assert server.sessions
    server.refusing = True
    server.sessions[0].dead = True
    world.pass_time(30)
    assert world.token_requests[2:] == [("0", True)]
    assert world.workers[0].state is State.PARKED
    world.pass_time(6 * 3600)
    assert len(world.token_requests) <= 3 + 2 * 5
    server.refusing = False
    world.pass_time(8 * 3600)
    assert server.sessions
    world.end()
