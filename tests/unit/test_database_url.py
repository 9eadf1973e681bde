"""DATABASE_URL: what of it reaches libpq, what is dropped, what is a problem."""

from __future__ import annotations

import socket
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from rebreak_idle.database_url import SSL_MODES, parse_database_url


def parsed(url: str) -> dict[str, object]:
    return dict(conninfo_to_dict(parse_database_url(url).conninfo))


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_a_plain_url(scheme: str) -> None:
    """A URL is taken as it is, under both names of its scheme."""
    database = parse_database_url(f" {scheme}://reader:secret@db.example:6543/mail\n")
    assert database.schema == ""
    assert conninfo_to_dict(database.conninfo) == {
        "user": "reader",
        "password": "secret",
        "host": "db.example",
        "port": "6543",
        "dbname": "mail",
    }


@pytest.mark.parametrize(
    "parameter",
    [
        "pgbouncer=true",
        "connection_limit=1",
        "pool_timeout=0",
        "socket_timeout=5",
        "statement_cache_size=0",
        "sslaccept=strict",
        "sslidentity=client.p12",
        "sslidentity=client.p12&sslpassword=x",
        "sslpassword=x",
        "max_idle_connection_lifetime=300",
        "supa=base-pooler.x",
        "schema=mail",
        "ssl=true",
        "ssl=0",
        "max=10&min=2&idleTimeoutMillis=30000&connectionTimeoutMillis=2000",
        "maxUses=7500&maxLifetimeSeconds=60&allowExitOnIdle=true",
        "keepAlive=true&keepAliveInitialDelayMillis=10000&query_timeout=5000",
        "statement_timeout=5000&lock_timeout=1000&idle_in_transaction_session_timeout=1",
        "max_lifetime=1800&idle_timeout=20&prepare=false&fetch_types=false&max_pipeline=1",
        "pool_max_conns=10&pool_min_conns=1&pool_max_conn_lifetime=1h30m",
        "pool_max_conn_idle_time=30m&pool_health_check_period=1m&pool_max_conn_lifetime_jitter=0",
        "default_query_exec_mode=simple_protocol&statement_cache_capacity=0",
        "pool=5&prepared_statements=false&encoding=unicode",
        "pool_size=5&max_overflow=10&pool_pre_ping=true&prepared_statement_cache_size=0",
        "conn_max_age=600",
        "workaround=supabase-pooler.vercel",
    ],
)
def test_foreign_parameters_are_dropped(parameter: str) -> None:
    """What only other programs understand is dropped, and everything else stays."""
    read = parsed(f"postgresql://u:p@h/d?sslmode=require&{parameter}&connect_timeout=3")
    assert read == {
        "user": "u",
        "password": "p",
        "host": "h",
        "dbname": "d",
        "sslmode": "require",
        "connect_timeout": "3",
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sslcert=ca.pem", {"sslrootcert": "ca.pem"}),
        ("sslcert=%2Fetc%2Fca.pem&sslmode=require", {"sslrootcert": "/etc/ca.pem"}),
        ("sslcert=ca.pem&sslidentity=me.p12&sslpassword=x", {"sslrootcert": "ca.pem"}),
        ("sslcert=ca.pem&sslpassword=x&sslaccept=strict", {"sslrootcert": "ca.pem"}),
        ("sslcert=me.pem&sslkey=me.key", {"sslcert": "me.pem", "sslkey": "me.key"}),
        (
            "sslcert=me.pem&sslkey=me.key&sslpassword=x",
            {"sslcert": "me.pem", "sslkey": "me.key", "sslpassword": "x"},
        ),
        (
            "sslkey=me.key&sslrootcert=ca.pem&sslcert=me.pem",
            {"sslkey": "me.key", "sslrootcert": "ca.pem", "sslcert": "me.pem"},
        ),
        (
            "sslcert=me.pem&sslrootcert=ca.pem",
            {"sslcert": "me.pem", "sslrootcert": "ca.pem"},
        ),
    ],
)
def test_prisma_s_certificates(given: str, expected: dict[str, str]) -> None:
    """Without ``sslkey``, ``sslcert`` is the server's CA and ``sslpassword`` nothing of libpq's."""
    read = parsed(f"postgresql://h/d?{given}")
    assert {name: read[name] for name in read if name not in ("host", "dbname", "sslmode")} == (
        expected
    )


