-- reads-from: 18
-- What stops upstreams, and how they are. An earlier version would free places whose upstreams still
-- work, start jobs at one that is not well, and cannot read such rules.

-- Whether a place is freed by more than the end of its call: its upstream is told to stop, or rests.
ALTER TABLE endpoint_load ADD COLUMN stops INTEGER NOT NULL DEFAULT 0;
-- Since when its health check has failed: nothing is started meanwhile. NULL: it is well.
ALTER TABLE endpoint_load ADD COLUMN unhealthy_ms INTEGER;

-- Jobs that have ended, whose upstreams nobody stops yet.
CREATE INDEX jobs_to_stop ON jobs (id) WHERE releasing = 1 AND process IS NULL;
