-- reads-from: 18
-- Why deliveries fail, and what became of those that a filtered replay took up. An earlier version
-- beside this one tells nothing of either. The same as SQLite's, in the order in which programs that
-- run take the tables.

-- What the last attempt met that was not acknowledged; NULL from the next that is.
ALTER TABLE lanes ADD COLUMN last_error text;

-- The filtered replay that took it up last.
ALTER TABLE callbacks ADD COLUMN replay text COLLATE "C";
CREATE INDEX callbacks_of_replay ON callbacks (replay) WHERE replay IS NOT NULL;

-- What an attempt met in truth, where the tenant is told one class: its class (`blocked`, `dns`, …)
-- and its reason. For operators.
ALTER TABLE attempts ADD COLUMN detail text;
