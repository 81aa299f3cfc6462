-- reads-from: 12
-- What a request entrusts to us for its upstream alone, or for the signature of its callback: always
-- sealed. An earlier version would run a job without it, and send a callback unsigned. The same as
-- SQLite's.

ALTER TABLE jobs ADD COLUMN secret text; -- goes with its input; empty: gone, the job has completed
ALTER TABLE payloads ADD COLUMN secret text;

-- The run whose output was handed out as a stream: once.
ALTER TABLE jobs ADD COLUMN streamed bigint NOT NULL DEFAULT 0;

-- Runs beyond the first one of a job, which somebody asked for.
ALTER TABLE job_usage ADD COLUMN retried bigint NOT NULL DEFAULT 0;
