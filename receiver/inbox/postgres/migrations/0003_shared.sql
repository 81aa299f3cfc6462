-- reads-from: 1
-- What is wanted by whom, and which clock is believed. Replicas that do not know these columns go
-- on beside those that do; what they store is sorted by the others within a minute.

-- The canonical status, by which handlers are registered. NULL: stored by an earlier version, and
-- set once the message waits.
ALTER TABLE messages ADD COLUMN canonical text;
CREATE INDEX messages_wanted ON messages (source, canonical, due_ms, id) WHERE state = 'pending';
CREATE INDEX messages_unsorted ON messages (id) WHERE state = 'pending' AND canonical IS NULL;

-- The sources of each process (status ''), and the statuses of its handlers there.
CREATE TABLE handlers (
    process  text   NOT NULL,
    source   text   NOT NULL,
    status   text   NOT NULL,
    beat     bigint NOT NULL DEFAULT 0,  -- grows while it lives: who watches times it
    seen_ms  bigint NOT NULL,
    PRIMARY KEY (process, source, status)
);

-- The time that retention goes by: it follows the clock, but no leap of it at once.
CREATE TABLE sweeps (
    id          smallint PRIMARY KEY CHECK (id = 1),
    trusted_ms  bigint NOT NULL
);

-- Whether ask_ms is ours, which has a limit, and no longer the caller's `by`, which may be far.
ALTER TABLE expectations ADD COLUMN taken smallint NOT NULL DEFAULT 0;
CREATE INDEX expectations_wanted ON expectations (source, ask_ms) WHERE state = 'expected';
CREATE INDEX expectations_taken ON expectations (source, ask_ms)
    WHERE state = 'expected' AND taken = 1;
