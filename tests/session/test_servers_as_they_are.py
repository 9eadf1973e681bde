"""What servers in the world do, whether the grammar allows it or not: the real worker against each
of them, over real sockets.
"""

import re
import select
import ssl
from collections.abc import Callable

import pytest

from tests.support.harness import JudgingBackend, Watched, assert_promise, assert_stays
from tests.support.recording_backend import RecordingBackend
from tests.support.scripted_imap import Connection, Mailbox, ScriptedImap
from tests.support.servers import Certificates
from tests.support.waiting import wait_for

POLLED = ("IMAP4rev1", "ID")
MUTE = "did not announce mail that came"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox(exists=5)


def wait_scans(backend: RecordingBackend, number: int) -> None:
    wait_for(lambda: len(backend.scans) >= number, 10, f"{number} scans")


def wait_examined(server: ScriptedImap, number: int) -> None:
    """Wait until EXAMINE was answered, and the next IDLE begun, so many times."""

    def is_so_far() -> bool:
        commands = [command.line for each in server.connections for command in each.commands]
        return sum(b"IDLE" in line for line in commands) >= number and bool(server.idling)

    wait_for(is_so_far, 20, f"{number} times in IDLE")


# Whether mail came


@pytest.mark.parametrize("capabilities", [POLLED, (*POLLED, "IDLE")], ids=["polled", "idle"])
@pytest.mark.parametrize("uidnext", [b"UIDNEXT 0", b"UIDNEXT 00", b"UIDNEXT NIL", b"NOSUCH 7"])
def test_without_a_uidnext_the_number_of_messages_tells(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    uidnext: bytes,
    capabilities: tuple[str, ...],
) -> None:
    """0 is no UID: mail that only the number of messages shows is scanned."""
    server.capabilities_after_login = capabilities
    for step in ("examine", "status"):
        server.rewrite(step, lambda out: re.sub(rb"UIDNEXT \d+", uidnext, out))
    with Watched(server, backend, context, idle_renew_seconds=0.5):
        wait_scans(backend, 1)
        mailbox.arrive(announce=False)
        assert_promise(mailbox, backend)


