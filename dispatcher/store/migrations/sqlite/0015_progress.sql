-- reads-from: 15
-- What upstreams report of jobs while they run, and jobs that end by an upstream's own request: an
-- earlier version would seal none of this again, and watch no limit of theirs.

-- The keys of links and of tokens in URLs: two at most are good, the newest one makes them.
CREATE TABLE link_keys (
    id         TEXT PRIMARY KEY,
    value      TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- Of a job that runs with no process holding it: since when its call has been out, when its run
-- limit is over, and when it is looked at next.
ALTER TABLE jobs ADD COLUMN called_ms INTEGER;
ALTER TABLE jobs ADD COLUMN limit_ms INTEGER;
ALTER TABLE jobs ADD COLUMN deadline_ms INTEGER;
CREATE INDEX jobs_by_url ON jobs (deadline_ms) WHERE state = 'running' AND process IS NULL;

-- The callback that told last what it does: none is sent any more once it has ended.
ALTER TABLE jobs ADD COLUMN event TEXT;

-- The last that was reported of a job, under the claim that it was reported under.
CREATE TABLE job_progress (
    job      TEXT PRIMARY KEY,
    run      INTEGER NOT NULL,
    claim    INTEGER NOT NULL,
    n        INTEGER NOT NULL, -- reports under this claim: signs of life
    since_ms INTEGER NOT NULL, -- when the first of them came
    at_ms    INTEGER NOT NULL, -- and the last
    percent  REAL,
    body     BLOB NOT NULL,    -- JSON: its step, and whatever else it says of itself
    kid      TEXT
) WITHOUT ROWID;
