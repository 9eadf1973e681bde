"""What a server announces while a session is open, kept until the session takes it; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from .responses import Kind, Line

# What is kept of one portion, or of one answer, after it was put together. What comes in beyond it
# is a mailbox in such a turmoil that a scan, and a look by EXAMINE, tell more than counting.
MAX_EVENTS = 2000


class Phase(Enum):
    """What the lines are that are read now; the continuation means something in IDLE_BEGINS only,
    and in IDLING only lines that are at hand are read.
    """

    ANSWERS = auto()
    IDLE_BEGINS = auto()
    IDLING = auto()
    IDLE_ENDS = auto()


@dataclass(slots=True)
class IdleEvents:
    """What a server said that matters to the session, whichever call read it."""

    lines: list[Line] = field(default_factory=list)
    """EXISTS, EXPUNGE and unreadable lines since somebody last took them."""
    bye: str = ""
    """The server's words when it hung up."""
    idle_over: bool = False
    """The server ended the last IDLE by itself."""
    last: bytes = b""
    """The last line since something was sent, a tagged one without our tag, which is new each time:
    the same trouble must read the same."""
    answered: bool = False
    """The last line is the last command's own answer."""

    def add(self, line: Line) -> None:
        """Keep what the line says, in as little room as it takes.

        Growing EXISTS need only the last, EXPUNGE their number, and of what is unreadable the
        first tells enough. An EXISTS that says what the EXPUNGE since the last one left says
        nothing new.
        """
        last = self.lines[-1] if self.lines else None
        if last is None or last.kind is not line.kind:
            if not self._is_what_is_left(line):
                self.lines.append(line)
        elif line.kind is Kind.EXPUNGE:
            self.lines[-1] = Line(Kind.EXPUNGE, last.number + line.number)
        elif line.kind is Kind.EXISTS and line.number < last.number:
            self.lines.append(line)
        elif line.kind is Kind.EXISTS:
            self.lines[-1] = line
        if len(self.lines) > MAX_EVENTS:
            last_exists = [each for each in self.lines if each.kind is Kind.EXISTS][-1:]
            self.lines = [Line(Kind.TOO_MUCH), *last_exists]

    def _is_what_is_left(self, line: Line) -> bool:
        kinds = [line.kind for line in self.lines[-2:]]
        if line.kind is not Kind.EXISTS or kinds != [Kind.EXISTS, Kind.EXPUNGE]:
            return False
        exists, expunged = self.lines[-2:]
        return line.number == exists.number - expunged.number

    def take(self) -> list[Line]:
        """The lines so far; each is handed out once. The number of EXPUNGE is how many."""
        lines, self.lines = self.lines, []
        return lines
