"""The snippets of the documents, as a reader copies them: Node, SQL and lines of .env."""

import os
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rebreak_idle.cipher import PasswordCipher, make_key
from rebreak_idle.config import environment
from rebreak_idle.database_url import parse_database_url
from rebreak_idle.fleet.instance import Instance
from rebreak_idle.fleet.table import FleetTable, TableUnusable
from rebreak_idle.store import DEFAULT_QUERY, ConnectionStore
from tests.conftest import require
from tests.support.documents import REPOSITORY, code_in, fences_of, table_of
from tests.support.rig import ENCRYPTION_KEY
from tests.support.servers import Database, Postgres, find_program

DATABASE, FLEET, PASSWORDS = "docs/database.md", "docs/fleet.md", "docs/passwords.md"
PASSWORD = "pässwörd – 密码 🔑"
SNIPPETS = {fence.heading: fence.text for fence in fences_of(PASSWORDS, "js")}
# What ENCRYPTION_KEY is for the snippet of each encoding.
KEYS = {
    "utf8": ENCRYPTION_KEY,
    "hex": "0123456789abcdef" * 4,
    "base64": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=",
    "sha256": ENCRYPTION_KEY,
    "scrypt": ENCRYPTION_KEY,
}
LAYOUTS = [code_in(cell)[0] for cell in table_of(PASSWORDS, "`ENCRYPTION_LAYOUT`").column(0)]


