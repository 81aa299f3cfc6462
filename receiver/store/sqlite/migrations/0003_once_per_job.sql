-- A copy is one within its job: two jobs may well have the same bytes as their result. And a job's
-- end is marked on its message: one table less, and one row less to write for each completion.

ALTER TABLE messages ADD COLUMN is_end    INTEGER NOT NULL DEFAULT 0;
ALTER TABLE messages ADD COLUMN end_order TEXT;  -- the greatest signed, time-ordered id that brought it

UPDATE messages SET is_end = 1,
       end_order = (SELECT end_order FROM jobs WHERE jobs.end_id = messages.id)
 WHERE id IN (SELECT end_id FROM jobs);

DROP TABLE jobs;
DROP INDEX messages_once;
DROP INDEX messages_by_message_id;
DROP INDEX messages_by_job;

-- A message is stored once: its bytes, under its signed id, for its job.
CREATE UNIQUE INDEX messages_once ON messages
    (coalesce(job_id, ''), source, body_sha256, coalesce(message_id, ''));

-- A job has one end, whatever the code above believes.
CREATE UNIQUE INDEX messages_ends ON messages (job_id, source) WHERE is_end = 1;

-- Only these can contradict another message under the same signed id: an end is told by its job.
CREATE INDEX messages_by_message_id ON messages (message_id, source) WHERE kind <> 'terminal';
