"""The demo's own view of a mailbox, beside the daemon's and the backend's."""

from __future__ import annotations

import re
from email.message import EmailMessage

from imapclient import IMAPClient

from scripts.tools.console import Failure
from scripts.tools.demo.mails import Mail


class Inbox:
    """One mailbox, over an IMAP session that is logged in."""

    def __init__(self, address: str, client: IMAPClient) -> None:
        self.address = address
        self.delivered = 0
        self.kept: set[int] = set()
        """The UIDs that must stay."""
        self._client = client
        self._client.select_folder("INBOX", readonly=True)

    def deliver(self, mail: Mail) -> int:
        """Put ``mail`` into the mailbox; its UID."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = mail.sender, self.address, mail.subject
        message.set_content("Hello!\n")
        answer = self._client.append("INBOX", message.as_bytes())
        appended = re.search(rb"APPENDUID \d+ (\d+)", answer)  # RFC 4315, section 3
        if not appended:
            raise Failure("the IMAP server did not say which UID the delivered mail has")
        self.delivered += 1
        return int(appended[1])

    def uids(self) -> set[int]:
        """The messages that are there at this moment."""
        self._client.noop()  # a server may tell of expunged messages only here
        return set(self._client.search("ALL"))

    def check_kept(self) -> None:
        """Raises Failure where mail is gone that must stay."""
        if missing := self.kept - self.uids():
            raise Failure(f"{len(missing)} ordinary mail of {self.address} has gone missing")
