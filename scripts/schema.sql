-- The table of the default query, for development and the tests.
-- Run it as often as you like:  psql "$DATABASE_URL" -f scripts/schema.sql
-- A deployment brings its own table; MAIL_CONNECTIONS_QUERY says how to read it.

CREATE TABLE IF NOT EXISTS mail_connections (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    email text NOT NULL,
    imap_host text NOT NULL,
    imap_port integer DEFAULT 993 CHECK (imap_port BETWEEN 1 AND 65535),
    password_encrypted text,
    imap_auth text CHECK (imap_auth IN ('password', 'oauth2')),
    imap_username text,
    imap_security text CHECK (imap_security IN ('tls', 'starttls')),
    is_active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- For a table that was made before there was OAuth2.
ALTER TABLE mail_connections
    ADD COLUMN IF NOT EXISTS imap_auth text CHECK (imap_auth IN ('password', 'oauth2')),
    ALTER COLUMN password_encrypted DROP NOT NULL;

COMMENT ON TABLE mail_connections IS 'One row is one mailbox. The daemon only reads it.';
COMMENT ON COLUMN mail_connections.id IS 'The identity of the connection; sent as connectionId';
COMMENT ON COLUMN mail_connections.user_id IS 'Whose mailbox it is; sent as userId';
COMMENT ON COLUMN mail_connections.email IS
    'The address, shown in the logs; also the login name unless imap_username is there';
COMMENT ON COLUMN mail_connections.imap_host IS 'Name of the IMAP server';
COMMENT ON COLUMN mail_connections.imap_port IS 'Port of the IMAP server; NULL means 993';
COMMENT ON COLUMN mail_connections.password_encrypted IS
    'AES-256, in the layout that ENCRYPTION_LAYOUT names (default iv:tag:ciphertext); may be NULL '
    'where imap_auth is oauth2, and a change of it then has the mailbox tried again at once';
COMMENT ON COLUMN mail_connections.imap_auth IS
    'password or oauth2; NULL means password. The default query does not name it';
COMMENT ON COLUMN mail_connections.imap_username IS 'Login name where it is not the address';
COMMENT ON COLUMN mail_connections.imap_security IS
    'tls or starttls; NULL means tls, and starttls on port 143. Never plain text';
COMMENT ON COLUMN mail_connections.is_active IS 'false takes the mailbox out of service';
