"""Several instances share the mailboxes of one table."""
