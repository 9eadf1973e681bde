"""The values of a row: what is taken, and what makes it a row that cannot be used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from psycopg import sql

from rebreak_idle.cipher import PasswordCipher
from tests.support.rig import ENCRYPTION_KEY, stored
from tests.support.servers import SCHEMA, Database
from tests.unit.store.conftest import read

# A table that lets everything in: what another schema may hold.
LOOSE_TABLE = """
CREATE TABLE loose (
    id text, user_id text, email text, imap_host text, imap_port text, password_encrypted text,
    imap_username text, imap_security text, imap_auth text
)
"""
LOOSE_QUERY = "SELECT * FROM loose ORDER BY email"


@pytest.fixture
def loose(database: Database) -> Callable[..., None]:
    """Adds a row to the table that lets everything in."""
    database.execute(LOOSE_TABLE)

    def add(**fields: str | None) -> None:
        row = {
            "id": "1",
            "user_id": "u",
            "email": "m@example.org",
            "imap_host": "h",
            "password_encrypted": "p",
            **fields,
        }
        insert = sql.SQL("INSERT INTO loose ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() * len(row)),
        )
        database.execute(insert, *row.values())

    return add


@pytest.mark.parametrize("nothing", [None, "", "  "])
@pytest.mark.parametrize("column", ["id", "user_id", "email", "imap_host", "password_encrypted"])
def test_a_required_column_is_null(
    database: Database, loose: Callable[..., None], column: str, nothing: str | None
) -> None:
    """A row without a required value has its problem, and the rows around it have none."""
    loose(id="0", email="a@example.org")
    loose(**{column: nothing})
    loose(id="2", email="z@example.org")
    found = {mailbox.id: mailbox for mailbox in read(database.url, LOOSE_QUERY)}
    assert len(found) == 3
    broken = found["" if column == "id" else "1"]
    assert broken.problem == f"{column} is NULL or empty"
    assert broken.name
    assert found["0"].problem == found["2"].problem == ""


def test_all_null_columns_are_told(database: Database, loose: Callable[..., None]) -> None:
    """A row that lacks several values is told about all of them."""
    loose(imap_host=None, email=None, password_encrypted=None)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert mailbox.problem == "email, imap_host, password_encrypted is NULL or empty"


@pytest.mark.parametrize("port", [None, "", "993", " 993 "])
def test_the_usual_port(database: Database, loose: Callable[..., None], port: str | None) -> None:
    """Without a port it is 993, over TLS from the first byte."""
    loose(imap_port=port)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert (mailbox.port, mailbox.starttls, mailbox.problem) == (993, False, "")


@pytest.mark.parametrize(
    "port", ["imap", "0", "-1", "65536", "99.3", "9 3", "٩٩٣", "²", "1e3", "9" * 5000]
)
def test_a_bad_port(database: Database, loose: Callable[..., None], port: str) -> None:
    """A port that is none is that row's problem alone, shown in a few characters."""
    loose(imap_port=port)
    loose(id="2", email="z@example.org")
    broken, well = read(database.url, LOOSE_QUERY)
    assert "imap_port is" in broken.problem
    assert "not a port number" in broken.problem
    assert len(broken.problem) < 200
    assert well.problem == ""


@pytest.mark.parametrize(
    ("port", "security", "starttls"),
    [
        (None, None, False),
        ("993", "tls", False),
        ("143", None, True),
        ("143", "", True),
        ("143", "starttls", True),
        ("143", "tls", False),
        ("993", "starttls", True),
        ("587", "STARTTLS", True),
        ("993", " TLS ", False),
    ],
)
def test_security(
    database: Database,
    loose: Callable[..., None],
    port: str | None,
    security: str | None,
    starttls: bool,
) -> None:
    """TLS from the first byte unless the row says STARTTLS, or port 143 does."""
    loose(imap_port=port, imap_security=security)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert (mailbox.starttls, mailbox.problem) == (starttls, "")


