-- reads-from: 10
-- The gateway: endpoints, their queues, and the jobs in them. Times are milliseconds since the Unix
-- epoch by the database's clock; order within a queue is its ticket, never a time.

CREATE TABLE endpoints (
    name       TEXT PRIMARY KEY,
    rules      TEXT NOT NULL,              -- the fields that were written, as JSON
    managed    INTEGER NOT NULL DEFAULT 0, -- comes from the server's file
    paused     INTEGER NOT NULL DEFAULT 0,
    epoch      INTEGER NOT NULL DEFAULT 0, -- one more with each change of its upstream
    removed_ms INTEGER,                    -- its backlog is being ended; then the row goes
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- The scheduling state of an endpoint: what its rules say of scheduling, copied, and what was
-- learned of its upstream. Its row is the lock of all its queues and jobs: whoever changes one
-- holds it. ready_ms is when its next job may start: NULL where none waits, no place is free, or
-- it is paused. Claims find work here alone.
CREATE TABLE endpoint_load (
    endpoint         TEXT PRIMARY KEY,
    epoch            INTEGER NOT NULL,
    concurrency      INTEGER NOT NULL,
    rate             REAL,                       -- starts a second
    adaptive         INTEGER NOT NULL,
    by_class         INTEGER NOT NULL,           -- priority across customers
    once             INTEGER NOT NULL,           -- a call is made at most once
    queue_max        INTEGER NOT NULL,
    queue_max_tenant INTEGER NOT NULL,
    queue_timeout_ms INTEGER NOT NULL,
    paused           INTEGER NOT NULL DEFAULT 0,
    removed          INTEGER NOT NULL DEFAULT 0,
    queued           INTEGER NOT NULL DEFAULT 0, -- jobs that wait, of all its queues
    "window"         INTEGER NOT NULL,
    failures         INTEGER NOT NULL DEFAULT 0,
    failing_since_ms INTEGER,
    openings         INTEGER NOT NULL DEFAULT 0,
    held_until_ms    INTEGER NOT NULL DEFAULT 0,
    held_reason      TEXT,
    turned_away      INTEGER NOT NULL DEFAULT 0,
    threshold        INTEGER,
    paced_ms         REAL NOT NULL DEFAULT 0,
    served_ms        INTEGER NOT NULL DEFAULT 0, -- endpoints take turns for a process's places
    turn             INTEGER NOT NULL DEFAULT 0, -- grows with each start: the order of its queues
    starts           INTEGER NOT NULL DEFAULT 0, -- of high ones in a row (by_class)
    ready_ms         INTEGER
) WITHOUT ROWID;
CREATE INDEX endpoint_load_ready ON endpoint_load (ready_ms) WHERE ready_ms IS NOT NULL;

-- One tenant's jobs at one endpoint. ready_* is when its first job of that class is due, 0 for one
-- that waits for nothing but its turn.
CREATE TABLE queues (
    id           TEXT PRIMARY KEY,           -- endpoint/tenant
    endpoint     TEXT NOT NULL,
    tenant       TEXT NOT NULL,
    epoch        INTEGER NOT NULL DEFAULT 0, -- jobs of an earlier one were purged
    ticket       INTEGER NOT NULL DEFAULT 0, -- the last one given
    begun        INTEGER NOT NULL DEFAULT 0, -- the highest one that was started
    turn         INTEGER NOT NULL DEFAULT 0, -- the endpoint's when it was last served
    queued       INTEGER NOT NULL DEFAULT 0, -- jobs of its epoch that wait
    ready_high   INTEGER,
    ready_normal INTEGER,
    ready_low    INTEGER
) WITHOUT ROWID;
CREATE INDEX queues_high ON queues (endpoint, ready_high, turn) WHERE ready_high IS NOT NULL;
CREATE INDEX queues_normal ON queues (endpoint, ready_normal, turn) WHERE ready_normal IS NOT NULL;
CREATE INDEX queues_low ON queues (endpoint, ready_low, turn) WHERE ready_low IS NOT NULL;
CREATE INDEX queues_by_tenant ON queues (tenant);

CREATE TABLE jobs (
    id            TEXT PRIMARY KEY,
    tenant        TEXT NOT NULL,
    endpoint      TEXT NOT NULL,
    queue         TEXT NOT NULL,
    dialect       TEXT NOT NULL,
    class         INTEGER NOT NULL,           -- 0 high, 1 normal, 2 low
    epoch         INTEGER NOT NULL,
    ticket        INTEGER NOT NULL,
    state         TEXT NOT NULL,
    reason        TEXT,
    run           INTEGER NOT NULL DEFAULT 1,
    claim         INTEGER NOT NULL DEFAULT 0,
    calls         INTEGER NOT NULL DEFAULT 0, -- of this run, that went out
    tries         INTEGER NOT NULL DEFAULT 0,
    turned_away   INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    due_ms        INTEGER NOT NULL DEFAULT 0, -- 0: now, in the order of tickets
    created_ms    INTEGER NOT NULL,
    queued_ms     INTEGER NOT NULL,           -- when this run was
    started_ms    INTEGER,
    ended_ms      INTEGER,
    expires_ms    INTEGER NOT NULL,           -- ends then if it waits
    ends_ms       INTEGER,                    -- ends in any case: its time to live
    process       TEXT,                       -- who runs it, or runs its call to the end
    releasing     INTEGER NOT NULL DEFAULT 0, -- ended, but its call has not
    pruned        INTEGER NOT NULL DEFAULT 0, -- 1 its input, 2 its output; 4 all but its key
    options       TEXT NOT NULL,
    lane          TEXT,                       -- of its callback
    key           BLOB,                       -- idempotency; NULL once it no longer holds
    content       BLOB NOT NULL,              -- what must come again with the same key
    status_code   INTEGER,
    error         TEXT,
    callback      TEXT,                       -- that told the end of its last run
    input_bytes   INTEGER NOT NULL,
    output_bytes  INTEGER,                    -- of `outputs`, while it is there
    output_type   TEXT
) WITHOUT ROWID;
CREATE INDEX jobs_due ON jobs (queue, epoch, class, due_ms, ticket) WHERE state = 'queued';
CREATE INDEX jobs_busy ON jobs (endpoint, process) WHERE state = 'running' OR releasing = 1;
CREATE INDEX jobs_expiring ON jobs (expires_ms) WHERE state = 'queued';
CREATE INDEX jobs_by_tenant ON jobs (tenant, id);
CREATE UNIQUE INDEX jobs_by_key ON jobs (key) WHERE key IS NOT NULL;
CREATE INDEX jobs_finished ON jobs (endpoint, pruned, ended_ms) WHERE ended_ms IS NOT NULL;
-- What operators look for: jobs that complete never touch these.
CREATE INDEX jobs_failed ON jobs (tenant, id) WHERE state = 'failed';
CREATE INDEX jobs_timed_out ON jobs (tenant, id) WHERE state = 'timeout';
CREATE INDEX jobs_cancelled ON jobs (tenant, id) WHERE state = 'cancelled';

CREATE TABLE inputs (
    job          TEXT PRIMARY KEY,
    content_type TEXT NOT NULL,
    body         BLOB NOT NULL,
    kid          TEXT
) WITHOUT ROWID;

CREATE TABLE outputs (
    job          TEXT PRIMARY KEY, -- of its last run that ended with one
    run          INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    headers      TEXT NOT NULL,
    body         BLOB NOT NULL,
    kid          TEXT,
    ended_ms     INTEGER NOT NULL
) WITHOUT ROWID;

-- One row per call, those that never went out too.
CREATE TABLE job_attempts (
    job         TEXT NOT NULL,
    run         INTEGER NOT NULL,
    n           INTEGER NOT NULL, -- the claim that it was made under: grows, with gaps
    started_ms  INTEGER NOT NULL,
    duration_ms REAL NOT NULL,
    outcome     TEXT NOT NULL,
    status_code INTEGER,
    error       TEXT,
    process     TEXT,
    PRIMARY KEY (job, run, n)
) WITHOUT ROWID;

CREATE TABLE job_tags (
    tenant TEXT NOT NULL,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    job    TEXT NOT NULL,
    PRIMARY KEY (tenant, key, value, job)
) WITHOUT ROWID;
CREATE INDEX job_tags_by_job ON job_tags (job);

-- Processes that run jobs: each counts `beat` up, and the others watch it by their own clocks.
CREATE TABLE processes (
    id         TEXT PRIMARY KEY,
    beat       INTEGER NOT NULL,
    started_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- How long jobs waited and ran, and what they brought: log-scaled buckets.
CREATE TABLE durations (
    endpoint TEXT NOT NULL,
    day      INTEGER NOT NULL, -- days since the Unix epoch
    what     TEXT NOT NULL,    -- wait, run or bytes
    bucket   INTEGER NOT NULL,
    n        INTEGER NOT NULL,
    PRIMARY KEY (endpoint, day, what, bucket)
) WITHOUT ROWID;

-- What customers used.
CREATE TABLE job_usage (
    tenant   TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    day      INTEGER NOT NULL,
    runs     INTEGER NOT NULL DEFAULT 0,
    failed   INTEGER NOT NULL DEFAULT 0,
    run_ms   INTEGER NOT NULL DEFAULT 0,
    cost     REAL NOT NULL DEFAULT 0,
    bytes    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, endpoint, day)
) WITHOUT ROWID;

-- Purges, bulk cancels and bulk retries, fed in slices.
CREATE TABLE job_sweeps (
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL,
    what       TEXT NOT NULL, -- purge, cancel or retry
    endpoint   TEXT,
    filter     TEXT NOT NULL, -- JSON; of a purge the queue's new epoch
    callbacks  INTEGER NOT NULL DEFAULT 1,
    cursor     TEXT NOT NULL DEFAULT '',
    matched    INTEGER NOT NULL DEFAULT 0,
    matched_exactly INTEGER NOT NULL DEFAULT 1,   -- else at least so many
    done       INTEGER NOT NULL DEFAULT 0,
    skipped    INTEGER NOT NULL DEFAULT 0,
    state      TEXT NOT NULL, -- running, completed or cancelled
    created_ms INTEGER NOT NULL,
    ended_ms   INTEGER
) WITHOUT ROWID;
CREATE INDEX job_sweeps_by_tenant ON job_sweeps (tenant, id);
CREATE INDEX job_sweeps_running ON job_sweeps (id) WHERE state = 'running';
