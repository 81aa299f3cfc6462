-- reads-from: 7
-- Who did what: appended in the commit that makes the change, and never updated. An earlier version
-- beside this one appends nothing. The same as SQLite's.

CREATE TABLE audit (
    id          text COLLATE "C" PRIMARY KEY,
    at_ms       bigint NOT NULL,
    actor       text NOT NULL,           -- an API key's id, or `service`
    session     text,
    address     text,
    by_platform smallint NOT NULL,       -- whether the actor is the platform's
    tenant      text COLLATE "C",        -- NULL: the platform itself
    action      text NOT NULL,
    target      text COLLATE "C",
    detail      text NOT NULL,           -- JSON
    reason      text
);
CREATE INDEX audit_by_tenant ON audit (tenant, id);
CREATE INDEX audit_by_target ON audit (target, id) WHERE target IS NOT NULL;
