"""Fixtures: the real servers, and the check that no test leaves a thread behind.

A server that is not installed skips the tests that need it; with CI=true it fails them.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.chrooted import Courier, Cyrus
from tests.support.daemon import Daemon
from tests.support.recording_backend import RecordingBackend
from tests.support.rig import environment
from tests.support.servers import (
    Certificates,
    Database,
    Dovecot,
    MissingProgramError,
    PgBouncer,
    Postgres,
    Pymap,
    find_program,
    name_of_postgres,
    server_folder,
)
from tests.support.waiting import threads_left_behind

THREAD_END_SECONDS = 5.0

Run = Callable[..., Daemon]


def pytest_report_header() -> str:
    return f"PostgreSQL: {name_of_postgres()}"


def require(program: str) -> None:
    """Skip the test when `program` is not installed; under CI=true fail it."""
    with programs_required():
        find_program(program)


@contextmanager
def programs_required() -> Iterator[None]:
    """Turn a missing program into a skip; under CI=true into a failure."""
    try:
        yield
    except MissingProgramError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """Fail a test whose threads do not end with it."""
    before = set(threading.enumerate())
    yield
    left = threads_left_behind(before, THREAD_END_SECONDS)
    assert not left, f"threads left behind: {', '.join(thread.name for thread in left)}"


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    with server_folder() as folder:
        yield Certificates(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with ExitStack() as stack:
        with programs_required():
            server = stack.enter_context(Postgres())
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    with Database(postgres) as fresh:
        yield fresh


@pytest.fixture
def pgbouncer(postgres: Postgres) -> Iterator[PgBouncer]:
    require("pgbouncer")
    with PgBouncer(postgres) as server:
        yield server


@pytest.fixture(scope="session")
def dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    require("dovecot")
    with Dovecot(certificates.server) as server:
        yield server


@pytest.fixture(scope="session")
def cyrus(certificates: Certificates) -> Iterator[Cyrus]:
    with ExitStack() as stack:
        with programs_required():
            server = stack.enter_context(Cyrus(certificates))
        yield server


@pytest.fixture(scope="session")
def courier(certificates: Certificates) -> Iterator[Courier]:
    with ExitStack() as stack:
        with programs_required():
            server = stack.enter_context(Courier(certificates))
        yield server


@pytest.fixture(scope="session")
def pymap(certificates: Certificates) -> Iterator[Pymap]:
    with Pymap(certificates) as server:
        yield server


@pytest.fixture
def backend() -> Iterator[RecordingBackend]:
    with RecordingBackend() as recording:
        yield recording


@pytest.fixture
def run(
    database: Database, backend: RecordingBackend, certificates: Certificates, tmp_path: Path
) -> Run:
    """Makes a daemon, to be entered with `with`; keywords are variables of its environment."""

    def make(*arguments: str, **variables: object) -> Daemon:
        values = environment(database.url, backend.url, certificates, **variables)
        return Daemon(values, tmp_path, arguments)

    return make
