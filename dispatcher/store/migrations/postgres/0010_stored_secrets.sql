-- reads-from: 10
-- Secrets that are stored by name, for headers: an earlier version would not know a header that
-- names one. The same as SQLite's.

CREATE TABLE stored_secrets (
    id         text COLLATE "C" PRIMARY KEY,
    tenant     text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    value      text NOT NULL,
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL,
    UNIQUE (tenant, name)
);

ALTER TABLE destinations ADD COLUMN secret_names text;
CREATE INDEX destinations_naming_secrets ON destinations (tenant)
    WHERE secret_names IS NOT NULL AND removed_ms IS NULL;
