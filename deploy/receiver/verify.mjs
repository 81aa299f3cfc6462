// Verifies a delivery in Node.js: nothing to install. The rule is in README.md.
//
//   import { endOf, verify } from "./verify.mjs";
//   const { jobId, status, run, messageId } = verify(rawBody, request.headers, process.env.SECRET);
//   const end = endOf(status); // "completed", "failed", "cancelled", "timeout"; null: it goes on
//
// `rawBody` is a Buffer of the bytes as they came (in Express: express.raw({ type: "*/*" })),
// `headers` Node's own, with lower-case names. Throws an Error that says why it does not hold. Where
// the headers name the job, signed (v1j), they are what counts, and the body may be anything.

import { createHmac, timingSafeEqual } from "node:crypto";

const PREFIX = /^whsec_/;
const TOLERANCE_S = 300;
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;
const JOB_ID = /^[^\0-\x1f\x7f\ud800-\udfff]{1,200}$/u; // no controls, no halves of characters

const ENDS = {
  completed: "completed complete succeeded success successful done finished ok",
  failed: "failed failure fail error errored crashed",
  cancelled: "cancelled canceled aborted",
  timeout: "timeout timedout expired deadlineexceeded",
};
const PROGRESS =
  "queued inqueue pending submitted created scheduled waiting accepted runnable running inprogress " +
  "processing started starting executing active working cancelling canceling retrying";

// The end that a status is, however its platform writes it; null for progress, undefined for a word
// that nobody knows. No status at all is a completion: some platforms send the bare result.
export function endOf(status) {
  if (status === undefined || status === null || status === "") return "completed";
  if (typeof status !== "string") return undefined;
  const word = status.toLowerCase().replace(/[ _-]/g, "");
  const end = Object.keys(ENDS).find((name) => ENDS[name].split(" ").includes(word));
  return end ?? (PROGRESS.split(" ").includes(word) ? null : undefined);
}

export function verify(rawBody, headers, secret, nowS = Date.now() / 1000) {
  if (!Buffer.isBuffer(rawBody)) throw new Error("the body must be the raw bytes");
  if (!secret?.replace(PREFIX, "")) throw new Error("there is no secret");
  if (PREFIX.test(secret) && !keyOf(secret)) throw new Error("the secret is a placeholder, or cut");
  // While the platform replaces a secret, the one that you have may be the previous one.
  const sha256Headers = ["x-webhook-signature", "x-webhook-signature-previous"]
    .map((name) => headers[name])
    .filter((value) => value !== undefined);
  // Some senders name the same headers svix-*; they count where there is no webhook-*.
  const standard = [headersOf("webhook", headers), headersOf("svix", headers)].find(
    (values) => values.some((value) => value !== undefined),
  );
  if (sha256Headers.length === 0 && !standard) throw new Error("there is no signature");
  if (sha256Headers.length > 0) verifySha256(rawBody, sha256Headers, secret);
  const named = standard ? verifyStandard(rawBody, standard, headers, secret, nowS) : {};
  const { jobId, status } = named.jobId ? {} : parse(rawBody);
  return {
    jobId: named.jobId ?? jobId,
    status: named.status ?? (named.jobId ? statusIn(rawBody) : status),
    run: named.run ?? 1,
    messageId: standard?.[0],
  };
}

function headersOf(prefix, headers) {
  return ["id", "timestamp", "signature"].map((name) => headers[`${prefix}-${name}`]);
}

function verifySha256(body, values, secret) {
  const expected = "sha256=" + createHmac("sha256", secret).update(body).digest("hex");
  if (!values.map((value) => equal(expected, value)).includes(true)) {
    throw new Error("sha256= does not match the body");
  }
}

function verifyStandard(body, [id, timestamp, signatures], headers, secret, nowS) {
  const values = (signatures ?? "").split(" ");
  if (/^[0-9]{13}$/.test(timestamp ?? "")) throw new Error("webhook-timestamp is in milliseconds");
  if (!id || id.includes(".") || !/^[0-9]{1,12}$/.test(timestamp ?? "")) {
    throw new Error("webhook-id or webhook-timestamp is missing or malformed");
  }
  const key = keyOf(secret);
  if (!key) throw new Error("the secret is not base64");
  const hmac = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body);
  const expected = "v1," + hmac.digest("base64");
  if (!values.map((value) => equal(expected, value)).includes(true)) {
    throw new Error("webhook-signature does not match id, timestamp and body");
  }
  if (!(Math.abs(nowS - Number(timestamp)) <= TOLERANCE_S)) throw new Error("it is too old, or ahead");
  return signedJob(headers, key, `${id}.${timestamp}`, values);
}

// The key of v1. Node.js decodes what it can and drops the rest: of "s3=…" one byte would be left,
// which anybody finds by trying.
function keyOf(secret) {
  const text = secret.replace(PREFIX, "");
  const isBase64 = BASE64.test(text) && text.replace(/=+$/, "").length % 4 !== 1;
  return isBase64 ? Buffer.from(text, "base64") : null;
}

// What X-Postback-Job-Id, -Status and -Run say, if a v1j vouches for them; {} if none does.
function signedJob(headers, key, sentAs, values) {
  const stated = ["id", "status", "run"].map((name) => headers[`x-postback-job-${name}`] ?? "");
  if (!stated.every((value) => /^(?:[A-Za-z0-9_~-]|%[0-9A-Fa-f]{2})*$/.test(value))) return {};
  const hmac = createHmac("sha256", key).update(`v1j.${sentAs}.${stated.join(".")}`);
  const expected = "v1j," + hmac.digest("base64");
  if (!values.map((value) => equal(expected, value)).includes(true)) return {};
  const [jobId, status, run] = stated.map((value) => decodeURIComponent(value) || undefined);
  return { jobId, status, run: run && Number(run) };
}

function parse(body) {
  const document = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  if (typeof document?.jobId !== "string" || !JOB_ID.test(document.jobId)) {
    throw new Error("it has no jobId, or none that is printable");
  }
  return document;
}

function statusIn(body) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body))?.status;
  } catch {
    const text = body.toString("latin1").replace(/^[\xef\xbb\xbf\xff\xfe\0 \t\r\n]+/, "");
    return text.startsWith("{") ? "unknown" : undefined; // what is no object states no status
  }
}

function equal(expected, given) {
  const [a, b] = [Buffer.from(expected), Buffer.from(String(given))];
  return a.length === b.length && timingSafeEqual(a, b);
}
