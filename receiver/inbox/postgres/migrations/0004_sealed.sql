-- reads-from: 1
-- What is sealed, and with what. Replicas that do not know these go on beside those that do, of which
-- none begins to seal while they are there; then it sets reads_from of this schema to 4.

-- The key that the body is sealed with; its hash is a keyed one then. NULL: both are plain.
ALTER TABLE messages ADD COLUMN kid text;

-- The keys of the hashes, each sealed with keys of the ring: they outlive those, so that a copy of a
-- message is known as one however often the ring's keys change. Of several the last one counts.
CREATE TABLE seals (
    id   bigint NOT NULL,
    kid  text   NOT NULL,  -- the ring's key that this copy is sealed with
    key  bytea  NOT NULL,
    PRIMARY KEY (id, kid)
);