def test_the_certificates_of_a_key_value_string_are_libpq_s() -> None:
    """A key=value string is none of Prisma's: its ``sslcert`` is the client's."""
    assert parsed("host=h sslcert=me.pem sslpassword=x") == {
        "host": "h",
        "sslcert": "me.pem",
        "sslpassword": "x",
    }


# What libpq, or psycopg, would refuse at each connect.
REFUSED = [
    ("sslmode", "no-verify", "no-verify of node-postgres is require"),
    ("sslmode", "verify_full", "give one of disable, allow, prefer, require, verify-ca, "),
    ("sslmode", "true", "give one of disable"),
    ("sslmode", "REQUIRE", "give one of disable"),
    ("channel_binding", "yes", "channel_binding that libpq does not know"),
    ("target_session_attrs", "master", "target_session_attrs that libpq does not know"),
    ("gssencmode", "on", "gssencmode that libpq does not know"),
    ("ssl_min_protocol_version", "1.2", "ssl_min_protocol_version that libpq does not know"),
    ("ssl_max_protocol_version", "TLSv9", "ssl_max_protocol_version that libpq does not know"),
    ("require_auth", "scram", "require_auth that libpq does not know"),
    ("load_balance_hosts", "yes", "load_balance_hosts that libpq does not know"),
    ("sslcertmode", "never", "sslcertmode that libpq does not know"),
    ("connect_timeout", "10s", "has a connect_timeout that is no whole number"),
    ("connect_timeout", "inf", "has a connect_timeout that is no whole number"),
    ("connect_timeout", "", "has a connect_timeout that is no whole number"),
    ("tcp_user_timeout", "30s", "has a tcp_user_timeout that is no whole number"),
    ("keepalives", "true", "has a keepalives that is no whole number"),
    ("keepalives_idle", "1.5", "has a keepalives_idle that is no whole number"),
    ("keepalives_interval", "9999999999", "has a keepalives_interval that is no whole number"),
    ("keepalives_count", "x", "has a keepalives_count that is no whole number"),
    ("port", "five", "has a port that is none"),
    ("port", "0", "has a port that is none"),
    ("port", "65536", "has a port that is none"),
    ("port", "5432,5433", "has parameters (port) that libpq does not take as they are"),
    ("hostaddr", "db.example", "has a hostaddr that is no IP address"),
    ("hostaddr", "127.0.0.1,127.0.0.2", "has parameters (host, hostaddr) that libpq does not take"),
]


@pytest.mark.parametrize(("name", "value", "told"), REFUSED)
@pytest.mark.parametrize("form", ["postgresql://u:hunter2@h/d?{}={}", "host=h user=u {}='{}'"])
def test_what_libpq_would_refuse(form: str, name: str, value: str, told: str) -> None:
    """A value that no connect could use is told at the start, in both forms, without secrets."""
    with pytest.raises(ValueError) as caught:
        parse_database_url(form.format(name, quote(value) if "://" in form else value))
    assert told in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "parameters",
    [
        *(f"sslmode={mode}" for mode in SSL_MODES),
        "sslmode=require&sslmode=prefer",
        "ssl=true",
        "channel_binding=disable",
        "target_session_attrs=read-write",
        "gssencmode=disable",
        "ssl_min_protocol_version=TLSv1.3",
        "require_auth=scram-sha-256,md5",
        "require_auth=!password",
        "load_balance_hosts=random",
        "connect_timeout=%2010%20",
        "keepalives=0&keepalives_idle=60&keepalives_interval=15&keepalives_count=3",
        "tcp_user_timeout=30000",
        "hostaddr=127.0.0.1",
        "hostaddr=%3A%3A1",
        "sslrootcert=/no/such/file&sslmode=verify-full",
        "options=-c%20statement_timeout%3D5s",
        "application_name=x%20y",
    ],
)
def test_what_libpq_knows_is_taken(parameters: str) -> None:
    """Values that libpq knows are none of our business."""
    parse_database_url(f"postgresql://u:p@h/d?{parameters}")


