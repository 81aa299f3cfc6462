-- reads-from: 4
-- Destinations and lanes are two things: an unregistered destination is a server, with a bounded
-- number of lanes. From here on `callbacks.destination` holds the lane's id: that of its
-- destination, for an unregistered one followed by a full stop and the lane's digit. So the
-- destination is the id's first 35 characters, all lanes of one are a range of each index by
-- `destination`, and no row that is finished is written again. The same as SQLite's.

CREATE TABLE aliases (
    id          text COLLATE "C" PRIMARY KEY,
    tenant      text COLLATE "C" NOT NULL,
    destination text COLLATE "C" NOT NULL
);

ALTER TABLE destinations ADD COLUMN last_url text;
ALTER TABLE destinations ADD COLUMN last_url_ms bigint;
ALTER TABLE destinations ADD COLUMN failures integer NOT NULL DEFAULT 0;
ALTER TABLE destinations ADD COLUMN failing_since_ms bigint;
ALTER TABLE destinations ADD COLUMN openings integer NOT NULL DEFAULT 0;
ALTER TABLE destinations ADD COLUMN held_until_ms bigint NOT NULL DEFAULT 0;
ALTER TABLE destinations ADD COLUMN paced_ms double precision NOT NULL DEFAULT 0;

ALTER TABLE lanes ADD COLUMN blocked smallint NOT NULL DEFAULT 0;
CREATE INDEX lanes_blocked ON lanes (id) WHERE blocked = 1;

CREATE TABLE upgrades (
    what     text COLLATE "C" PRIMARY KEY,
    began_ms bigint NOT NULL,
    done_ms  bigint
);
INSERT INTO upgrades (what, began_ms)
SELECT 'lanes', (extract(epoch FROM now()) * 1000)::bigint
WHERE EXISTS (SELECT 1 FROM callbacks) OR EXISTS (SELECT 1 FROM destinations);
