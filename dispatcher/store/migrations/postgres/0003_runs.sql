-- reads-from: 1
-- Which run of its job a callback is about, and when it may first go; NULL where nobody said.

ALTER TABLE callbacks ADD COLUMN run bigint;
ALTER TABLE callbacks ADD COLUMN not_before_ms bigint;
