"""Arbitrary bytes as server input, in every phase, to the real worker over real TLS."""

import ssl
import threading
from collections.abc import Callable
from contextlib import ExitStack

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rebreak_idle.worker import State
from tests.support.harness import JudgingBackend, Watched, assert_promise
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates
from tests.support.waiting import wait_for

EXAMPLES = 150
SETTLE_SECONDS = 10.0
PHASES = ("greeting", "capability", "login", "examine", "idle", "in-idle", "done", "logout")
TAG = b"<tag>"  # stands for the tag of the command under way

VALID = [
    b"* OK [CAPABILITY IMAP4rev1 IDLE AUTH=PLAIN] ready\r\n",
    b"* CAPABILITY IMAP4rev1 IDLE ID SASL-IR AUTH=PLAIN\r\n",
    b"* CAPABILITY IMAP4rev1 LOGINDISABLED\r\n",
    b"* PREAUTH hello\r\n",
    b"* BYE so long\r\n",
    b"* 5 EXISTS\r\n",
    b"* 0 EXISTS\r\n",
    b"* 99999999999 EXISTS\r\n",
    b"* 1 EXPUNGE\r\n",
    b"* 7 FETCH (FLAGS (\\Seen) UID 9)\r\n",
    b"* FLAGS (\\Answered (\\Seen))\r\n",
    b"* OK [UIDNEXT 6] next\r\n",
    b"* OK [UIDNEXT x] next\r\n",
    b"* OK [UIDVALIDITY 99999999999999999999] valid\r\n",
    b"* OK Still here\r\n",
    b'* LIST () "/" {5}\r\nINBOX\r\n',
    b"* LIST () {2147483647}\r\n",
    b"* STATUS INBOX (MESSAGES 1)\r\n",
    b"+ idling\r\n",
    b"+ \r\n",
    b"<tag> OK [CAPABILITY IMAP4rev1] done\r\n",
    b"<tag> OK done\r\n",
    b"<tag> NO [AUTHENTICATIONFAILED] no\r\n",
    b"<tag> NO [UNAVAILABLE] later\r\n",
    b"<tag> BAD what\r\n",
    b"A1 OK never asked\r\n",
    b"\r\n",
    b"(" * 3000 + b"\r\n",
]

valid = st.sampled_from(VALID)
mutated = st.builds(
    lambda line, at, piece, gone: line[: at % len(line)] + piece + line[at % len(line) + gone :],
    valid,
    st.integers(0, 4000),
    st.binary(max_size=6),
    st.integers(0, 4),
)
spliced = st.builds(
    lambda one, other, cut: one[: cut % len(one)] + other[cut % len(other) :],
    valid,
    valid,
    st.integers(0, 4000),
)
inputs = st.lists(st.one_of(valid, mutated, spliced, st.binary(max_size=60)), max_size=6)


