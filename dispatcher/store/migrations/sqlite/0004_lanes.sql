-- reads-from: 4
-- Destinations and lanes are two things: an unregistered destination is a server, with a bounded
-- number of lanes. From here on `callbacks.destination` holds the lane's id: that of its
-- destination, for an unregistered one followed by a full stop and the lane's digit. So the
-- destination is the id's first 35 characters, all lanes of one are a range of each index by
-- `destination`, and no row that is finished is written again.

-- Ids of destinations made by the earlier rule (a URL was one), and what they are now.
CREATE TABLE aliases (
    id          TEXT PRIMARY KEY,
    tenant      TEXT NOT NULL,
    destination TEXT NOT NULL
) WITHOUT ROWID;

-- Of an unregistered destination: the URL used last. Of all: what failed before it reached a path
-- (connecting, resolving, TLS) counts for the whole server.
ALTER TABLE destinations ADD COLUMN last_url TEXT;
ALTER TABLE destinations ADD COLUMN last_url_ms INTEGER;
ALTER TABLE destinations ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE destinations ADD COLUMN failing_since_ms INTEGER;
ALTER TABLE destinations ADD COLUMN openings INTEGER NOT NULL DEFAULT 0;
ALTER TABLE destinations ADD COLUMN held_until_ms INTEGER NOT NULL DEFAULT 0;
-- Up to when the rate of a server is used, over all its lanes.
ALTER TABLE destinations ADD COLUMN paced_ms REAL NOT NULL DEFAULT 0;

-- Whether work waits that the server, not the lane, holds back: it has no free slot, or is held.
ALTER TABLE lanes ADD COLUMN blocked INTEGER NOT NULL DEFAULT 0;
CREATE INDEX lanes_blocked ON lanes (id) WHERE blocked = 1;

-- What an upgrade left to do (done_ms NULL) or did, and when it began: until their period is over,
-- idempotency keys of the earlier rule are looked up too.
CREATE TABLE upgrades (
    what     TEXT PRIMARY KEY,
    began_ms INTEGER NOT NULL,
    done_ms  INTEGER
) WITHOUT ROWID;
INSERT INTO upgrades (what, began_ms)
SELECT 'lanes', CAST(strftime('%s', 'now') AS INTEGER) * 1000
WHERE EXISTS (SELECT 1 FROM callbacks) OR EXISTS (SELECT 1 FROM destinations);
