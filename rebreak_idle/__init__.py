"""Rebreak's IMAP IDLE daemon: one session per mailbox, one scan request per announced mail."""

__version__ = "0.1.0"
