-- reads-from: 7
-- Who did what: appended in the commit that makes the change, and never updated. An earlier version
-- beside this one appends nothing.

CREATE TABLE audit (
    id          TEXT PRIMARY KEY,
    at_ms       INTEGER NOT NULL,
    actor       TEXT NOT NULL,       -- an API key's id, or `service`
    session     TEXT,
    address     TEXT,
    by_platform INTEGER NOT NULL,    -- whether the actor is the platform's
    tenant      TEXT,                -- NULL: the platform itself
    action      TEXT NOT NULL,
    target      TEXT,
    detail      TEXT NOT NULL,       -- JSON
    reason      TEXT
) WITHOUT ROWID;
CREATE INDEX audit_by_tenant ON audit (tenant, id);
CREATE INDEX audit_by_target ON audit (target, id) WHERE target IS NOT NULL;
