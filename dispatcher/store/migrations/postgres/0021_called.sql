-- reads-from: 20
-- What a clock that ran ahead wrote of jobs that no process holds is found by this.
CREATE INDEX jobs_called ON jobs (called_ms)
    WHERE state = 'running' AND process IS NULL AND called_ms IS NOT NULL;

-- Only what asks for times uses it: a look-up of a queue would walk all that waits, and does so on
-- tables that are still empty to whoever plans it. (SQLite's planner does not.)
DROP INDEX jobs_expiring;
CREATE INDEX jobs_expiring ON jobs (expires_ms) WHERE state = 'queued' AND expires_ms IS NOT NULL;
