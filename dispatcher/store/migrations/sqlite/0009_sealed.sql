-- reads-from: 9
-- What is sealed, and by which keys: an earlier version would sign with what it cannot open.

-- The key that the body is sealed with; NULL: it is plain. Texts say so themselves.
ALTER TABLE payloads ADD COLUMN kid TEXT;

-- The keys that something may be sealed with, since when.
CREATE TABLE sealed_by (
    kid      TEXT PRIMARY KEY,
    first_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- How far everything has been sealed again, with the key `kid`: one row. Up to the row `reached` of
-- the table `place`; `clean` where nothing of what it was before is left in the file.
CREATE TABLE reencryption (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    kid         TEXT NOT NULL,
    state       TEXT NOT NULL,
    place       TEXT NOT NULL,
    reached     TEXT NOT NULL,
    looked      INTEGER NOT NULL,
    sealed      INTEGER NOT NULL,
    unopened    INTEGER NOT NULL,
    clean       INTEGER NOT NULL,
    started_ms  INTEGER NOT NULL,
    finished_ms INTEGER
);
