// RunPod's JavaScript client as its users write it: what each call gave, as JSON in the last line of
// standard output. Arguments: the module, the base URL, the key and the endpoint.

const [module, baseUrl, key, name] = process.argv.slice(2)
const { default: runpodSdk } = await import(module)
const endpoint = runpodSdk(key, { baseUrl }).endpoint(name)
const found = {}

async function until(id, status) {
  while ((await endpoint.status(id)).status !== status) {
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

const job = await endpoint.run({ input: { prompt: "hello" } })
found.run = job
found.statusSync = await endpoint.statusSync(job.id)
found.status = await endpoint.status(job.id)
found.runSync = await endpoint.runSync({ input: { prompt: "wait" } })
found.slow = await endpoint.runSync({ input: { prompt: "slow", seconds: 1.5 } }, 60000)
found.late = await endpoint.runSync({ input: { prompt: "late", seconds: 2.5 } }, 1000)

const streaming = await endpoint.run({ input: { prompt: "stream" } })
found.stream = []
for await (const one of endpoint.stream(streaming.id)) found.stream.push(one)

const chunked = await endpoint.run({ input: { chunks: ["a", { n: 2 }, [3], null, 5] } })
found.chunks = []
for await (const one of endpoint.stream(chunked.id)) found.chunks.push(one)

const failing = await endpoint.run({ input: { fail: true } })
await until(failing.id, "FAILED")
found.failed = await endpoint.status(failing.id)

const held = await endpoint.run({ input: { hold: true } })
await until(held.id, "IN_PROGRESS")
const waiting = []
for (let n = 0; n < 2; n++) waiting.push(await endpoint.run({ input: { prompt: "late" } }))
found.waiting = []
for (const one of waiting) found.waiting.push((await endpoint.status(one.id)).status)
found.health = await endpoint.health()
found.purge = await endpoint.purgeQueue()
for (const one of waiting) await until(one.id, "CANCELLED")
found.cancel = await endpoint.cancel(held.id)
found.cancelled = (await endpoint.status(held.id)).status
console.log(JSON.stringify(found))
