"""The whole of supervisor, workers, scanners and line in simulated time.

What is real: `Supervisor`, `IdleWorker`, `Scanner`, `ScanLine`, `PendingScan`, `UidTracker`,
`Renewal`, `Hosts`, their threads. What is simulated: the clock, and with it each wait; IMAP
sessions, which keep to the contract of `rebreak_idle.imap.session.Session`; the pools of threads;
and the backend, its access tokens included. One thread runs at a time: one that waits hands the
turn back, so that a run is the same each time, and hours take milliseconds.
"""

from tests.support.simulation.world import TOKEN_MOODS, World

__all__ = ["TOKEN_MOODS", "World"]