def run_node(program: str, key: str) -> str:
    """What the program prints, with the variables that the page names."""
    require("node")
    done = subprocess.run(
        [find_program("node"), "-e", program],
        env={"PATH": os.environ["PATH"], "ENCRYPTION_KEY": key, "PASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def test_each_layout_and_encoding_has_its_snippet() -> None:
    """Nobody looks for his own in vain."""
    assert set(SNIPPETS) == {"Stored passwords", *KEYS, *LAYOUTS}
    cells = table_of(PASSWORDS, "`ENCRYPTION_KEY_ENCODING`").column(0)
    assert [code_in(cell)[0].partition(":")[0] for cell in cells] == list(KEYS)


def test_the_whole_program_seals_by_the_defaults() -> None:
    """The first snippet stands alone, and what it prints opens without any setting."""
    stored = run_node(SNIPPETS["Stored passwords"], ENCRYPTION_KEY)
    cipher = PasswordCipher(make_key(ENCRYPTION_KEY, "utf8"), "iv:tag:ciphertext")
    assert cipher.decrypt(stored) == PASSWORD


@pytest.mark.parametrize(("encoding", "layout"), list(product(KEYS, LAYOUTS)))
def test_what_a_snippet_seals_opens(encoding: str, layout: str) -> None:
    """Each way of making a key, with each layout, as the page puts them together."""
    program = "\n".join([
        "const crypto = require('node:crypto')",
        "const password = process.env.PASSWORD",
        SNIPPETS[encoding],
        SNIPPETS[layout],
        "console.log(stored)",
    ])  # fmt: skip
    name = "scrypt:salt" if encoding == "scrypt" else encoding
    cipher = PasswordCipher(make_key(KEYS[encoding], name), layout)
    assert cipher.decrypt(run_node(program, KEYS[encoding])) == PASSWORD


# --- SQL ------------------------------------------------------------------------------------------

TABLES = {f.heading: f.text for f in fences_of(DATABASE, "sql") if "CREATE TABLE" in f.text}
LINES = {f.heading: f.text for f in fences_of(DATABASE, "dotenv")}
INSERTS = {
    "Prisma's own naming": """INSERT INTO "MailConnection" VALUES
        ('1', '2', 'a@example.org', 'imap.example.org', 993, 'sealed', true),
        ('3', '4', 'b@example.org', 'imap.example.org', 993, 'sealed', false)""",
    "Columns with other names": """INSERT INTO accounts VALUES
        (1, gen_random_uuid(), 'a@example.org', 'imap.example.org', 'sealed', NULL),
        (2, gen_random_uuid(), 'b@example.org', 'imap.example.org', 'sealed', now())""",
    "A join": """WITH u AS (INSERT INTO users VALUES (gen_random_uuid(), now() + '1 day'),
        (gen_random_uuid(), now() - '1 day'::interval) RETURNING id, paid_until)
        INSERT INTO mailboxes SELECT gen_random_uuid(), id, CASE WHEN paid_until > now()
        THEN 'a@example.org' ELSE 'b@example.org' END, 'imap.example.org', 'sealed' FROM u""",
}


@pytest.mark.parametrize("heading", TABLES)
def test_a_query_for_another_schema(
    heading: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table and line of .env go together: of two rows the active one is watched."""
    monkeypatch.delenv("MAIL_CONNECTIONS_QUERY", raising=False)
    database.execute(TABLES[heading])
    database.execute(INSERTS[heading])
    (tmp_path / ".env").write_text(LINES[heading], encoding="utf-8")
    query = environment(tmp_path)["MAIL_CONNECTIONS_QUERY"]
    (mailbox,) = ConnectionStore(parse_database_url(database.url), query).read()
    assert (mailbox.email, mailbox.host) == ("a@example.org", "imap.example.org")
    assert not mailbox.problem


def test_every_schema_is_tried() -> None:
    """Each table has its line, and each has rows here."""
    assert set(TABLES) == set(LINES) == set(INSERTS)


@pytest.fixture
def role(postgres: Postgres, database: Database) -> Iterator[str]:
    """The role of the page, which is the cluster's and not the database's: dropped afterwards."""
    yield "rebreak_idle"
    database.execute("DROP OWNED BY rebreak_idle")
    postgres.execute("DROP ROLE rebreak_idle")


def url_of(role: str, database: Database) -> str:
    """The database, as that role of the page sees it."""
    parameters: dict[str, Any] = conninfo_to_dict(database.url)
    return make_conninfo(**(parameters | {"user": role, "password": "change-me"}))


def test_the_user_s_rights_and_the_policy(database: Database, role: str) -> None:
    """SELECT is all it takes; under row-level security it sees nothing without the policy."""
    sql = {f.heading: f.text for f in fences_of(DATABASE, "sql")}
    database.add("a@example.org")
    database.execute(sql["The user"])
    store = ConnectionStore(parse_database_url(url_of(role, database)), DEFAULT_QUERY)
    assert len(store.read()) == 1
    database.execute("ALTER TABLE mail_connections ENABLE ROW LEVEL SECURITY")
    assert store.read() == []
    database.execute(sql["Row-level security"])
    assert len(store.read()) == 1


def fleet_of(role: str, database: Database) -> FleetTable:
    """The table of several daemons, made by its script and used by the role of the page."""
    database.execute(next(f.text for f in fences_of(DATABASE, "sql") if f.heading == "The user"))
    database.execute((REPOSITORY / "scripts/idle_instances.sql").read_text("utf-8"))
    return FleetTable(parse_database_url(url_of(role, database)), "fleet")


def instance(name: str, beat: int) -> Instance:
    """A row of the table."""
    incarnation = "00000000-0000-0000-0000-000000000001"
    return Instance(name, incarnation, beat, False, f'["{name}"]', False, "", 1, 1)


def test_a_daemon_s_rights_on_the_table_of_several(database: Database, role: str) -> None:
    """With what the page adds to the script the daemon's user writes, reads and deletes rows."""
    table = fleet_of(role, database)
    (sql,) = fences_of(FLEET, "sql")
    database.execute(sql.text)
    assert table.beat(instance("a", 1)) == []
    assert table.beat(instance("a", 2)) == [instance("a", 1)]
    assert table.beat(instance("b", 1), condemned=[instance("a", 2)]) == []
    table.leave(instance("b", 1))
    assert table.show() == []


@pytest.mark.parametrize("rights", ["SELECT", "ALL"])
def test_a_stranger_s_row_is_refused(database: Database, role: str, rights: str) -> None:
    """Who has no policy writes no row and sees none, even with all rights on the table."""
    stranger = fleet_of(role, database)
    FleetTable(parse_database_url(database.url), "fleet").beat(instance("a", 1))
    database.execute(f"GRANT {rights} ON idle_instances TO {role}")
    with pytest.raises(TableUnusable, match=r"row-level security|permission denied"):
        stranger.beat(instance("stranger", 1))
    if rights == "ALL":
        assert stranger.show() == []