def test_a_uidvalidity_of_zero_is_none(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """Nothing can be compared by it, so mail is scanned all the same."""
    server.rewrite("examine", lambda out: re.sub(rb"UIDVALIDITY \d+", b"UIDVALIDITY 0", out))
    server.on("status", lambda c: c.answer(b"BAD Unknown command"))
    with Watched(server, backend, context, idle_renew_seconds=0.5):
        wait_scans(backend, 1)
        mailbox.arrive(announce=False)
        assert_promise(mailbox, backend)


def test_mail_that_is_in_exists_and_not_yet_in_uidnext(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """A server that reads UIDNEXT before the mail came and EXISTS after it: a scan, no blame."""
    with Watched(server, backend, context, idle_renew_seconds=1.0) as watched:
        wait_scans(backend, 1)
        uidnext = b"UIDNEXT %d" % mailbox.uidnext
        server.on("examine", lambda c: mailbox.arrive(announce=False), times=1)
        server.rewrite("examine", lambda out: re.sub(rb"UIDNEXT \d+", uidnext, out), times=1)
        wait_for(lambda: mailbox.arrivals, 10, "the renewal")
        assert_promise(mailbox, backend)
        wait_examined(server, 5)
        assert MUTE not in watched.text
        assert len(backend.scans) == 2


def test_a_server_without_uidnext_in_examine_is_asked_by_status(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """No scan is made at each renewal for want of knowledge; mail that came unannounced has one."""
    server.rewrite("examine", lambda out: re.sub(rb"\* OK \[UIDNEXT [^\n]*\n", b"", out))
    with Watched(server, backend, context, idle_renew_seconds=0.3):
        wait_examined(server, 5)
        assert len(backend.scans) == 1
        mailbox.arrive(announce=False)
        assert_promise(mailbox, backend)


def test_an_exists_in_the_answer_to_status_counts(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """Mail that is announced while STATUS is answered, and never again, is scanned."""
    server.rewrite("examine", lambda out: re.sub(rb"\* OK \[UIDNEXT [^\n]*\n", b"", out))
    with Watched(server, backend, context, idle_renew_seconds=0.5):
        wait_examined(server, 2)

        def arrive(connection: Connection) -> None:
            mailbox.arrive(announce=False)
            connection.send(b"* %d EXISTS\r\n" % mailbox.exists)

        server.on("status", arrive, times=1)
        wait_for(lambda: mailbox.arrivals, 10, "the renewal")
        assert_promise(mailbox, backend)


@pytest.mark.parametrize("step", ["examine", "status"])
def test_an_expunge_in_an_answer_leaves_the_count_unsure(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    step: str,
) -> None:
    """A mail that comes after it is not taken for what EXPUNGE left."""
    if step == "status":
        server.rewrite("examine", lambda out: re.sub(rb"\* OK \[UIDNEXT[^\r]*\r\n", b"", out))

    def with_expunge(out: bytes) -> bytes:
        if mailbox.exists == 4:
            return out
        del mailbox.uids[0]
        end = out.rindex(b"\r\n", 0, -2) + 2 if step == "examine" else 0
        return out[:end] + b"* 1 EXPUNGE\r\n" + out[end:]

    server.rewrite(step, with_expunge)
    with Watched(server, backend, context):
        wait_scans(backend, 1)
        server.wait_for_idling()
        mailbox.expunge(1)
        mailbox.arrive()
        assert_promise(mailbox, backend)


@pytest.mark.parametrize("pairs", [1, 3])
def test_an_exists_that_expunge_explains_announces_nothing(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    pairs: int,
) -> None:
    """Courier says after EXPUNGE how many are left: no scan, no line; mail after it has both."""
    with Watched(server, backend, context) as watched:
        wait_scans(backend, 1)
        waits = watched.wait_listening()
        for _ in range(pairs):
            mailbox.expunge(1, announce=False)
        lines = [b"* 1 EXPUNGE\r\n* %d EXISTS\r\n" % left for left in range(4, 4 - pairs, -1)]
        server.idling[0].send(b"".join(lines))
        watched.wait_listening(waits)
        assert "exists-event" not in watched.text
        assert len(backend.scans) == 1
        mailbox.arrive()
        assert_promise(mailbox, backend)
        watched.wait_line("exists-event received (new mail)")


def test_an_expunge_and_an_arrival_leave_as_many_as_before(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """One mail goes and one comes: EXISTS with the old number is new mail."""
    with Watched(server, backend, context):
        wait_scans(backend, 1)
        server.wait_for_idling()
        mailbox.expunge(1, announce=False)
        mailbox.arrive(announce=False)
        server.idling[0].send(b"* 1 EXPUNGE\r\n* 5 EXISTS\r\n")
        assert_promise(mailbox, backend)


# Renewals


def test_a_server_that_tells_only_at_done_is_renewed_sooner(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
) -> None:
    """GNU imap4d and Courier without gamin: EXISTS in the answer to DONE is not announced."""
    mailbox.announcing = False
    server.on("done", lambda c: c.send(b"* %d EXISTS\r\n" % mailbox.exists))
    with Watched(server, backend, context, idle_renew_seconds=1.0) as watched:
        wait_scans(backend, 1)
        server.wait_for_idling()
        mailbox.arrive()
        watched.wait_line("the server told of mail only as idle was ended")
        assert_promise(mailbox, backend)
        mailbox.arrive()
        watched.wait_line(MUTE)
        assert_promise(mailbox, backend)
        assert "announces mail again" not in watched.text


def test_mail_that_is_announced_in_idle_ends_the_shorter_renewals(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """After a word in IDLE the renewals are as usual again, and the log says so."""
    with Watched(server, backend, context, idle_renew_seconds=1.0) as watched:
        wait_scans(backend, 1)
        server.wait_for_idling()
        mailbox.arrive(announce=False)
        watched.wait_line(MUTE)
        server.wait_for_idling()
        mailbox.arrive()
        watched.wait_line("the server announces mail again")


def test_a_mute_server_without_uidnext_is_renewed_sooner(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """That the number of messages grew without a word is enough, the second time."""
    for step in ("examine", "status"):
        server.rewrite(step, lambda out: re.sub(rb"UIDNEXT \d+", b"UIDNEXT 0", out))
    with Watched(server, backend, context, idle_renew_seconds=1.0) as watched:
        wait_scans(backend, 1)
        server.wait_for_idling()
        mailbox.arrive(announce=False)
        watched.wait_line("the server told of mail only as idle was ended")
        mailbox.arrive(announce=False)
        watched.wait_line(MUTE)
        assert_promise(mailbox, backend)


def test_blank_lines_in_answers_are_passed_over(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """They say nothing, and end nothing."""
    for step in ("login", "examine", "idle", "done"):
        server.on(step, b"\r\n* \r\n")
    with Watched(server, backend, context, idle_renew_seconds=0.5) as watched:
        wait_examined(server, 2)
        mailbox.arrive()
        assert_promise(mailbox, backend)
        assert "trouble" not in watched.text


# Forms


def all_tagged(form: bytes) -> Callable[[bytes], bytes]:
    """A change of each tagged OK to a form in which there is no text, or other letters."""

    def change(out: bytes) -> bytes:
        return re.sub(rb"(?m)^([A-Z0-9]+) OK[^\r\n]*", rb"\1 " + form, out)

    return change


@pytest.mark.parametrize(
    "form",
    [b"OK", b"OK ", b"ok done", b" OK  done", b"Ok", b"OK []", b"OK (", b"OK[X] done", b"OK\tdone"],
)
def test_a_tagged_ok_in_any_form(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    form: bytes,
) -> None:
    """Text behind OK is optional, and its case does not matter: a session begins and renews."""
    for step in ("capability", "id", "login", "examine", "status", "idle", "done", "logout"):
        server.rewrite(step, all_tagged(form))
    server.capability_code_in = ("greeting",)
    with Watched(server, backend, context, idle_renew_seconds=0.5) as watched:
        wait_examined(server, 2)
        mailbox.arrive()
        assert_promise(mailbox, backend)
        assert "trouble" not in watched.text
        assert server.connects == 1


def test_our_tag_in_small_letters_is_our_tag(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """A server that says commands back in another case answers them all the same."""

    def lower(out: bytes) -> bytes:
        return re.sub(rb"(?m)^[A-P]{4}\d+ ", lambda found: found[0].lower(), out)

    for step in ("capability", "id", "login", "examine", "idle", "done", "logout"):
        server.rewrite(step, lower)
    server.capability_code_in = ()
    server.after("idle", lambda c: c.end_idle(b"OK Enough"), times=1)
    with Watched(server, backend, context, idle_renew_seconds=0.5) as watched:
        wait_examined(server, 4)
        mailbox.arrive()
        assert_promise(mailbox, backend)
        assert "trouble" not in watched.text
        assert "cannot be understood" not in watched.text
        assert server.connects == 1


@pytest.mark.parametrize("text", [b"no [AUTHENTICATIONFAILED] Wrong", b"NO Wrong password"])
def test_a_refusal_to_our_tag_in_small_letters(
    server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext, text: bytes
) -> None:
    """It is the login's own answer."""
    server.on("login", lambda c: c.send(c.tag.lower() + b" " + text + b"\r\n"), instead=True)
    with Watched(server, backend, context) as watched:
        assert text[-5:].decode() in watched.wait_line("the server refused the login: ")


def test_response_codes_and_keywords_in_small_letters(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """Names are known in any case, and between any number of blanks."""
    names = rb"EXISTS|UIDNEXT|UIDVALIDITY|RECENT|FLAGS|CAPABILITY|OK \["

    def lower(out: bytes) -> bytes:
        out = re.sub(names, lambda found: found[0].lower(), out)
        return re.sub(rb"(?m)^\* ", b"*  ", out)

    for step in ("greeting", "login", "examine"):
        server.rewrite(step, lower)
    with Watched(server, backend, context, idle_renew_seconds=0.3):
        wait_examined(server, 4)
        assert len(backend.scans) == 1
        mailbox.arrive(announce=False)
        assert_promise(mailbox, backend)


def test_one_command_at_a_time(
    server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """Nothing is sent before the last command was answered: some servers throw it away."""
    early: list[str] = []

    def look(connection: Connection) -> None:
        if connection._poll(select.POLLIN, 0.2):
            early.append(connection.commands[-1].line.decode())

    for step in ("capability", "id", "login", "examine", "idle"):
        server.on(step, look)
    with Watched(server, backend, context):
        server.wait_for_idling()
    assert not early


def test_a_server_that_does_not_know_id(
    server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """BAD or NO to ID is no reason not to watch."""
    server.on("id", lambda c: c.answer(b"BAD Unknown command"))
    with Watched(server, backend, context) as watched:
        server.wait_for_idling()
        assert "trouble" not in watched.text


FLAGS = b" ".join(b"Keyword-number-%d" % number for number in range(5000))


@pytest.mark.parametrize("where", ["examine", "idle", "done"])
def test_thousands_of_keywords(
    server: ScriptedImap,
    mailbox: Mailbox,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    where: str,
) -> None:
    """FLAGS and PERMANENTFLAGS of 100 KB each are read like any others."""
    said = b"* FLAGS (%s)\r\n* OK [PERMANENTFLAGS (%s \\*)] Flags\r\n" % (FLAGS, FLAGS)
    server.on("idling" if where == "idle" else where, said)
    with Watched(server, backend, context, idle_renew_seconds=0.5) as watched:
        wait_examined(server, 3)
        mailbox.arrive()
        assert_promise(mailbox, backend)
        assert "trouble" not in watched.text
        assert server.connects == 1


# Servers that say much


def expunges(number: int) -> bytes:
    return b"* 1 EXPUNGE\r\n" * number


def courier(number: int) -> bytes:
    left = range(60_000 - 1, 60_000 - 1 - number, -1)
    return b"".join(b"* 1 EXPUNGE\r\n* %d EXISTS\r\n" % count for count in left)


def marked(number: int) -> bytes:
    return b"".join(rb"* %d FETCH (FLAGS (\Seen))" % n + b"\r\n" for n in range(1, number + 1))


@pytest.mark.parametrize(
    ("say", "where"),
    [
        *((expunges, where) for where in ("idle", "done", "examine")),
        *((marked, where) for where in ("idle", "done", "examine")),
        *((courier, where) for where in ("idle", "done")),
    ],
)
def test_a_folder_is_emptied_or_marked_as_read(
    certificates: Certificates,
    backend: JudgingBackend,
    context: ssl.SSLContext,
    say: Callable[[int], bytes],
    where: str,
) -> None:
    """Tens of thousands of lines at once are read, and the session goes on; mail is scanned."""
    mailbox = Mailbox(exists=60_000)
    number = 60_000 if say is not courier else 30_000
    data = say(number)
    with ScriptedImap(mailbox, tls_context=certificates.server_context()) as server:
        server.on("idling" if where == "idle" else where, lambda c: c.send(data), times=1)
        with Watched(server, backend, context, idle_renew_seconds=2.0, imap_timeout_seconds=20.0):
            wait_examined(server, 3)
            mailbox.arrive()
            assert_promise(mailbox, backend, 20)
            assert server.connects == 1


def test_a_server_that_never_stops_talking_is_read_slowly(
    server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """Beyond a megabyte it is left alone between two readings, and its session stays."""
    server.after("idle", lambda c: c.flood(b"* OK Still here\r\n", max_bytes=8 << 20))
    with Watched(server, backend, context) as watched:
        wait_for(lambda: watched.waits > 64, 20, "a megabyte being read")
        waits = watched.waits
        assert_stays(lambda: watched.waits < waits + 40, 3.0, "few readings")
        assert server.connects == 1


def test_signs_of_life_are_named_where_time_runs_out(
    server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """EXAMINE of a huge mailbox that takes too long: the line names the setting."""
    server.on("examine", lambda c: c.drip(b"* OK 30%\r\n", 0.1, 10), instead=True)
    with Watched(server, backend, context, imap_timeout_seconds=1.0) as watched:
        line = watched.wait_line("no answer in time")
        assert "IMAP_TIMEOUT_SECONDS" in line


def test_silence_names_no_setting(
    server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """A server that says nothing at all would not be helped by more time."""
    server.on("examine", lambda c: c.silence(), instead=True)
    with Watched(server, backend, context, imap_timeout_seconds=1.0) as watched:
        assert "IMAP_TIMEOUT_SECONDS" not in watched.wait_line("no answer in time")


def test_a_refusal_is_shown_without_our_tag(
    server: ScriptedImap, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """What the server answered, not what we called the command."""
    server.on("examine", lambda c: c.answer(b"NO [NOPERM] Not yours"))
    with Watched(server, backend, context) as watched:
        line = watched.wait_line("Not yours")
        assert "'NO [NOPERM] Not yours'" in line


# Many announcements


def test_a_mailbox_that_announces_without_end_starts_a_scan_a_second(
    server: ScriptedImap, mailbox: Mailbox, backend: JudgingBackend, context: ssl.SSLContext
) -> None:
    """Three at once, then one a second; the last mail is scanned too."""
    with Watched(server, backend, context):
        server.wait_for_idling()
        while len(backend.scans) < 6:
            mailbox.arrive()
            server.connections[0].pause(0.02)
        assert_promise(mailbox, backend)
    began = [scan.arrived for scan in backend.scans]
    for number, at in enumerate(began[3:], 1):
        assert at - began[0] > number - 0.5, began
