-- reads-from: 15
-- What upstreams report of jobs while they run, and jobs that end by an upstream's own request: an
-- earlier version would seal none of this again, and watch no limit of theirs.

-- The keys of links and of tokens in URLs: two at most are good, the newest one makes them.
CREATE TABLE link_keys (
    id         text COLLATE "C" PRIMARY KEY,
    value      text NOT NULL,
    created_ms bigint NOT NULL
);

-- Of a job that runs with no process holding it: since when its call has been out, when its run
-- limit is over, and when it is looked at next.
ALTER TABLE jobs ADD COLUMN called_ms bigint;
ALTER TABLE jobs ADD COLUMN limit_ms bigint;
ALTER TABLE jobs ADD COLUMN deadline_ms bigint;
CREATE INDEX jobs_by_url ON jobs (deadline_ms) WHERE state = 'running' AND process IS NULL;

-- The callback that told last what it does: none is sent any more once it has ended.
ALTER TABLE jobs ADD COLUMN event text;

-- The last that was reported of a job, under the claim that it was reported under.
CREATE TABLE job_progress (
    job      text COLLATE "C" PRIMARY KEY,
    run      bigint NOT NULL,
    claim    bigint NOT NULL,
    n        bigint NOT NULL, -- reports under this claim: signs of life
    since_ms bigint NOT NULL, -- when the first of them came
    at_ms    bigint NOT NULL, -- and the last
    percent  double precision,
    body     bytea NOT NULL,  -- JSON: its step, and whatever else it says of itself
    kid      text
) WITH (fillfactor = 50);
