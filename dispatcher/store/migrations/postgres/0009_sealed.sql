-- reads-from: 9
-- What is sealed, and by which keys: an earlier version would sign with what it cannot open.

-- The key that the body is sealed with; NULL: it is plain. Texts say so themselves.
ALTER TABLE payloads ADD COLUMN kid text;

-- The keys that something may be sealed with, since when.
CREATE TABLE sealed_by (
    kid      text COLLATE "C" PRIMARY KEY,
    first_ms bigint NOT NULL
);

-- How far everything has been sealed again, with the key `kid`: one row. Up to the row `reached` of
-- the table `place`; `clean` where nothing of what it was before is left in the file.
CREATE TABLE reencryption (
    id          smallint PRIMARY KEY CHECK (id = 1),
    kid         text NOT NULL,
    state       text NOT NULL,
    place       text NOT NULL,
    reached     text NOT NULL,
    looked      bigint NOT NULL,
    sealed      bigint NOT NULL,
    unopened    bigint NOT NULL,
    clean       smallint NOT NULL,
    started_ms  bigint NOT NULL,
    finished_ms bigint
);
