-- reads-from: 20
-- Long outputs and inputs, kept outside of their rows: an earlier version would let go of a row and
-- leave its bytes behind.

-- What is, or was, kept somewhere. A row comes before the first byte and goes after the last one:
-- so there are no bytes that no row names. Kept is what an input or an output names; `writing` what
-- a process is about; `doomed` what is to be deleted.
CREATE TABLE blobs (
    id         TEXT PRIMARY KEY,
    storage      TEXT NOT NULL,     -- file:…, database or s3://…
    state      TEXT NOT NULL,     -- writing, kept or doomed
    tenant     TEXT NOT NULL,
    job        TEXT NOT NULL,
    what       TEXT NOT NULL,     -- input or output
    process    TEXT,              -- who writes it
    size       INTEGER NOT NULL DEFAULT 0,
    sha256     BLOB,
    key        TEXT,              -- what its parts are sealed with, sealed itself; NULL: plain
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX blobs_loose ON blobs (state, id) WHERE state <> 'kept';
CREATE INDEX blobs_by_job ON blobs (job, what);

-- The bytes of those that the database keeps itself, in parts.
CREATE TABLE blob_parts (
    blob TEXT NOT NULL,
    n    INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX blob_parts_by_blob ON blob_parts (blob, n);

-- Where the rest of them is; the row has the beginning of what tells of a failure, or nothing.
ALTER TABLE outputs ADD COLUMN blob TEXT;
ALTER TABLE inputs ADD COLUMN blob TEXT;

-- Bytes of a tenant's live outputs, wherever they are: kept as a state of `counts`.
INSERT INTO counts (tenant, state, n)
SELECT tenant, 'outputs', sum(output_bytes) FROM jobs WHERE output_bytes > 0 GROUP BY tenant;
ALTER TABLE tenants ADD COLUMN outputs_bytes_max INTEGER;
