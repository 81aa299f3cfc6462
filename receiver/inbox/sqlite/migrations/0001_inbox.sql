-- The inbox: every message that was let in, once.

PRAGMA application_id = 1346521938;  -- "PBKR": tells our files from other programs'

CREATE TABLE messages (
    id            INTEGER PRIMARY KEY,      -- in the order of arrival
    source        TEXT    NOT NULL,         -- where it came in: job ids of two sources never meet
    message_id    TEXT,                     -- the signed webhook-id, where there was one
    body_sha256   BLOB    NOT NULL,
    body_bytes    INTEGER NOT NULL,
    content_type  TEXT,                     -- as sent; not signed, never trusted
    kind          TEXT    NOT NULL CHECK (kind IN ('terminal', 'progress', 'opaque')),
    job_id        TEXT,
    job_status    TEXT,                     -- as sent
    verdict       TEXT    NOT NULL CHECK (verdict IN ('accepted', 'conflict', 'late')),
    sent_ms       INTEGER,                  -- the signed webhook-timestamp
    received_ms   INTEGER NOT NULL,
    duplicates    INTEGER NOT NULL DEFAULT 0,
    last_seen_ms  INTEGER NOT NULL
);

-- A message is stored once: its bytes, under its signed id.
CREATE UNIQUE INDEX messages_once ON messages (source, body_sha256, ifnull(message_id, ''));

-- A job ends once, whatever the code above believes.
CREATE UNIQUE INDEX messages_end ON messages (source, job_id)
    WHERE kind = 'terminal' AND verdict = 'accepted';

CREATE INDEX messages_by_message_id ON messages (source, message_id);
CREATE INDEX messages_by_job ON messages (job_id, id);
CREATE INDEX messages_by_verdict ON messages (verdict, id);

-- Apart from the rows, so that listings and look-ups never read through bodies.
CREATE TABLE bodies (
    id    INTEGER PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE,
    body  BLOB NOT NULL
);
