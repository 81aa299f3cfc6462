-- The inbox: every message that was let in, once; what became of it; and the jobs that are waited
-- for. In a schema of its own, so that a database of the customer's may hold it.

CREATE TABLE messages (
    id            bigserial PRIMARY KEY,    -- in the order of arrival at one replica
    source        text     NOT NULL,        -- where it came in: job ids of two sources never meet
    message_id    text,                     -- the signed webhook-id, where there was one
    body_sha256   bytea    NOT NULL,
    body_bytes    bigint   NOT NULL,
    content_type  text,                     -- as sent; not signed, never trusted
    kind          text     NOT NULL CHECK (kind IN ('terminal', 'progress', 'opaque')),
    job_id        text,
    job_status    text,                     -- as sent
    verdict       text     NOT NULL CHECK (verdict IN ('accepted', 'conflict', 'late')),
    sent_ms       bigint,                   -- the signed webhook-timestamp
    received_ms   bigint   NOT NULL,
    duplicates    bigint   NOT NULL DEFAULT 0,
    last_seen_ms  bigint   NOT NULL,
    platform      text     NOT NULL,
    via           text     NOT NULL CHECK (via IN ('webhook', 'status')),
    state         text     NOT NULL
        CHECK (state IN ('pending', 'running', 'handled', 'dead', 'ignored', 'skipped')),
    attempts      bigint   NOT NULL DEFAULT 0,
    fence         bigint   NOT NULL DEFAULT 0, -- how often it was claimed: whose attempt counts
    due_ms        bigint,                   -- while pending
    lease_ms      bigint,                   -- while running: until when, by the database's clock
    handled_ms    bigint,
    body_kept     smallint NOT NULL DEFAULT 1,
    is_end        smallint NOT NULL DEFAULT 0,
    end_order     text COLLATE "C"          -- the greatest signed, time-ordered id that brought it
) WITH (fillfactor = 85);                   -- room for the states that a message goes through

-- A message is stored once: its bytes, under its signed id, for its job.
CREATE UNIQUE INDEX messages_once ON messages
    (coalesce(job_id, ''), source, body_sha256, coalesce(message_id, ''));

-- A job has one end, and one handler at work, whatever the code above believes.
CREATE UNIQUE INDEX messages_ends ON messages (job_id, source) WHERE is_end = 1;
CREATE UNIQUE INDEX messages_running ON messages (job_id, source) WHERE state = 'running';

-- Only these can contradict another message under the same signed id: an end is told by its job.
CREATE INDEX messages_by_message_id ON messages (message_id, source) WHERE kind <> 'terminal';

CREATE INDEX messages_due ON messages (due_ms, id) WHERE state = 'pending';
CREATE INDEX messages_dead ON messages (id) WHERE state = 'dead';
CREATE INDEX messages_done ON messages (body_kept, received_ms)
    WHERE state IN ('handled', 'ignored', 'skipped');
CREATE INDEX messages_odd ON messages (verdict, id) WHERE verdict <> 'accepted';

-- Apart from the rows: a change of state must not write the body again.
CREATE TABLE bodies (
    id    bigint PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE,
    body  bytea NOT NULL
);

-- Why the last attempt failed.
CREATE TABLE failures (
    id    bigint PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE,
    error text NOT NULL
);

-- Jobs that were submitted, and are asked for when they stay silent.
CREATE TABLE expectations (
    source           text   NOT NULL,
    job_id           text   NOT NULL,
    status_url       text   NOT NULL,
    credentials      text,               -- a name; what it stands for is never stored
    platform         text   NOT NULL,
    state            text   NOT NULL CHECK (state IN ('expected', 'known', 'lost')),
    created_ms       bigint NOT NULL,
    ask_ms           bigint,             -- when it is asked for next, while expected
    asked            bigint NOT NULL DEFAULT 0,
    failing_since_ms bigint,             -- the first of the failures in a row
    last_error       text,
    settled_ms       bigint,             -- when it became known or lost
    PRIMARY KEY (source, job_id)
);

CREATE INDEX expectations_due ON expectations (ask_ms) WHERE state = 'expected';
CREATE INDEX expectations_by_state ON expectations (state, created_ms);
