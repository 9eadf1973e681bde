"""What Gmail and Outlook say to access tokens.

https://developers.google.com/workspace/gmail/imap/xoauth2-protocol,
https://github.com/simonrob/email-oauth2-proxy
"""

from tests.support.scripted_imap.connection import Connection

GMAIL_ERROR = b'{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}'
GMAIL_NO = b"NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)"
GMAIL_BYE = b"* BYE Session expired, please login again.\r\n"
OUTLOOK_NO = b"NO AUTHENTICATE failed."
OUTLOOK_BAD = b"BAD Command Error. 12"
OUTLOOK_BYE = b"* BYE Session invalidated - AccessTokenExpired\r\n"
OUTLOOK_NOT_CONNECTED = b"BAD User is authenticated but not connected."


def gmail_refuses(connection: Connection) -> bool:
    """The error in a challenge, and NO once that is answered."""
    connection.challenge(GMAIL_ERROR)
    return connection.answer(GMAIL_NO)
