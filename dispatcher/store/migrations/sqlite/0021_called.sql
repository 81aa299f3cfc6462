-- reads-from: 20
-- What a clock that ran ahead wrote of jobs that no process holds is found by this.
CREATE INDEX jobs_called ON jobs (called_ms)
    WHERE state = 'running' AND process IS NULL AND called_ms IS NOT NULL;