def test_parameters_that_do_not_go_together() -> None:
    """Each known, and refused together, is a problem as well."""
    with pytest.raises(
        ValueError, match=r"parameters \(sslmode, sslrootcert\) that libpq does not"
    ):
        parse_database_url("postgresql://h/d?sslrootcert=system&sslmode=require")
    with pytest.raises(ValueError, match="parameters that libpq does not take as they are"):
        parse_database_url(
            "postgresql://h/d?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2"
        )


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        *(("true", "require"), ("True", "require"), ("1", "require"), ("require", "require")),
        *(("false", "disable"), ("0", "disable"), ("prefer", "prefer")),
        ("verify-full", "verify-full"),
    ],
)
def test_the_ssl_of_node_postgres(value: str, mode: str) -> None:
    """It is taken as the sslmode that it means."""
    assert parsed(f"postgresql://h/d?ssl={value}") == {"host": "h", "dbname": "d", "sslmode": mode}


@pytest.mark.parametrize("value", ["maybe", "no-verify", "", "%7B%22ca%22%3A1%7D"])
def test_an_ssl_that_nobody_knows(value: str) -> None:
    """Libpq would take it for nothing: it is a problem."""
    with pytest.raises(ValueError, match="give sslmode instead"):
        parse_database_url(f"postgresql://h/d?ssl={value}")


@pytest.mark.parametrize("name", ["sslmod", "maxx", "user_name", "Host", "search_path"])
def test_what_may_be_a_slip_is_not_dropped(name: str) -> None:
    """A parameter that no program is known to have may be meant for libpq."""
    with pytest.raises(ValueError, match=f"the unknown parameter '{name}'"):
        parse_database_url(f"postgresql://h/d?{name}=x")


