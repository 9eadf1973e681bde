-- The table by which several daemons share the mailboxes: docs/fleet.md says when one needs it.
-- Run it as often as you like, as the daemon's database user:
--     psql "$DATABASE_URL" -f scripts/idle_instances.sql
-- Whoever runs it as another user names the daemon's in place of CURRENT_USER.
-- The daemon never creates it: where it is not there, a daemon is alone.

CREATE TABLE IF NOT EXISTS idle_instances (
    fleet text NOT NULL,
    name text NOT NULL,
    incarnation uuid NOT NULL,
    beat bigint NOT NULL,
    leaving boolean NOT NULL DEFAULT false,
    view text NOT NULL,
    settled boolean NOT NULL DEFAULT false,
    mailboxes integer NOT NULL DEFAULT 0,
    watched integer NOT NULL DEFAULT 0,
    version text NOT NULL DEFAULT '',
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (fleet, name)
);

-- A stranger's row would own mailboxes, and Supabase's Data API shows every table to everybody.
ALTER TABLE idle_instances ENABLE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS idle_instances_of_the_daemon ON idle_instances;
CREATE POLICY idle_instances_of_the_daemon ON idle_instances
    TO CURRENT_USER USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON idle_instances TO CURRENT_USER;

COMMENT ON TABLE idle_instances IS
    'One row is one running daemon. The daemons write it; nobody else should.';
COMMENT ON COLUMN idle_instances.fleet IS
    'Daemons with the same query, schema and way of sharing are one fleet';
COMMENT ON COLUMN idle_instances.name IS 'INSTANCE_NAME';
COMMENT ON COLUMN idle_instances.incarnation IS 'Another at each start';
COMMENT ON COLUMN idle_instances.beat IS 'Grows while the daemon is alive';
COMMENT ON COLUMN idle_instances.leaving IS 'It stops: its mailboxes are the others''';
COMMENT ON COLUMN idle_instances.view IS
    'The instances that it counts as alive (JSON), and a fingerprint of the mailboxes that this gives to it';
COMMENT ON COLUMN idle_instances.settled IS 'It watches what the view gives to it';
COMMENT ON COLUMN idle_instances.mailboxes IS 'How many mailboxes the view gives to it';
COMMENT ON COLUMN idle_instances.watched IS 'How many of these it watches';
COMMENT ON COLUMN idle_instances.started_at IS 'For people; nothing depends on it';
COMMENT ON COLUMN idle_instances.beat_at IS 'For people; nothing depends on it';
