"""The development stand-in for Rebreak's backend: it answers the daemon's scan request for real.

    python scripts/stand_in_backend.py [--port 3016] [--blocklist scripts/blocklist.txt]

It reads the daemon's own environment (and ``.env``), listens on loopback only, and deletes mail by
two simple rules: the sender's domain, or a parent of it, is on the blocklist; or the subject or
the sender's name carries a gambling keyword. What it deletes is gone: use it on test mailboxes.

The backend's half of the contract, which the real backend keeps as well:

*   ``POST /api/mail/scan-internal`` takes ``{"connectionId", "userId", "reason"}`` as JSON, with
    ``ADMIN_SECRET`` in the header ``x-admin-secret``. Without it, or with a wrong one, the answer
    is 401 and nothing else happens. The secret is compared in constant time.
*   One scan covers all mail that arrived before it began. The daemon therefore sends one request
    for any number of announcements, and counts a mailbox as settled by it.
*   2xx means that the mailbox was really read and judged, up to its newest mail. Anything else
    leaves the scan owed, and the daemon asks again: 400 for a request that makes no sense, 404 for
    a connection that is unknown or inactive, 502 for trouble with the mailbox (its server, its
    login, its stored password), 503 for trouble with the database. "I shall do it later" is no 2xx.
*   A scan is idempotent. The daemon may ask twice for the same mail (after a lost answer, a
    reconnect, a restart); the second scan finds nothing new and does no harm.
*   Two scans of one connection never run at the same time; those of different ones do.
*   The answer is ``{"scanned": n, "blocked": m}``: messages judged by this very scan, and those of
    them that were deleted.
*   ``reason`` (``exists``, ``catch-up``, ``poll``) is for the log; all three are scanned alike.
*   ``POST`` to ``CONNECTION_STATE_PATH`` tells that a mailbox is parked, not watched, or watched
    again; here it gets a line and 204, in a real backend it is stored (docs/states.md).

Mailboxes with ``imap_auth`` ``oauth2`` get access tokens, and are scanned with them: see
``tokens.py``.

What has been judged is remembered in memory, as UIDVALIDITY and the highest UID of each mailbox
(RFC 9051, section 2.3.1.1); after a restart everything is judged once more. Unlike the real
backend it lets a row lead to any host, loopback included.
"""
