-- The whole path of a delivery. Times are integer milliseconds since the Unix epoch.
-- Ids are text that sorts by time, so the tables without rowid grow at their end.

CREATE TABLE tenants (
    name       TEXT PRIMARY KEY,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE keys (
    id         TEXT PRIMARY KEY,
    digest     BLOB NOT NULL UNIQUE,
    tenant     TEXT,                 -- NULL: a platform key
    scopes     TEXT NOT NULL,        -- space-separated
    label      TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE secrets (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    destination TEXT,                -- NULL: the tenant's
    value       TEXT NOT NULL,
    created_ms  INTEGER NOT NULL,
    expires_ms  INTEGER,             -- set when rotated out: the end of the overlap
    revealed_ms INTEGER,
    revealed_by TEXT
) WITHOUT ROWID;
CREATE INDEX secrets_by_tenant ON secrets (tenant, id);

CREATE TABLE destinations (
    id              TEXT PRIMARY KEY,
    tenant          TEXT NOT NULL,
    name            TEXT,            -- NULL: not registered, known by its URL
    url             TEXT NOT NULL,
    policy          TEXT,
    headers         TEXT NOT NULL DEFAULT '[]',
    paused          INTEGER NOT NULL DEFAULT 0,
    disabled_reason TEXT,
    concurrency     INTEGER,
    rate            REAL,            -- deliveries a second
    created_ms      INTEGER NOT NULL,
    removed_ms      INTEGER
) WITHOUT ROWID;
CREATE INDEX destinations_by_tenant ON destinations (tenant, id) WHERE removed_ms IS NULL;

-- The scheduling state of one destination. ready_* is when its next delivery of that class may
-- go: the latest of its due time, the hold, the pacing and the lane's last turn; NULL when
-- nothing waits, no slot of the window is free, or the lane is paused. Claims look only here.
CREATE TABLE lanes (
    id               TEXT PRIMARY KEY,
    tenant           TEXT NOT NULL,
    paused           INTEGER NOT NULL DEFAULT 0,
    doomed           TEXT,           -- why its backlog is to be made dead
    concurrency      INTEGER NOT NULL,
    rate             REAL,
    paced_ms         REAL NOT NULL DEFAULT 0,
    served_ms        INTEGER NOT NULL DEFAULT 0,
    window           INTEGER NOT NULL,
    failures         INTEGER NOT NULL DEFAULT 0,
    failing_since_ms INTEGER,
    openings         INTEGER NOT NULL DEFAULT 0,
    held_until_ms    INTEGER NOT NULL DEFAULT 0,
    held_reason      TEXT,
    ready_high       INTEGER,
    ready_normal     INTEGER,
    ready_replay     INTEGER
) WITHOUT ROWID;
CREATE INDEX lanes_high ON lanes (tenant, ready_high) WHERE ready_high IS NOT NULL;
CREATE INDEX lanes_normal ON lanes (tenant, ready_normal) WHERE ready_normal IS NOT NULL;
CREATE INDEX lanes_replay ON lanes (tenant, ready_replay) WHERE ready_replay IS NOT NULL;
CREATE INDEX lanes_doomed ON lanes (id) WHERE doomed IS NOT NULL;

-- The same, one level up: when a tenant's turn may come, per class.
CREATE TABLE turns (
    tenant       TEXT PRIMARY KEY,
    served_ms    INTEGER NOT NULL DEFAULT 0,
    ready_high   INTEGER,
    ready_normal INTEGER,
    ready_replay INTEGER
) WITHOUT ROWID;
CREATE INDEX turns_high ON turns (ready_high) WHERE ready_high IS NOT NULL;
CREATE INDEX turns_normal ON turns (ready_normal) WHERE ready_normal IS NOT NULL;
CREATE INDEX turns_replay ON turns (ready_replay) WHERE ready_replay IS NOT NULL;

CREATE TABLE callbacks (
    id             TEXT PRIMARY KEY,
    tenant         TEXT NOT NULL,
    job_id         TEXT NOT NULL,
    job_status     TEXT,
    priority       INTEGER NOT NULL, -- 0 high, 1 normal
    destination    TEXT NOT NULL,
    url            TEXT,             -- NULL: the registered destination's
    policy         TEXT,             -- NULL: the destination's, else the default
    payload_size   INTEGER NOT NULL,
    payload_sha256 BLOB NOT NULL,
    pruned         INTEGER NOT NULL DEFAULT 0,
    key            BLOB,             -- idempotency; NULL once it no longer holds
    explicit_key   INTEGER NOT NULL,
    content        BLOB NOT NULL,    -- what must come again with the same key
    created_ms     INTEGER NOT NULL,
    expires_ms     INTEGER NOT NULL,
    state          TEXT NOT NULL,
    class          INTEGER NOT NULL, -- 0 high, 1 normal, 2 replay
    due_ms         INTEGER,
    lease_ms       INTEGER,
    claim          INTEGER NOT NULL DEFAULT 0,
    tries          INTEGER NOT NULL DEFAULT 0,
    attempts       INTEGER NOT NULL DEFAULT 0,
    cancelling     INTEGER NOT NULL DEFAULT 0,
    finished_ms    INTEGER,
    last_error     TEXT
) WITHOUT ROWID;
CREATE INDEX callbacks_by_tenant ON callbacks (tenant, id);
-- A default key contains the job's id, so one index finds both: a second index in random order
-- would cost each submit another page of log.
CREATE UNIQUE INDEX callbacks_by_job ON callbacks (tenant, job_id, key);
CREATE UNIQUE INDEX callbacks_by_key ON callbacks (key) WHERE explicit_key = 1;
-- With the state in it this index answers alone how many wait for a destination.
CREATE INDEX callbacks_pending ON callbacks (destination, class, due_ms, state)
    WHERE state = 'pending';
CREATE INDEX callbacks_expiring ON callbacks (expires_ms) WHERE state = 'pending';
CREATE INDEX callbacks_waiting ON callbacks (tenant, id) WHERE state = 'pending';
CREATE INDEX callbacks_sending ON callbacks (destination, lease_ms) WHERE state = 'sending';
CREATE INDEX callbacks_dead ON callbacks (tenant, id) WHERE state = 'dead';
-- For retention; written once, at the end of a delivery, and then in the order of time.
CREATE INDEX callbacks_finished ON callbacks (state, pruned, finished_ms)
    WHERE finished_ms IS NOT NULL;
CREATE INDEX callbacks_cancelled ON callbacks (tenant, id) WHERE state = 'cancelled';

CREATE TABLE payloads (
    callback     TEXT PRIMARY KEY,
    content_type TEXT NOT NULL,
    headers      TEXT NOT NULL,
    body         BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE tags (
    tenant   TEXT NOT NULL,
    key      TEXT NOT NULL,
    value    TEXT NOT NULL,
    callback TEXT NOT NULL,
    PRIMARY KEY (tenant, key, value, callback)
) WITHOUT ROWID;
CREATE INDEX tags_by_callback ON tags (callback);

CREATE TABLE attempts (
    callback    TEXT NOT NULL,
    n           INTEGER NOT NULL,
    started_ms  INTEGER NOT NULL,
    duration_ms REAL NOT NULL,
    outcome     TEXT NOT NULL,
    status_code INTEGER,
    error       TEXT,
    excerpt     TEXT,
    PRIMARY KEY (callback, n)
) WITHOUT ROWID;

-- Exact numbers of callbacks, moved in the same commit as the callbacks themselves.
CREATE TABLE counts (
    tenant TEXT NOT NULL,
    state  TEXT NOT NULL,
    n      INTEGER NOT NULL,
    PRIMARY KEY (tenant, state)
) WITHOUT ROWID;

CREATE TABLE replays (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    filter      TEXT NOT NULL,
    rate        REAL,
    state       TEXT NOT NULL,
    matched     INTEGER NOT NULL,
    replayed    INTEGER NOT NULL DEFAULT 0,
    skipped     INTEGER NOT NULL DEFAULT 0,
    cursor      TEXT NOT NULL DEFAULT '',
    created_ms  INTEGER NOT NULL,
    finished_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX replays_running ON replays (id) WHERE state = 'running';
