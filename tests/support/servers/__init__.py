"""Real servers for the tests: private instances on loopback, ended by their own pid.

All are context managers with `stop()`, `start()` (on the same port) and `down()`, which keeps
the server away for the length of a `with` block. PostgreSQL and PgBouncer refuse to run as
root, so under root they run as `nobody`.
"""

from tests.support.servers.base import (
    RUNS_AS_ROOT,
    STOP_SECONDS,
    MissingProgramError,
    Server,
    accepts_connections,
    find_program,
    free_port,
    has_ipv6,
    run,
    server_folder,
)
from tests.support.servers.certificates import Certificates, ServerCertificate
from tests.support.servers.dovecot import Dovecot
from tests.support.servers.mail import deliver_to_maildir, message
from tests.support.servers.pgbouncer import PgBouncer
from tests.support.servers.postgres import (
    SCHEMA,
    Database,
    Postgres,
    execute,
    name_of_postgres,
    postgres_binaries,
)
from tests.support.servers.pymap import Pymap

__all__ = [
    "RUNS_AS_ROOT",
    "SCHEMA",
    "STOP_SECONDS",
    "Certificates",
    "Database",
    "Dovecot",
    "MissingProgramError",
    "PgBouncer",
    "Postgres",
    "Pymap",
    "Server",
    "ServerCertificate",
    "accepts_connections",
    "deliver_to_maildir",
    "execute",
    "find_program",
    "free_port",
    "has_ipv6",
    "message",
    "name_of_postgres",
    "postgres_binaries",
    "run",
    "server_folder",
]
