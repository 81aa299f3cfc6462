-- reads-from: 4
-- What is sealed, and with what. A process without the keys opens no inbox in which something is.

-- The key that the body is sealed with; its hash is a keyed one then. NULL: both are plain.
ALTER TABLE messages ADD COLUMN kid TEXT;

-- The keys of the hashes, each sealed with keys of the ring: they outlive those, so that a copy of a
-- message is known as one however often the ring's keys change. Of several the last one counts.
CREATE TABLE seals (
    id   INTEGER NOT NULL,
    kid  TEXT    NOT NULL,  -- the ring's key that this copy is sealed with
    key  BLOB    NOT NULL,
    PRIMARY KEY (id, kid)
) WITHOUT ROWID;