def test_the_environment_of_libpq_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGSSLMODE, which node-postgres reads too, is named where it is what libpq refuses."""
    monkeypatch.setenv("PGSSLMODE", "no-verify")
    with pytest.raises(ValueError) as caught:
        parse_database_url("postgresql://h/d")
    assert "sslmode (by PGSSLMODE)" in str(caught.value)
    assert "no-verify of node-postgres is require" in str(caught.value)
    parse_database_url("postgresql://h/d?sslmode=require")


def test_several_hosts_are_judged_together() -> None:
    """Counts of hosts, addresses and ports that fit one another are taken."""
    parse_database_url("postgresql://h1:5432,h2:5433/d")
    parse_database_url("postgresql://h1,h2/d?hostaddr=127.0.0.1,%3A%3A1")
    parse_database_url("host=h1,h2 port=5432")
    parse_database_url("hostaddr=127.0.0.1,127.0.0.2 port=5432,5433")


def test_nothing_is_connected_to() -> None:
    """Judging the values opens no connection, not even to the server that is named."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        port = listener.getsockname()[1]
        parse_database_url(f"postgresql://127.0.0.1:{port}/d?hostaddr=127.0.0.1")
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [("", ""), ("?schema=mail", "mail"), ("?pgbouncer=true&schema=Mail%20Box", "Mail Box")],
)
def test_schema_becomes_the_schema(parameters: str, schema: str) -> None:
    """Prisma's ``schema`` is kept aside, decoded."""
    assert parse_database_url(f"postgresql://h/d{parameters}").schema == schema


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql:///mail?host=/run/postgresql", {"host": "/run/postgresql", "dbname": "mail"}),
        ("postgresql://u@/mail?host=%2Frun", {"user": "u", "host": "/run", "dbname": "mail"}),
        ("postgresql://%2Frun%2Fpg/mail", {"host": "/run/pg", "dbname": "mail"}),
        ("postgresql://", {}),
        ("postgresql:///mail", {"dbname": "mail"}),
        ("postgresql://h1:5432,h2:5433/d", {"host": "h1,h2", "port": "5432,5433", "dbname": "d"}),
        ("postgresql://[::1]:5432/d", {"host": "::1", "port": "5432", "dbname": "d"}),
        (
            "postgresql://u:p%40ss%2Fw%3Ard%3F%23%25@h/d?connection_limit=1",
            {"user": "u", "password": "p@ss/w:rd?#%", "host": "h", "dbname": "d"},
        ),
        ("postgresql://u:a+b@h/d", {"user": "u", "password": "a+b", "host": "h", "dbname": "d"}),
        ("postgresql://h/d?password=a+b", {"password": "a+b", "host": "h", "dbname": "d"}),
        ("postgresql://h/d?password=a%26b%2B", {"password": "a&b+", "host": "h", "dbname": "d"}),
        (
            "postgresql://h/d?options=-c%20geqo%3Doff",
            {"options": "-c geqo=off", "host": "h", "dbname": "d"},
        ),
        ("host=/run dbname=mail user=u", {"host": "/run", "dbname": "mail", "user": "u"}),
        (
            r"host=h password='a b\'c' dbname=d",
            {"host": "h", "password": "a b'c", "dbname": "d"},
        ),
        ("host=h password=a://b dbname=d", {"host": "h", "password": "a://b", "dbname": "d"}),
        ("service=mail", {"service": "mail"}),
    ],
)
def test_what_libpq_understands_arrives_as_it_is(url: str, expected: dict[str, str]) -> None:
    """Sockets, several hosts, encoded passwords and key=value strings mean what libpq means."""
    assert parsed(url) == expected


def test_an_unknown_parameter_is_named() -> None:
    """A parameter that neither libpq nor Prisma knows is named, without its value."""
    with pytest.raises(ValueError, match="the unknown parameter 'no_such'") as caught:
        parse_database_url("postgresql://u:hunter2@h/d?pgbouncer=true&no_such=hunter3")
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hunter2@h/d",
        "prisma+postgres://accelerate.example/?api_key=hunter2",
        "hunter2",
        "h/hunter2",
        "postgresql://u:hunter2%@h/d",
        "postgresql://u:hunter2@[h/d",
        "postgresql://u:hunter2 x@h/d",
        "postgresql://u:hun?ter2@h/d",
        "postgresql://u:x?hunter2@h/d",
        "host=h password=hunter2 x",
        "host=h password='hunter2",
        "host=h no_such=hunter2",
        "postgresql://u:p@h/d?password=x&hunter2",
    ],
)
def test_no_secret_in_the_message(url: str) -> None:
    """What cannot be parsed is refused with what to give instead, and nothing of it is shown."""
    with pytest.raises(ValueError, match="postgresql://") as caught:
        parse_database_url(url)
    shown = f"{caught.value!s} {caught.value!r}"
    assert "hunter2" not in shown
    assert "ter2" not in shown


def test_the_repr_hides_the_connection_string() -> None:
    """A Database that gets printed shows no password."""
    assert "hunter2" not in repr(parse_database_url("postgresql://u:hunter2@h/d?schema=s"))


@given(password=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
@settings(deadline=None)
def test_an_encoded_password_is_kept(password: str) -> None:
    """Any password that is percent-encoded as it should be arrives as it is."""
    url = f"postgresql://u:{quote(password, safe='')}@h/d?schema=s&pgbouncer=true"
    assert parsed(url)["password"] == password
