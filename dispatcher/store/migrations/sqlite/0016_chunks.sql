-- reads-from: 16
-- What upstreams answer in chunks, while they do: an earlier version would neither seal it again nor
-- let it go.

-- Chunks of jobs that run, and of those that ended otherwise than by completing: what completed has
-- them as its output. A row has as many as came between two commits.
CREATE TABLE chunks (
    id    TEXT PRIMARY KEY,
    job   TEXT NOT NULL,
    run   INTEGER NOT NULL,
    claim INTEGER NOT NULL,
    n     INTEGER NOT NULL,    -- the number of the first one, from 0
    size  INTEGER NOT NULL,    -- how many
    bytes INTEGER NOT NULL,    -- what they take up
    body  BLOB NOT NULL,       -- a JSON array
    kid   TEXT
) WITHOUT ROWID;
CREATE INDEX chunks_by_job ON chunks (job, claim, n);

-- How many chunks the output was joined from; NULL: it came whole.
ALTER TABLE jobs ADD COLUMN chunks INTEGER;
-- Up to which chunk, of which claim, a stream was handed out that hands out each once.
ALTER TABLE jobs ADD COLUMN streamed_claim INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN streamed_chunks INTEGER NOT NULL DEFAULT 0;

-- What is kept of what was reported of a job takes up so much.
ALTER TABLE job_progress ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
