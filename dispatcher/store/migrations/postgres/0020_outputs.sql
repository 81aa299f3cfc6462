-- reads-from: 20
-- Long outputs and inputs, kept outside of their rows: an earlier version would let go of a row and
-- leave its bytes behind. The same as SQLite's.

CREATE TABLE blobs (
    id         text COLLATE "C" PRIMARY KEY,
    storage      text NOT NULL,
    state      text COLLATE "C" NOT NULL,
    tenant     text COLLATE "C" NOT NULL,
    job        text COLLATE "C" NOT NULL,
    what       text COLLATE "C" NOT NULL,
    process    text COLLATE "C",
    size       bigint NOT NULL DEFAULT 0,
    sha256     bytea,
    key        text,
    created_ms bigint NOT NULL
) WITH (autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX blobs_loose ON blobs (state, id) WHERE state <> 'kept';
CREATE INDEX blobs_by_job ON blobs (job, what);

CREATE TABLE blob_parts (
    blob text COLLATE "C" NOT NULL,
    n    bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (blob, n)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE blob_parts ALTER COLUMN body SET STORAGE EXTERNAL;

ALTER TABLE outputs ADD COLUMN blob text COLLATE "C";
ALTER TABLE inputs ADD COLUMN blob text COLLATE "C";

-- Bytes of a tenant's live outputs, wherever they are: kept as a state of `counts`.
INSERT INTO counts (tenant, state, seat, n)
SELECT tenant, 'outputs', 0, sum(output_bytes) FROM jobs WHERE output_bytes > 0 GROUP BY tenant;
ALTER TABLE tenants ADD COLUMN outputs_bytes_max bigint;
