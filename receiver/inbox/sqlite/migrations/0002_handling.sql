-- What becomes of a message after it was let in, and the jobs that are waited for.

ALTER TABLE messages ADD COLUMN platform   TEXT    NOT NULL DEFAULT 'tensorone';
ALTER TABLE messages ADD COLUMN via        TEXT    NOT NULL DEFAULT 'webhook'
    CHECK (via IN ('webhook', 'status'));        -- status: asked for at the job's status URL
ALTER TABLE messages ADD COLUMN state      TEXT    NOT NULL DEFAULT 'ignored'
    CHECK (state IN ('pending', 'running', 'handled', 'dead', 'ignored', 'skipped'));
ALTER TABLE messages ADD COLUMN attempts   INTEGER NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN due_ms     INTEGER;  -- while pending
ALTER TABLE messages ADD COLUMN handled_ms INTEGER;
ALTER TABLE messages ADD COLUMN body_kept  INTEGER NOT NULL DEFAULT 1;

CREATE INDEX messages_due ON messages (due_ms, id) WHERE state = 'pending';
CREATE INDEX messages_running ON messages (source, job_id) WHERE state = 'running';
CREATE INDEX messages_dead ON messages (id) WHERE state = 'dead';
CREATE INDEX messages_done ON messages (body_kept, received_ms)
    WHERE state IN ('handled', 'ignored', 'skipped');

-- Every index is paid for by every message, so this one holds the exceptions alone.
DROP INDEX messages_by_verdict;
CREATE INDEX messages_odd ON messages (verdict, id) WHERE verdict <> 'accepted';

-- How a job ended, as far as we know. One row a job holds what the unique index
-- messages_end held, and lets a later run's end take its place where that is wanted.
CREATE TABLE jobs (
    source     TEXT NOT NULL,
    job_id     TEXT NOT NULL,
    end_id     INTEGER NOT NULL,  -- the message
    end_status TEXT NOT NULL,     -- canonical
    end_order  TEXT,              -- the greatest signed, time-ordered id that brought it
    end_via    TEXT NOT NULL,
    PRIMARY KEY (source, job_id)
) WITHOUT ROWID;

INSERT INTO jobs
SELECT source, job_id, id,
       CASE lower(ifnull(job_status, 'completed'))
           WHEN 'timed_out' THEN 'timeout' ELSE lower(ifnull(job_status, 'completed')) END,
       NULL, 'webhook'
  FROM messages WHERE kind = 'terminal' AND verdict = 'accepted' AND job_id IS NOT NULL;

DROP INDEX messages_end;

-- Why the last attempt failed; apart from the rows, as bodies are.
CREATE TABLE failures (
    id    INTEGER PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE,
    error TEXT NOT NULL
);

-- Jobs that were submitted, and are asked for when they stay silent.
CREATE TABLE expectations (
    source           TEXT    NOT NULL,
    job_id           TEXT    NOT NULL,
    status_url       TEXT    NOT NULL,
    credentials      TEXT,               -- a name; what it stands for is never stored
    platform         TEXT    NOT NULL,
    state            TEXT    NOT NULL CHECK (state IN ('expected', 'known', 'lost')),
    created_ms       INTEGER NOT NULL,
    ask_ms           INTEGER,            -- when it is asked for next, while expected
    asked            INTEGER NOT NULL DEFAULT 0,
    failing_since_ms INTEGER,            -- the first of the failures in a row
    last_error       TEXT,
    settled_ms       INTEGER,            -- when it became known or lost
    PRIMARY KEY (source, job_id)
) WITHOUT ROWID;

CREATE INDEX expectations_due ON expectations (ask_ms) WHERE state = 'expected';
CREATE INDEX expectations_by_state ON expectations (state, created_ms);