@pytest.mark.parametrize("security", ["plain", "none", "ssl", "x" * 5000, "tls\x1b"])
def test_plain_text_is_no_security(
    database: Database, loose: Callable[..., None], security: str
) -> None:
    """Anything but tls and starttls is a problem, never plain text."""
    loose(imap_security=security)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert "tls or starttls" in mailbox.problem
    assert mailbox.problem.isprintable()
    assert len(mailbox.problem) < 200


@pytest.mark.parametrize("auth", ["oauth2", " OAuth2 "])
@pytest.mark.parametrize("password", [None, "", "sealed refresh token"])
def test_oauth2_needs_no_password(
    database: Database, loose: Callable[..., None], auth: str, password: str | None
) -> None:
    """The row is whole without one; one that is there is not kept, and yet its change is seen."""
    loose(imap_auth=auth, password_encrypted=password)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert (mailbox.oauth2, mailbox.problem) == (True, "")
    assert "refresh" not in mailbox.stored_password
    database.execute("UPDATE loose SET password_encrypted = 'another'")
    assert read(database.url, LOOSE_QUERY) != [mailbox]


@pytest.mark.parametrize("auth", [None, "", "password", "PASSWORD "])
def test_a_password_is_the_default(
    database: Database, loose: Callable[..., None], auth: str | None
) -> None:
    """Without the column's oauth2 the row needs its password."""
    loose(id="1", imap_auth=auth)
    loose(id="2", imap_auth=auth, password_encrypted=None)
    well, broken = read(database.url, LOOSE_QUERY)
    assert (well.oauth2, well.stored_password, well.problem) == (False, "p", "")
    assert broken.problem == "password_encrypted is NULL or empty"


@pytest.mark.parametrize("auth", ["oauth", "xoauth2", "x" * 5000, "oauth2\x1b"])
def test_a_way_to_log_in_that_is_none(
    database: Database, loose: Callable[..., None], auth: str
) -> None:
    """Anything but password and oauth2 is a problem, in one line."""
    loose(imap_auth=auth)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert "password or oauth2" in mailbox.problem
    assert mailbox.problem.isprintable()
    assert len(mailbox.problem) < 200


def test_the_schema_brings_an_old_table_up_to_date(database: Database) -> None:
    """The table of a time without OAuth2 gets the column, and lets a password be NULL."""
    database.execute("ALTER TABLE mail_connections DROP COLUMN imap_auth")
    database.execute("UPDATE mail_connections SET password_encrypted = ''")
    database.execute("ALTER TABLE mail_connections ALTER password_encrypted SET NOT NULL")
    for _ in range(2):
        database.execute(SCHEMA.read_text())
    database.add("a@example.org", imap_auth="oauth2", password_encrypted=None)
    (mailbox,) = read(database.url, "SELECT * FROM mail_connections")
    assert (mailbox.oauth2, mailbox.problem) == (True, "")


@pytest.mark.parametrize(
    ("username", "login"), [(None, "m@example.org"), ("", "m@example.org"), ("anna", "anna")]
)
def test_the_login_name(
    database: Database, loose: Callable[..., None], username: str | None, login: str
) -> None:
    """The login name is imap_username, and the address where there is none."""
    loose(imap_username=username)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert mailbox.username == login


@pytest.mark.parametrize(
    "host",
    [
        "imap.example.org:993",
        "imap.example.org:",
        "imaps://imap.example.org/",
        "imaps://imap.example.org:993",
        "https://mail.example.org/webmail",
        "//imap.example.org",
        "imap.example.org/",
        "imap.example.org/INBOX",
        "imap.example.org?x",
        "imap.example.org#x",
        "imap .example.org",
        "imap.example.org 993",
        "imap.example.org\t(SSL)",
        "imap.example.org\u00a0x",
        "imap.example.org, imap2.example.org",
        "imap.example.org;",
        '"imap.example.org"',
        "<imap.example.org>",
        "[imap.example.org]",
        "[2001:db8::1]",
        "[2001:db8::1]:993",
        "2001:db8::1::2",
        "127.0.0.1:993",
        "imap\\example",
        "imap..example.org",
        ".imap.example.org",
        ".",
        "..",
        "imap.example.org\x1b",
        "a" * 64 + ".example.org",
        "x." * 200 + "org",
    ],
)
def test_a_host_as_people_paste_it(
    database: Database, loose: Callable[..., None], host: str
) -> None:
    """A host that cannot be meant as it stands is that row's problem, which says what to mend."""
    loose(imap_host=host)
    loose(id="2", email="z@example.org")
    broken, well = read(database.url, LOOSE_QUERY)
    assert broken.problem.startswith("imap_host is ")
    assert "it takes the server's name alone" in broken.problem
    assert "a port goes into imap_port" in broken.problem
    assert broken.problem.isprintable()
    assert len(broken.problem) < 300
    assert well.problem == ""


