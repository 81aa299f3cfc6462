-- A copy is one within its job: two jobs may well have the same bytes as their result. And a job's
-- end is marked on its message: one table less, and one row less to write for each completion.
--
-- Checks and conditions are written with OR, since SQLite builds a table in memory for each IN of
-- more than two values, each time: that took 9 of a message's 30 µs.

CREATE TABLE new_messages (
    id            INTEGER PRIMARY KEY,      -- in the order of arrival
    source        TEXT    NOT NULL,         -- where it came in: job ids of two sources never meet
    message_id    TEXT,                     -- the signed webhook-id, where there was one
    body_sha256   BLOB    NOT NULL,
    body_bytes    INTEGER NOT NULL,
    content_type  TEXT,                     -- as sent; not signed, never trusted
    kind          TEXT    NOT NULL
        CHECK (kind = 'terminal' OR kind = 'progress' OR kind = 'opaque'),
    job_id        TEXT,
    job_status    TEXT,                     -- as sent
    verdict       TEXT    NOT NULL
        CHECK (verdict = 'accepted' OR verdict = 'conflict' OR verdict = 'late'),
    sent_ms       INTEGER,                  -- the signed webhook-timestamp
    received_ms   INTEGER NOT NULL,
    duplicates    INTEGER NOT NULL DEFAULT 0,
    last_seen_ms  INTEGER NOT NULL,
    platform      TEXT    NOT NULL,
    via           TEXT    NOT NULL          -- status: asked for at the job's status URL
        CHECK (via = 'webhook' OR via = 'status'),
    state         TEXT    NOT NULL
        CHECK (state = 'pending' OR state = 'running' OR state = 'handled' OR state = 'dead'
            OR state = 'ignored' OR state = 'skipped'),
    attempts      INTEGER NOT NULL DEFAULT 0,
    fence         INTEGER NOT NULL DEFAULT 0, -- how often it was claimed: whose attempt counts
    due_ms        INTEGER,                  -- while pending
    handled_ms    INTEGER,
    body_kept     INTEGER NOT NULL DEFAULT 1,
    is_end        INTEGER NOT NULL DEFAULT 0,
    end_order     TEXT                      -- the greatest signed, time-ordered id that brought it
);

INSERT INTO new_messages
SELECT id, source, message_id, body_sha256, body_bytes, content_type, kind, job_id, job_status,
       verdict, sent_ms, received_ms, duplicates, last_seen_ms, platform, via, state, attempts,
       attempts, due_ms, handled_ms, body_kept,
       id IN (SELECT end_id FROM jobs),
       (SELECT end_order FROM jobs WHERE jobs.end_id = messages.id)
  FROM messages;

DROP TABLE jobs;
DROP TABLE messages;
ALTER TABLE new_messages RENAME TO messages;

-- A message is stored once: its bytes, under its signed id, for its job.
CREATE UNIQUE INDEX messages_once ON messages
    (coalesce(job_id, ''), source, body_sha256, coalesce(message_id, ''));

-- A job has one end, whatever the code above believes.
CREATE UNIQUE INDEX messages_ends ON messages (job_id, source) WHERE is_end = 1;

-- Only these can contradict another message under the same signed id: an end is told by its job.
CREATE INDEX messages_by_message_id ON messages (message_id, source) WHERE kind <> 'terminal';

CREATE INDEX messages_due ON messages (due_ms, id) WHERE state = 'pending';
CREATE INDEX messages_running ON messages (source, job_id) WHERE state = 'running';
CREATE INDEX messages_dead ON messages (id) WHERE state = 'dead';
CREATE INDEX messages_done ON messages (body_kept, received_ms)
    WHERE (state = 'handled' OR state = 'ignored' OR state = 'skipped');

-- Every index is paid for by every message, so this one holds the exceptions alone.
CREATE INDEX messages_odd ON messages (verdict, id) WHERE verdict <> 'accepted';