class Fuzzed:
    """A worker whose server is honest but for one payload at a time, and one whose server is well.

    `feed` returns when the worker has done with the payload and listens to an honest server again.
    """

    def __init__(self, stack: ExitStack, certificates: Certificates) -> None:
        self.backend = stack.enter_context(JudgingBackend())
        self.box, self.well_box = Mailbox(), Mailbox()
        self.server = stack.enter_context(self._server(self.box, certificates))
        well_server = stack.enter_context(self._server(self.well_box, certificates))
        context = certificates.client_context()
        self.watched = stack.enter_context(self._watched(self.server, context, 0.4))
        self.well = stack.enter_context(self._watched(well_server, context, 1500.0))
        self.watched.wait_listening()
        self.well.wait_listening()
        self._phase = ""
        self._act: Callable[[Connection], object] = bool
        self._fed = threading.Event()
        self._fed_to: Connection | None = None
        for step in ("greeting", "capability", "login", "examine", "idle", "done", "logout"):
            self.server.on(step, lambda c, step=step: self._at(step, c))
        self.server.after("idle", lambda c: self._at("in-idle", c))

    @staticmethod
    def _server(box: Mailbox, certificates: Certificates) -> ScriptedImap:
        server = ScriptedImap(box, tls_context=certificates.server_context())
        server.capability_code_in = ("login",)  # so that CAPABILITY is asked for
        return server

    def _watched(
        self, server: ScriptedImap, context: ssl.SSLContext, renew_seconds: float
    ) -> Watched:
        return Watched(
            server,
            self.backend,
            context,
            idle_renew_seconds=renew_seconds,
            poll_interval_seconds=0.05,
            reconnect_initial_seconds=0.01,
            reconnect_max_seconds=0.02,
            auth_retry_seconds=0.01,
            imap_timeout_seconds=0.3,
        )

    def _at(self, step: str, connection: Connection) -> object:
        """Feed the payload, once, where its phase is; LOGOUT comes when EXAMINE is refused."""
        if self._fed.is_set() or not self._phase:
            return True
        if self._phase == "logout" and step == "examine":
            return connection.answer(b"NO not now")
        if step != self._phase:
            return True
        self._fed_to = connection
        self._fed.set()
        return self._act(connection)

    def feed(self, phase: str, chunks: list[bytes], instead: bool, end: str) -> None:
        def act(connection: Connection) -> bool:
            for chunk in chunks:
                connection.send(chunk.replace(TAG, connection.tag))
            if end:
                connection.end(end)
            return not instead

        self._fed.clear()
        self._act, self._phase = act, phase
        if phase not in ("done", "in-idle"):
            self._drop()
        wait_for(
            self._fed.is_set, SETTLE_SECONDS, f"the phase {phase}: {self.watched.text[-2000:]}"
        )
        fed_to, waits = self._fed_to, self.watched.waits
        commands = len(fed_to.commands)
        wait_for(
            lambda: (
                not fed_to.open
                or len(fed_to.commands) > commands
                or self.watched.waits > waits
                or self.server.connections[-1] is not fed_to
            ),
            SETTLE_SECONDS,
            "the worker to have done with it",
        )
        assert self.watched.worker.state in set(State) - {State.STOPPED}
        connections = self.server.connects
        self._drop()
        wait_for(
            lambda: any(c.idling for c in self.server.connections[connections:]),
            SETTLE_SECONDS,
            f"an honest session: {self.watched.text[-2000:]}",
        )
        assert self.watched.worker.is_alive()
        assert "unexpected error" not in self.watched.text
        assert "Traceback" not in self.watched.text

    def _drop(self) -> None:
        for connection in list(self.server.connections):
            if connection.open:
                connection.rst()


def test_any_bytes_in_any_phase(certificates: Certificates) -> None:
    """Whatever a server sends, whenever: the worker stays in its table, and mail is scanned after.

    The well mailbox's session is never touched.
    """
    with ExitStack() as stack:
        fuzzed = Fuzzed(stack, certificates)

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            st.sampled_from(PHASES),
            inputs,
            st.booleans(),
            st.sampled_from(["", "", "fin", "rst", "truncate"]),
        )
        @example("login", [b"<tag> NO no\r\n"], True, "")
        @example("in-idle", [b"* BYE x\r\n* 5 EXISTS\r\n"], False, "")
        @example("examine", [b"* OK [UIDNEXT x] \r\n"], False, "")
        @example("done", [b"<tag> BAD x\r\n"], True, "fin")
        def feed(phase: str, chunks: list[bytes], instead: bool, end: str) -> None:
            fuzzed.feed(phase, chunks, instead, end)

        feed()
        for box in (fuzzed.box, fuzzed.well_box):
            box.arrive()
            assert_promise(box, fuzzed.backend)
        assert fuzzed.well.count("reconnecting") == 0
        assert fuzzed.well.worker.state in (State.IDLING, State.SCANNING)
