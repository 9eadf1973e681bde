"""Messages, and how they get into a maildir."""

import shutil
import uuid
from email.message import EmailMessage
from email.utils import make_msgid
from pathlib import Path


def message(recipient: str, subject: str, sender: str, body: str) -> EmailMessage:
    """A message with a Message-ID of its own."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, recipient, subject
    mail["Message-ID"] = make_msgid(domain="example.org")
    mail.set_content(body)
    return mail


def deliver_to_maildir(maildir: Path, mail: bytes) -> None:
    """Put a message into a maildir as mail servers do; it is there when this returns."""
    name = f"{uuid.uuid4().hex}.test"
    new = maildir / "tmp" / name
    new.write_bytes(mail)
    owner = maildir.stat()
    shutil.chown(new, owner.st_uid, owner.st_gid)
    new.rename(maildir / "new" / name)
