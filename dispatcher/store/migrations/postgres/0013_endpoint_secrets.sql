-- reads-from: 13
-- Signing secrets of endpoints, and how many of a tenant's jobs may run at once: an earlier version
-- would sign calls with a tenant's secret, seal none of these again, and start more.

CREATE TABLE endpoint_secrets (
    id          text COLLATE "C" PRIMARY KEY,
    endpoint    text COLLATE "C" NOT NULL,
    value       text NOT NULL,
    created_ms  bigint NOT NULL,
    expires_ms  bigint,                   -- set when rotated out: the end of the overlap
    revealed_ms bigint,
    revealed_by text
);
CREATE INDEX endpoint_secrets_by_endpoint ON endpoint_secrets (endpoint, id);

ALTER TABLE tenants ADD COLUMN jobs_running_max bigint;

-- With the tenant: what of a tenant's runs is counted by this index alone.
DROP INDEX jobs_busy;
CREATE INDEX jobs_busy ON jobs (endpoint, process, tenant)
    WHERE state = 'running' OR releasing = 1;
