"""The systems, and what all of them meet alike."""

SYSTEMS = ("rebreak", "imapflow", "aioimaplib", "go-imap")
# Measured where it is asked for: --systems rebreak,rebreak-tokens
WITH_TOKENS = "rebreak-tokens"

CONNECTS_AT_ONCE = 64
SCANS_AT_ONCE = 16  # the daemon's default
RECONNECT_SECONDS = 5  # likewise

MAIL_EVERY_SECONDS = 0.02
BURST = 1000
BURSTS = 5
SLOW_SCAN_SECONDS = 0.2  # what the slow backend takes for a scan
SLOW_LAST_BEGINS_SECONDS = (BURST - 1) // SCANS_AT_ONCE * SLOW_SCAN_SECONDS  # at the earliest
STORM_MAILS = 50  # that many mails come while nobody is connected
