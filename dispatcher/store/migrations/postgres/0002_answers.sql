-- reads-from: 1
-- What a destination's answers mean: being turned away, and results that come late. The same columns
-- as SQLite's. In the order in which programs that run take the tables, so that nobody waits for
-- anybody in a circle.

ALTER TABLE lanes ADD COLUMN turned_away integer NOT NULL DEFAULT 0;
ALTER TABLE lanes ADD COLUMN threshold integer;
ALTER TABLE callbacks ADD COLUMN turned_away integer NOT NULL DEFAULT 0;
ALTER TABLE callbacks ADD COLUMN turned_away_ms bigint;
ALTER TABLE destinations ADD COLUMN epoch bigint NOT NULL DEFAULT 0;
