"""The benchmark: what a mailbox costs, and how soon a mail is noticed.

For each number of mailboxes, each system in turn meets the same load server (`load_server`)
with nothing else running: the real daemon, and peers that do the same job (scripts/bench_peers).
It ends with a table, the raw figures and plots.

The phases: start, idling, steady mail, bursts of mail at a backend that answers at once, one burst
at a backend that takes its time for each scan, a storm of broken connections, stop.

All systems get the same rules: at most so many connection attempts at once, at most so many scan
requests at once, the same wait before the first reconnect.
"""
