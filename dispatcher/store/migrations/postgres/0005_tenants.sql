-- reads-from: 5
-- What a tenant may use, and what it does use: an earlier version would not keep the bytes. The
-- same as SQLite's.

ALTER TABLE tenants ADD COLUMN label text NOT NULL DEFAULT '';
ALTER TABLE tenants ADD COLUMN storage_bytes_max bigint;
ALTER TABLE tenants ADD COLUMN queue_max bigint;
ALTER TABLE tenants ADD COLUMN rate double precision;
ALTER TABLE tenants ADD COLUMN erasing_ms bigint;
CREATE INDEX tenants_erasing ON tenants (name) WHERE erasing_ms IS NOT NULL;

ALTER TABLE callbacks ADD COLUMN extra_bytes integer NOT NULL DEFAULT 0;

ALTER TABLE counts ADD COLUMN bytes bigint NOT NULL DEFAULT 0;
-- One pass over all callbacks: about two seconds of a processor for 1.2 million.
INSERT INTO counts (tenant, state, seat, n, bytes)
SELECT tenant, 'dead', 0, 0, sum(1024 + CASE WHEN pruned = 0 THEN payload_size ELSE 0 END)
FROM callbacks GROUP BY tenant
ON CONFLICT (tenant, state, seat) DO UPDATE SET bytes = excluded.bytes;

CREATE INDEX replays_by_tenant ON replays (tenant, id);
CREATE INDEX replays_running_by_tenant ON replays (tenant) WHERE state = 'running';
