"""What is made of the capabilities that a server tells."""

import pytest

from rebreak_idle.imap.capabilities import union


@pytest.mark.parametrize(
    ("told", "offered"),
    [
        ([b"IMAP4rev1 Idle"], b"IMAP4REV1 IDLE"),
        ([b"IMAP4rev1 IDLE", b"IMAP4rev1"], b"IMAP4REV1 IDLE"),
        ([b"IMAP4rev1", b"IMAP4rev1 ID", b"IMAP4rev1 IDLE"], b"IMAP4REV1 ID IDLE"),
        ([b"IMAP4rev1 LOGINDISABLED", b"IMAP4rev1"], b"IMAP4REV1"),
        ([b"IMAP4rev1", b"IMAP4rev1 LOGINDISABLED"], b"IMAP4REV1 LOGINDISABLED"),
        ([b"IMAP4rev2 ID"], b"IMAP4REV2 ID IMAP4REV1 IDLE"),
        ([b""], b""),
    ],
)
def test_the_union_of_capabilities(told: list[bytes], offered: bytes) -> None:
    """Nothing that was offered is overlooked, and LOGIN is taken for disabled by the last only."""
    assert union(told) == [offered]


def test_no_capabilities() -> None:
    """imaplib's word for no response stays what it is."""
    assert union([None]) == [None]
