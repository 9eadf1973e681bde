"""The whole of Rebreak's mail protection on this machine, to watch.

It starts a PostgreSQL, an IMAP server over TLS, the stand-in for the backend and the real daemon
on some mailboxes, delivers ordinary and gambling mail, and shows the daemon's own log lines. With
``--instances`` several daemons share the mailboxes, and one of them is killed. With ``--once`` it
delivers one round and says by its exit status whether everything happened: 0, or 1 with a sentence
for what did not. Nothing is left behind, however it ends.
"""
