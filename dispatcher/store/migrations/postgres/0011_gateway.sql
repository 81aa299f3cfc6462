-- reads-from: 10
-- The gateway: endpoints, their queues, and the jobs in them. Times are milliseconds since the Unix
-- epoch by the database's clock; order within a queue is its ticket, never a time.
-- The same as SQLite's; what differs does so as in the first migration.

CREATE TABLE endpoints (
    name       text COLLATE "C" PRIMARY KEY,
    rules      text NOT NULL,               -- the fields that were written, as JSON
    managed    smallint NOT NULL DEFAULT 0, -- comes from the server's file
    paused     smallint NOT NULL DEFAULT 0,
    epoch      bigint NOT NULL DEFAULT 0,   -- one more with each change of its upstream
    removed_ms bigint,                      -- its backlog is being ended; then the row goes
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL
);

-- The scheduling state of an endpoint: what its rules say of scheduling, copied, and what was
-- learned of its upstream. Its row is the lock of all its queues and jobs: whoever changes one
-- holds it. ready_ms is when its next job may start: NULL where none waits, no place is free, or
-- it is paused. Claims find work here alone.
CREATE TABLE endpoint_load (
    endpoint         text COLLATE "C" PRIMARY KEY,
    epoch            bigint NOT NULL,
    concurrency      bigint NOT NULL,
    rate             double precision,          -- starts a second
    adaptive         smallint NOT NULL,
    by_class         smallint NOT NULL,         -- priority across customers
    once             smallint NOT NULL,         -- a call is made at most once
    queue_max        bigint NOT NULL,
    queue_max_tenant bigint NOT NULL,
    queue_timeout_ms bigint NOT NULL,
    paused           smallint NOT NULL DEFAULT 0,
    removed          smallint NOT NULL DEFAULT 0,
    queued           bigint NOT NULL DEFAULT 0, -- jobs that wait, of all its queues
    "window"         bigint NOT NULL,
    failures         bigint NOT NULL DEFAULT 0,
    failing_since_ms bigint,
    openings         bigint NOT NULL DEFAULT 0,
    held_until_ms    bigint NOT NULL DEFAULT 0,
    held_reason      text,
    turned_away      bigint NOT NULL DEFAULT 0,
    threshold        bigint,
    paced_ms         double precision NOT NULL DEFAULT 0,
    served_ms        bigint NOT NULL DEFAULT 0, -- endpoints take turns for a process's places
    turn             bigint NOT NULL DEFAULT 0, -- grows with each start: the order of its queues
    starts           bigint NOT NULL DEFAULT 0, -- of high ones in a row (by_class)
    ready_ms         bigint
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05,
        autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX endpoint_load_ready ON endpoint_load (ready_ms) WHERE ready_ms IS NOT NULL;

-- One tenant's jobs at one endpoint. ready_* is when its first job of that class is due, 0 for one
-- that waits for nothing but its turn.
CREATE TABLE queues (
    id           text COLLATE "C" PRIMARY KEY, -- endpoint/tenant
    endpoint     text COLLATE "C" NOT NULL,
    tenant       text COLLATE "C" NOT NULL,
    epoch        bigint NOT NULL DEFAULT 0,    -- jobs of an earlier one were purged
    ticket       bigint NOT NULL DEFAULT 0,    -- the last one given
    begun        bigint NOT NULL DEFAULT 0,    -- the highest one that was started
    turn         bigint NOT NULL DEFAULT 0,    -- the endpoint's when it was last served
    queued       bigint NOT NULL DEFAULT 0,    -- jobs of its epoch that wait
    ready_high   bigint,
    ready_normal bigint,
    ready_low    bigint
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05,
        autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX queues_high ON queues (endpoint, ready_high, turn) WHERE ready_high IS NOT NULL;
CREATE INDEX queues_normal ON queues (endpoint, ready_normal, turn) WHERE ready_normal IS NOT NULL;
CREATE INDEX queues_low ON queues (endpoint, ready_low, turn) WHERE ready_low IS NOT NULL;
CREATE INDEX queues_by_tenant ON queues (tenant);

CREATE TABLE jobs (
    id            text COLLATE "C" PRIMARY KEY,
    tenant        text COLLATE "C" NOT NULL,
    endpoint      text COLLATE "C" NOT NULL,
    queue         text COLLATE "C" NOT NULL,
    dialect       text NOT NULL,
    class         smallint NOT NULL,           -- 0 high, 1 normal, 2 low
    epoch         bigint NOT NULL,
    ticket        bigint NOT NULL,
    state         text COLLATE "C" NOT NULL,
    reason        text,
    run           bigint NOT NULL DEFAULT 1,
    claim         bigint NOT NULL DEFAULT 0,
    calls         bigint NOT NULL DEFAULT 0,   -- of this run, that went out
    tries         bigint NOT NULL DEFAULT 0,
    turned_away   bigint NOT NULL DEFAULT 0,
    interruptions bigint NOT NULL DEFAULT 0,
    due_ms        bigint NOT NULL DEFAULT 0,   -- 0: now, in the order of tickets
    created_ms    bigint NOT NULL,
    queued_ms     bigint NOT NULL,             -- when this run was
    started_ms    bigint,
    ended_ms      bigint,
    expires_ms    bigint NOT NULL,             -- ends then if it waits
    ends_ms       bigint,                      -- ends in any case: its time to live
    process       text COLLATE "C",            -- who runs it, or runs its call to the end
    releasing     smallint NOT NULL DEFAULT 0, -- ended, but its call has not
    pruned        smallint NOT NULL DEFAULT 0, -- 1 its input, 2 its output; 4 all but its key
    options       text NOT NULL,
    lane          text COLLATE "C",            -- of its callback
    key           bytea,                       -- idempotency; NULL once it no longer holds
    content       bytea NOT NULL,              -- what must come again with the same key
    status_code   bigint,
    error         text,
    callback      text COLLATE "C",            -- that told the end of its last run
    input_bytes   bigint NOT NULL,
    output_bytes  bigint,                      -- of `outputs`, while it is there
    output_type   text
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 1,
        autovacuum_analyze_scale_factor = 0.05);
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
    job          text COLLATE "C" PRIMARY KEY,
    content_type text NOT NULL,
    body         bytea NOT NULL,
    kid          text
) WITH (autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE inputs ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE outputs (
    job          text COLLATE "C" PRIMARY KEY, -- of its last run that ended with one
    run          bigint NOT NULL,
    content_type text NOT NULL,
    headers      text NOT NULL,
    body         bytea NOT NULL,
    kid          text,
    ended_ms     bigint NOT NULL
) WITH (autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE outputs ALTER COLUMN body SET STORAGE EXTERNAL;

-- One row per call, those that never went out too.
CREATE TABLE job_attempts (
    job         text COLLATE "C" NOT NULL,
    run         bigint NOT NULL,
    n           bigint NOT NULL, -- the claim that it was made under: grows, with gaps
    started_ms  bigint NOT NULL,
    duration_ms double precision NOT NULL,
    outcome     text NOT NULL,
    status_code bigint,
    error       text,
    process     text COLLATE "C",
    PRIMARY KEY (job, run, n)
);

CREATE TABLE job_tags (
    tenant text COLLATE "C" NOT NULL,
    key    text COLLATE "C" NOT NULL,
    value  text COLLATE "C" NOT NULL,
    job    text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, key, value, job)
);
CREATE INDEX job_tags_by_job ON job_tags (job);

-- Processes that run jobs: each counts `beat` up, and the others watch it by their own clocks.
CREATE TABLE processes (
    id         text COLLATE "C" PRIMARY KEY,
    beat       bigint NOT NULL,
    started_ms bigint NOT NULL
);

-- How long jobs waited and ran, and what they brought: log-scaled buckets.
CREATE TABLE durations (
    endpoint text COLLATE "C" NOT NULL,
    day      bigint NOT NULL,           -- days since the Unix epoch
    what     text COLLATE "C" NOT NULL, -- wait, run or bytes
    bucket   bigint NOT NULL,
    n        bigint NOT NULL,
    PRIMARY KEY (endpoint, day, what, bucket)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05,
        autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

-- What customers used.
CREATE TABLE job_usage (
    tenant   text COLLATE "C" NOT NULL,
    endpoint text COLLATE "C" NOT NULL,
    day      bigint NOT NULL,
    runs     bigint NOT NULL DEFAULT 0,
    failed   bigint NOT NULL DEFAULT 0,
    run_ms   bigint NOT NULL DEFAULT 0,
    cost     double precision NOT NULL DEFAULT 0,
    bytes    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, endpoint, day)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05,
        autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

-- Purges, bulk cancels and bulk retries, fed in slices.
CREATE TABLE job_sweeps (
    id         text COLLATE "C" PRIMARY KEY,
    tenant     text COLLATE "C" NOT NULL,
    what       text NOT NULL,             -- purge, cancel or retry
    endpoint   text COLLATE "C",
    filter     text NOT NULL,             -- JSON; of a purge the queue's new epoch
    callbacks  smallint NOT NULL DEFAULT 1,
    cursor     text COLLATE "C" NOT NULL DEFAULT '',
    matched    bigint NOT NULL DEFAULT 0,
    matched_exactly smallint NOT NULL DEFAULT 1,   -- else at least so many
    done       bigint NOT NULL DEFAULT 0,
    skipped    bigint NOT NULL DEFAULT 0,
    state      text COLLATE "C" NOT NULL, -- running, completed or cancelled
    created_ms bigint NOT NULL,
    ended_ms   bigint
);
CREATE INDEX job_sweeps_by_tenant ON job_sweeps (tenant, id);
CREATE INDEX job_sweeps_running ON job_sweeps (id) WHERE state = 'running';

-- How often endpoints were changed: who sees it grow reads them again.
INSERT INTO revisions (what, n) VALUES ('endpoints', 0);
