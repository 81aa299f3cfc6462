-- reads-from: 10
-- Secrets that are stored by name, for headers: an earlier version would not know a header that
-- names one.

-- `tenant` is empty for the platform's; `value` is always sealed.
CREATE TABLE stored_secrets (
    id         TEXT PRIMARY KEY,
    tenant     TEXT NOT NULL,
    name       TEXT NOT NULL,
    value      TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    UNIQUE (tenant, name)
) WITHOUT ROWID;

-- Which of them a destination's headers name, space-separated; NULL: none.
ALTER TABLE destinations ADD COLUMN secret_names TEXT;
CREATE INDEX destinations_naming_secrets ON destinations (tenant)
    WHERE secret_names IS NOT NULL AND removed_ms IS NULL;