@pytest.mark.parametrize(
    "host", ["anna@imap.example.org", "imaps://anna:hunter2@imap.example.org", "anna:h@nter2@h/"]
)
def test_a_host_with_a_user_shows_no_password(
    database: Database, loose: Callable[..., None], host: str
) -> None:
    """What stands before an @ may be a password, and is not said."""
    loose(imap_host=host)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert mailbox.problem.startswith("imap_host has an @ in it: it takes the server's name alone")
    assert "nter2" not in mailbox.problem


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("imap.example.org", "imap.example.org"),
        (" imap.example.org\n", "imap.example.org"),
        ("imap.example.org.", "imap.example.org"),
        ("IMAP.Example.ORG", "IMAP.Example.ORG"),
        ("localhost", "localhost"),
        ("mail_1.my-host.example", "mail_1.my-host.example"),
        ("b\u00fccher.example", "b\u00fccher.example"),
        ("\u0926\u0947\u0935.example", "\u0926\u0947\u0935.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
    ],
)
def test_a_host_that_is_taken(
    database: Database, loose: Callable[..., None], given: str, host: str
) -> None:
    """Names of any script and addresses are taken, without blanks around and the root's dot."""
    loose(imap_host=given)
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert (mailbox.host, mailbox.problem) == (host, "")


@pytest.mark.parametrize("output", ["hex", "escape"])
@pytest.mark.parametrize("layout", ["iv:tag:ciphertext", "iv+tag+ciphertext"])
def test_a_bytea_column(database: Database, output: str, layout: str) -> None:
    """Sealed passwords in a bytea column open, as blob and as text, however PostgreSQL shows it."""
    text = stored("p\u00e4ssword")
    data = text.encode() if ":" in layout else bytes.fromhex(text.replace(":", ""))
    database.execute(LOOSE_TABLE.replace("password_encrypted text", "password_encrypted bytea"))
    database.execute("INSERT INTO loose VALUES ('1', 'u', 'm@example.org', 'h', NULL, %s)", data)
    database.execute(f"ALTER DATABASE {database.name} SET bytea_output = '{output}'")
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert mailbox.problem == ""
    cipher = PasswordCipher(ENCRYPTION_KEY.encode()[:32], layout)
    assert cipher.decrypt(mailbox.stored_password) == "p\u00e4ssword"


@pytest.mark.parametrize("encoding", ["latin1", "no_such"])
def test_the_client_encoding_is_ours(
    database: Database, loose: Callable[..., None], encoding: str
) -> None:
    """Rows are read in UTF-8, whatever encoding the URL asks for."""
    loose(imap_username="b\u00fccher")
    (mailbox,) = read(f"{database.url}?client_encoding={encoding}", LOOSE_QUERY)
    assert mailbox.username == "b\u00fccher"


def test_a_row_that_is_returned_twice(database: Database, loose: Callable[..., None]) -> None:
    """A join that repeats a row does no harm."""
    loose()
    loose()
    (mailbox,) = read(database.url, LOOSE_QUERY)
    assert mailbox.problem == ""


def test_rows_that_share_an_id(database: Database, loose: Callable[..., None]) -> None:
    """Different rows with one id are one mailbox that cannot be used, in whichever order."""
    for host in ("one", "two", "one", "two"):
        loose(imap_host=host)
    loose(id="2", email="z@example.org")
    shared, well = read(database.url, LOOSE_QUERY)
    assert (shared.id, well.id) == ("1", "2")
    assert "share this id" in shared.problem
    assert well.problem == ""
