"""The load server of `scripts/bench`: thousands of IMAP sessions over TLS, and the scan endpoint.

One process, one thread, one selector. The mailboxes are `box<number>@bench.example`, with any
password; the connection ids of their rows end in the same number, plus one, in hexadecimal. Every
mailbox starts with mail that nobody has scanned.

It is told what to do on stdin and answers on stdout, a JSON object a line each; the first line
that it says carries its ports. It ends when stdin does. All times are of the monotonic clock, which
is the same for all processes of a machine.
"""
