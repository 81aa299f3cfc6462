-- reads-from: 16
-- What upstreams answer in chunks, while they do: an earlier version would neither seal it again nor
-- let it go. The same as SQLite's.

-- Chunks of jobs that run, and of those that ended otherwise than by completing: what completed has
-- them as its output. A row has as many as came between two commits.
CREATE TABLE chunks (
    id    text COLLATE "C" PRIMARY KEY,
    job   text COLLATE "C" NOT NULL,
    run   bigint NOT NULL,
    claim bigint NOT NULL,
    n     bigint NOT NULL,
    size  bigint NOT NULL,
    bytes bigint NOT NULL,
    body  bytea NOT NULL,
    kid   text COLLATE "C"
);
ALTER TABLE chunks ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX chunks_by_job ON chunks (job, claim, n);

-- How many chunks the output was joined from; NULL: it came whole.
ALTER TABLE jobs ADD COLUMN chunks bigint;
-- Up to which chunk, of which claim, a stream was handed out that hands out each once.
ALTER TABLE jobs ADD COLUMN streamed_claim bigint NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN streamed_chunks bigint NOT NULL DEFAULT 0;

-- What is kept of what was reported of a job takes up so much.
ALTER TABLE job_progress ADD COLUMN bytes bigint NOT NULL DEFAULT 0;
