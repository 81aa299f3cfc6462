-- The same tables as SQLite's, in the same order. Differs: text sorts as bytes (COLLATE "C"), as
-- ids and cursors expect; booleans are 0 and 1, so that the portable verbs run here as they are;
-- some room is left in pages whose rows change in place; vacuum comes early, and not by share of
-- the table, where rows live a few milliseconds only.

CREATE TABLE tenants (
    name       text COLLATE "C" PRIMARY KEY,
    created_ms bigint NOT NULL
);

CREATE TABLE keys (
    id         text COLLATE "C" PRIMARY KEY,
    digest     bytea NOT NULL UNIQUE,
    tenant     text COLLATE "C",         -- NULL: a platform key
    scopes     text NOT NULL,            -- space-separated
    label      text NOT NULL,
    created_ms bigint NOT NULL
);

CREATE TABLE secrets (
    id          text COLLATE "C" PRIMARY KEY,
    tenant      text COLLATE "C" NOT NULL,
    destination text COLLATE "C",        -- NULL: the tenant's
    value       text NOT NULL,
    created_ms  bigint NOT NULL,
    expires_ms  bigint,                  -- set when rotated out: the end of the overlap
    revealed_ms bigint,
    revealed_by text
);
CREATE INDEX secrets_by_tenant ON secrets (tenant, id);

CREATE TABLE destinations (
    id              text COLLATE "C" PRIMARY KEY,
    tenant          text COLLATE "C" NOT NULL,
    name            text,                -- NULL: not registered, known by its URL
    url             text NOT NULL,
    policy          text,
    headers         text NOT NULL DEFAULT '[]',
    paused          smallint NOT NULL DEFAULT 0,
    disabled_reason text,
    concurrency     integer,
    rate            double precision,    -- deliveries a second
    created_ms      bigint NOT NULL,
    removed_ms      bigint
);
CREATE INDEX destinations_by_tenant ON destinations (tenant, id) WHERE removed_ms IS NULL;

