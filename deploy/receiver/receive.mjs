// A whole receiver in Node.js: nothing to install, and `receiver check` finds nothing wrong with it.
//
//   import { createServer } from "node:http";
//   import { receive } from "./receive.mjs";
//
//   const insert = async (jobId, status, body, run) => {
//     const sql = `INSERT INTO completions VALUES ($1, $2, $3, $4)
//                  ON CONFLICT (job_id, run) DO NOTHING`;
//     return (await pool.query(sql, [jobId, status, body, run])).rowCount === 1;
//   };
//   createServer(receive({ secret: process.env.SECRET, insert })).listen(3000);
//
// `insert` is yours: durable, under a unique key, whether it was new; `status` is "completed",
// "failed", "cancelled" or "timeout", and `run` counts from 1 where a job is run again. Then, apart
// from this, handle what is in that table and mark it; in one transaction, if the effect is in the
// same database. `unknown` is told of statuses that nobody knows: they end no job.

import { endOf, verify } from "./verify.mjs";

const BODY_BYTES_MAX = 1024 * 1024;

export function receive({ secret, insert, unknown = warn }) {
  return async (request, response) => {
    const result = await take(request, secret, insert, unknown).catch(() => null);
    if (result === null) return response.destroy(); // the sender hung up: nobody waits for an answer
    const [code, answer] = result;
    const close = code === 413 ? { connection: "close" } : {}; // the rest is not read
    response.writeHead(code, { "content-type": "application/json", ...close });
    response.end(JSON.stringify(answer));
  };
}

async function take(request, secret, insert, unknown) {
  if (request.method !== "POST") return [405, { error: "POST only" }];
  if (request.headers["content-encoding"]) return [415, { error: "send it uncompressed" }];
  const body = await read(request);
  if (body === null) return [413, { error: `more than ${BODY_BYTES_MAX} bytes` }];
  let event;
  try {
    event = verify(body, request.headers, secret);
  } catch (error) {
    return [400, { error: error.message }];
  }
  const end = endOf(event.status);
  if (end === null) return [200, { status: "accepted" }]; // progress: show it, or drop it
  try {
    if (end === undefined) {
      await unknown(event.jobId, event.status, body);
      return [200, { status: "accepted" }];
    }
    const isNew = await insert(event.jobId, end, body, event.run);
    return [200, { status: isNew ? "accepted" : "duplicate" }];
  } catch {
    return [503, { error: "not stored: come back" }]; // and it does
  }
}

function warn(jobId, status) {
  console.warn(`unknown status of job ${JSON.stringify(jobId)}: ${JSON.stringify(status)}`);
}

// The whole body, or null where it is too large. Throws where the sender hangs up.
async function read(request) {
  if (Number(request.headers["content-length"]) > BODY_BYTES_MAX) return null;
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > BODY_BYTES_MAX) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
