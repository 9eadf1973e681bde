"""One IMAP session; the only package that knows IMAPClient."""