-- The scheduling state of one destination, and the lock of all its deliveries: whoever changes a
-- delivery's state holds its lane's row.
CREATE TABLE lanes (
    id               text COLLATE "C" PRIMARY KEY,
    tenant           text COLLATE "C" NOT NULL,
    paused           smallint NOT NULL DEFAULT 0,
    doomed           text,               -- why its backlog is to be made dead
    concurrency      integer NOT NULL,
    rate             double precision,
    paced_ms         double precision NOT NULL DEFAULT 0,
    served_ms        bigint NOT NULL DEFAULT 0,
    "window"         integer NOT NULL,
    failures         integer NOT NULL DEFAULT 0,
    failing_since_ms bigint,
    openings         integer NOT NULL DEFAULT 0,
    held_until_ms    bigint NOT NULL DEFAULT 0,
    held_reason      text,
    ready_high       bigint,
    ready_normal     bigint,
    ready_replay     bigint
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05,
        autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX lanes_high ON lanes (tenant, ready_high) WHERE ready_high IS NOT NULL;
CREATE INDEX lanes_normal ON lanes (tenant, ready_normal) WHERE ready_normal IS NOT NULL;
CREATE INDEX lanes_replay ON lanes (tenant, ready_replay) WHERE ready_replay IS NOT NULL;
CREATE INDEX lanes_doomed ON lanes (id) WHERE doomed IS NOT NULL;

-- The same, one level up: when a tenant's turn may come, per class.
CREATE TABLE turns (
    tenant       text COLLATE "C" PRIMARY KEY,
    served_ms    bigint NOT NULL DEFAULT 0,
    ready_high   bigint,
    ready_normal bigint,
    ready_replay bigint
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX turns_high ON turns (ready_high) WHERE ready_high IS NOT NULL;
CREATE INDEX turns_normal ON turns (ready_normal) WHERE ready_normal IS NOT NULL;
CREATE INDEX turns_replay ON turns (ready_replay) WHERE ready_replay IS NOT NULL;

CREATE TABLE callbacks (
    id             text COLLATE "C" PRIMARY KEY,
    tenant         text COLLATE "C" NOT NULL,
    job_id         text COLLATE "C" NOT NULL,
    job_status     text,
    priority       smallint NOT NULL,    -- 0 high, 1 normal
    destination    text COLLATE "C" NOT NULL,
    url            text,                 -- NULL: the registered destination's
    policy         text,                 -- NULL: the destination's, else the default
    payload_size   integer NOT NULL,
    payload_sha256 bytea NOT NULL,
    pruned         smallint NOT NULL DEFAULT 0,
    key            bytea,                -- idempotency; NULL once it no longer holds
    explicit_key   smallint NOT NULL,
    content        bytea NOT NULL,       -- what must come again with the same key
    created_ms     bigint NOT NULL,
    expires_ms     bigint NOT NULL,
    state          text COLLATE "C" NOT NULL,
    class          smallint NOT NULL,    -- 0 high, 1 normal, 2 replay
    due_ms         bigint,
    lease_ms       bigint,
    claim          integer NOT NULL DEFAULT 0,
    tries          integer NOT NULL DEFAULT 0,
    attempts       integer NOT NULL DEFAULT 0,
    cancelling     smallint NOT NULL DEFAULT 0,
    finished_ms    bigint,
    last_error     text
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 1,
        autovacuum_analyze_scale_factor = 0.05);
CREATE INDEX callbacks_by_tenant ON callbacks (tenant, id);
CREATE UNIQUE INDEX callbacks_by_job ON callbacks (tenant, job_id, key);
CREATE UNIQUE INDEX callbacks_by_key ON callbacks (key) WHERE explicit_key = 1;
CREATE INDEX callbacks_pending ON callbacks (destination, class, due_ms) WHERE state = 'pending';
CREATE INDEX callbacks_expiring ON callbacks (expires_ms) WHERE state = 'pending';
CREATE INDEX callbacks_waiting ON callbacks (tenant, id) WHERE state = 'pending';
CREATE INDEX callbacks_sending ON callbacks (destination, lease_ms) WHERE state = 'sending';
CREATE INDEX callbacks_dead ON callbacks (tenant, id) WHERE state = 'dead';
CREATE INDEX callbacks_finished ON callbacks (state, pruned, finished_ms)
    WHERE finished_ms IS NOT NULL;
CREATE INDEX callbacks_cancelled ON callbacks (tenant, id) WHERE state = 'cancelled';

-- Differs: bodies stay as they are; compressing what is read once or twice costs more than it saves.
CREATE TABLE payloads (
    callback     text COLLATE "C" PRIMARY KEY,
    content_type text NOT NULL,
    headers      text NOT NULL,
    body         bytea NOT NULL
) WITH (autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE payloads ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE tags (
    tenant   text COLLATE "C" NOT NULL,
    key      text COLLATE "C" NOT NULL,
    value    text COLLATE "C" NOT NULL,
    callback text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, key, value, callback)
);
CREATE INDEX tags_by_callback ON tags (callback);

CREATE TABLE attempts (
    callback    text COLLATE "C" NOT NULL,
    n           integer NOT NULL,
    started_ms  bigint NOT NULL,
    duration_ms double precision NOT NULL,
    outcome     text NOT NULL,
    status_code integer,
    error       text,
    excerpt     text,
    PRIMARY KEY (callback, n)
);

-- Differs: each process moves numbers of its own (`seat`), which are added up when they are read;
-- else every commit of every process would wait for the same few rows.
CREATE TABLE counts (
    tenant text COLLATE "C" NOT NULL,
    state  text COLLATE "C" NOT NULL,
    seat   integer NOT NULL,
    n      bigint NOT NULL,
    PRIMARY KEY (tenant, state, seat)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE replays (
    id          text COLLATE "C" PRIMARY KEY,
    tenant      text COLLATE "C" NOT NULL,
    filter      text NOT NULL,
    rate        double precision,
    state       text COLLATE "C" NOT NULL,
    matched     integer NOT NULL,
    replayed    integer NOT NULL DEFAULT 0,
    skipped     integer NOT NULL DEFAULT 0,
    cursor      text COLLATE "C" NOT NULL DEFAULT '',
    created_ms  bigint NOT NULL,
    finished_ms bigint
);
CREATE INDEX replays_running ON replays (id) WHERE state = 'running';

-- Differs from here on: what several processes need to know of each other.

-- Each process's last commit, written in the commit itself: whoever lost the connection while
-- committing reads here whether the commit happened.
CREATE TABLE writers (
    id         text COLLATE "C" PRIMARY KEY,
    batch      bigint NOT NULL,
    seen_ms    bigint NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- How often keys, tenants and secrets were changed: who sees it grow reads them anew.
CREATE TABLE revisions (
    what text COLLATE "C" PRIMARY KEY,
    n    bigint NOT NULL
);
INSERT INTO revisions (what, n) VALUES ('access', 0);

-- The move of a SQLite file into this database: while one is not done, nothing else starts here.
CREATE TABLE moves (
    source  text COLLATE "C" PRIMARY KEY,
    done_ms bigint
);
