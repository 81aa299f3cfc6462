-- reads-from: 5
-- What looking needs, so that it costs the same however much is stored. The same as SQLite's.

-- Whether `matched` is all: large sets are counted while they are fed.
ALTER TABLE replays ADD COLUMN matched_exactly smallint NOT NULL DEFAULT 1;

-- What failed, by how: touched by deliveries that fail, and by no other.
CREATE INDEX callbacks_failed ON callbacks (tenant, last_error, id)
    WHERE last_error IS NOT NULL;

-- What is dead is looked through by the index alone, with what one asks for. Touched by deliveries
-- that die, and by no other. Both are built in some seconds on 1.2 million callbacks; until then
-- others wait.
DROP INDEX callbacks_dead;
CREATE INDEX callbacks_dead ON callbacks (tenant, id)
    INCLUDE (state, destination, last_error, job_status, priority, finished_ms)
    WHERE state = 'dead';

-- For retention.
CREATE INDEX replays_finished ON replays (finished_ms) WHERE finished_ms IS NOT NULL;
