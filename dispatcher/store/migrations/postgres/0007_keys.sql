-- reads-from: 7
-- What a key is bound to, when it was used, and the text that it had before its last rotation: an
-- earlier version beside this one would let in what has expired, from anywhere.

ALTER TABLE keys ADD COLUMN expires_ms bigint;
ALTER TABLE keys ADD COLUMN networks text;       -- space-separated CIDRs; NULL: from anywhere
ALTER TABLE keys ADD COLUMN destinations text;   -- space-separated names and servers; NULL: to any
ALTER TABLE keys ADD COLUMN rate double precision;
ALTER TABLE keys ADD COLUMN used_ms bigint;
ALTER TABLE keys ADD COLUMN previous_digest bytea;
ALTER TABLE keys ADD COLUMN previous_until_ms bigint;
ALTER TABLE keys ADD COLUMN previous_used_ms bigint;
