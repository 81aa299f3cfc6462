-- reads-from: 16
-- What the metrics look up, each a few entries of rows that are seldom written: destinations that
-- are registered, those that are held back, and lanes that are.

CREATE INDEX destinations_registered ON destinations (created_ms, id)
    WHERE name IS NOT NULL AND removed_ms IS NULL;
CREATE INDEX destinations_stopped ON destinations (id)
    WHERE removed_ms IS NULL AND (paused = 1 OR disabled_reason IS NOT NULL OR openings > 0);
CREATE INDEX lanes_held ON lanes (held_until_ms) WHERE held_reason IS NOT NULL;
CREATE INDEX lanes_open ON lanes (id) WHERE openings > 0;
