"""The scan that a mailbox is owed, and the request for it."""
