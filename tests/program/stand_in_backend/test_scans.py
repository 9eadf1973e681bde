"""The stand-in's scans of real mailboxes."""

from concurrent.futures import ThreadPoolExecutor

from tests.conftest import require
from tests.program.stand_in_backend.conftest import StandIn, add_mailbox
from tests.support.rig import stored
from tests.support.servers import Certificates, Database, Dovecot, Pymap


def test_a_scan_deletes_gambling_mail_and_nothing_else(
    stand_in: StandIn, anna: tuple[str, str], dovecot: Dovecot
) -> None:
    """Gambling mail is gone from INBOX when the answer comes; ordinary mail is still there."""
    name, id_ = anna
    dovecot.deliver(name, subject="Sunday?", sender="Mum <mum@family.example>")
    dovecot.deliver(name, subject="Hello", sender="x@news.casino.example")
    dovecot.deliver(name, subject="Your jackpot", sender="x@example.org")
    assert stand_in.scan(id_) == (3, 2)
    assert dovecot.count(name) == 1
    assert "Sunday?" in dovecot.doveadm("fetch", "-u", name, "hdr.subject", "all")


def test_mail_is_judged_without_being_marked_as_read(
    stand_in: StandIn, anna: tuple[str, str], dovecot: Dovecot
) -> None:
    """A scan leaves no trace on the mail that stays."""
    name, id_ = anna
    dovecot.deliver(name)
    assert stand_in.scan(id_) == (1, 0)
    assert dovecot.doveadm("search", "-u", name, "unseen").strip()


def test_scans_are_idempotent_and_see_new_mail_only(
    stand_in: StandIn, anna: tuple[str, str], dovecot: Dovecot
) -> None:
    """A second scan finds nothing to do; one after new mail judges that mail alone."""
    name, id_ = anna
    assert stand_in.scan(id_) == (0, 0)
    dovecot.deliver(name)
    dovecot.deliver(name, subject="casino")
    assert stand_in.scan(id_) == (2, 1)
    assert stand_in.scan(id_) == (0, 0)
    dovecot.deliver(name, subject="roulette")
    assert stand_in.scan(id_) == (1, 1)


def test_scans_of_one_mailbox_never_run_at_once(
    stand_in: StandIn, anna: tuple[str, str], dovecot: Dovecot
) -> None:
    """Of many scans asked for together, each message is judged by exactly one."""
    name, id_ = anna
    for number in range(6):
        dovecot.deliver(name, subject="casino" if number % 2 else "hello")
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(stand_in.scan, [id_] * 8))
    assert tuple(map(sum, zip(*counts, strict=True))) == (6, 3)


def test_two_rows_of_one_mailbox_are_judged_each(
    stand_in: StandIn, database: Database, anna: tuple[str, str], dovecot: Dovecot
) -> None:
    """What has been judged is remembered for each connection by itself."""
    name, first = anna
    second = add_mailbox(database, dovecot, name)
    dovecot.deliver(name)
    assert stand_in.scan(first) == stand_in.scan(second) == (1, 0)


def test_a_server_that_comes_back_with_other_uids_is_judged_anew(
    stand_in: StandIn, database: Database, certificates: Certificates
) -> None:
    """UIDVALIDITY tells that the remembered UIDs mean nothing any more; pymap is served as well."""
    with Pymap(certificates) as pymap:
        sealed = stored(pymap.password)
        id_ = database.add(pymap.user, imap_port=pymap.port, password_encrypted=sealed)
        pymap.deliver()
        pymap.deliver(subject="casino")
        assert stand_in.scan(id_) == (2, 1)
        pymap.restart()
        pymap.deliver(subject="casino")
        assert stand_in.scan(id_) == (1, 1)
        assert pymap.count() == 0


def test_starttls(stand_in: StandIn, database: Database, dovecot: Dovecot) -> None:
    """A row that says starttls is read over STARTTLS: Dovecot takes no login before it."""
    name = "starttls@example.org"
    row = {"imap_port": dovecot.starttls_port, "imap_security": "starttls"}
    id_ = add_mailbox(database, dovecot, name, **row)
    dovecot.deliver(name, subject="casino")
    assert stand_in.scan(id_) == (1, 1)


class OldDovecot(Dovecot):
    """A Dovecot that says it knows no UIDPLUS."""

    def _settings(self) -> str:
        return super()._settings() + "imap_capability = IMAP4rev1 LITERAL+ IDLE\n"


def test_a_server_without_uidplus(
    stand_in: StandIn, database: Database, certificates: Certificates
) -> None:
    """Without UIDPLUS the mail is removed by a plain EXPUNGE."""
    require("dovecot")
    with OldDovecot(certificates.server) as old:
        id_ = add_mailbox(database, old, "old@example.org")
        old.deliver("old@example.org", subject="casino")
        old.deliver("old@example.org")
        assert stand_in.scan(id_) == (2, 1)
        assert old.count("old@example.org") == 1


def test_a_password_beyond_ascii(stand_in: StandIn, database: Database, dovecot: Dovecot) -> None:
    """A password that LOGIN cannot carry goes by AUTHENTICATE PLAIN."""
    name, password = "umlaut@example.org", "pässwörd"
    id_ = add_mailbox(database, dovecot, name, password_encrypted=stored(password))
    dovecot.set_password(name, password)
    assert stand_in.scan(id_) == (0, 0)
