"""How much a server may say in one answer, and how much it has said; pure."""

from __future__ import annotations

# With the copies that are made of lines and answers a session stays under 2 MiB.
MAX_ANSWER_BYTES = 256 * 1024
# What imaplib keeps of a line costs more than its bytes, where it is short: 250 were measured.
KEPT_LINE_BYTES = 256
# With lines that are not kept: 60,000 mails deleted or marked as read, each in a piece of its own.
MAX_RECEIVED_BYTES = 4 * 1024 * 1024
MAX_ANSWER_READS = 100_000


class AnswerSize:
    """Counts what comes since the answer began."""

    __slots__ = ("kept_bytes", "reads", "received_bytes")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """The next answer begins."""
        self.kept_bytes = self.received_bytes = self.reads = 0

    def add(self, size: int) -> None:
        """So many bytes came, in one piece."""
        self.kept_bytes += size
        self.received_bytes += size
        self.reads += 1

    def not_kept(self, size: int) -> None:
        """So many of them were looked at and let go."""
        self.kept_bytes -= size

    def line_kept(self) -> None:
        """A line is kept: that costs more than its bytes."""
        self.kept_bytes += KEPT_LINE_BYTES

    def excess(self) -> str:
        """Which bound is exceeded, as the log says it, or empty."""
        bounds = (self.kept_bytes, MAX_ANSWER_BYTES), (self.received_bytes, MAX_RECEIVED_BYTES)
        for size, limit in bounds:
            if size > limit:
                return f"the server sent more than {limit} bytes in one answer"
        if self.reads > MAX_ANSWER_READS:
            return f"one answer came in more than {MAX_ANSWER_READS} pieces"
        return ""
