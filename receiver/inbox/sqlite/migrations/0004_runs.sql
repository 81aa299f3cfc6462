-- reads-from: 3
-- Which run of its job a message is about, where that is signed; NULL counts as the first.

ALTER TABLE messages ADD COLUMN run INTEGER;
