-- reads-from: 14
-- Ends of jobs that nobody could be told of yet, purges of many queues, and what holds and beats are
-- judged by. An earlier version would start what is being purged.

-- Where the end of a run is told stands in its job's options, sealed; `kid` is the key that opens
-- them and was not there when the job ended (NULL: none does). Told once it is.
CREATE TABLE job_untold (
    job        TEXT NOT NULL,
    run        INTEGER NOT NULL,
    kid        TEXT,
    state      TEXT NOT NULL,
    reason     TEXT,
    error      TEXT,
    started_ms INTEGER,
    ended_ms   INTEGER NOT NULL,
    PRIMARY KEY (job, run)
) WITHOUT ROWID;
CREATE INDEX job_untold_by_key ON job_untold (kid, job, run);

-- A purge of all queues goes from one to the next: up to this one it has come. Nothing is started
-- meanwhile, and what comes in behind it belongs to the next epoch. NULL: there is none.
ALTER TABLE endpoint_load ADD COLUMN purge_after TEXT;
ALTER TABLE endpoint_load ADD COLUMN purge_told INTEGER NOT NULL DEFAULT 1;
CREATE INDEX endpoint_load_purging ON endpoint_load (endpoint) WHERE purge_after IS NOT NULL;
-- When it was held: how long for is what is left between this and its end. NULL: nobody knows.
ALTER TABLE endpoint_load ADD COLUMN held_from_ms INTEGER;

-- When it last beat, for who looks: nobody is called dead by it.
ALTER TABLE processes ADD COLUMN beaten_ms INTEGER;

CREATE INDEX durations_by_day ON durations (day);
CREATE INDEX job_usage_by_day ON job_usage (day);
CREATE INDEX job_sweeps_bulk ON job_sweeps (id) WHERE state = 'running' AND what <> 'purge';
