-- reads-from: 1
-- What a destination's answers mean: being turned away, and results that come late.

-- Holds in a row after which the peer only turned away again; and the window from which on it grows
-- slowly.
ALTER TABLE lanes ADD COLUMN turned_away INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lanes ADD COLUMN threshold INTEGER;

-- How often a delivery was turned away while others of its lane were answered, and since when.
ALTER TABLE callbacks ADD COLUMN turned_away INTEGER NOT NULL DEFAULT 0;
ALTER TABLE callbacks ADD COLUMN turned_away_ms INTEGER;

-- Moves when a destination gets another URL, is resumed, disabled, enabled or removed: an attempt
-- that began before tells nothing of what it is now.
ALTER TABLE destinations ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
