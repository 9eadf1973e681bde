"""The long run: the daemon on many mailboxes, with mails and faults at random.

Quiet phases, in which nothing but mail happens, alternate with phases of faults: of the IMAP
servers, of the backend, and changes of the rows. Then the faults end, what is owed must come in,
and a table tells what was missed and what the daemon took.

The account is simple. A scan covers what had arrived in its mailbox when its request came to the
backend, provided that it was answered with success. Inactive rows get no mail; at the end all rows
are active. So in the end all mails must be covered, and those that are not were missed.
"""
