-- reads-from: 1
-- Which run of its job a message is about, where that is signed; NULL counts as the first. A replica
-- that does not know the column takes every message for the first run's.

ALTER TABLE messages ADD COLUMN run bigint;
