// A complete worker in JavaScript: Node 18 or later, no package. It learns w so that x·w is x·[1, -2, 3].
//
//   ps-serve --mode ssp --staleness 2 --workers 2 --lr 0.1 --until 100
//   node examples/javascript/worker.mjs http://127.0.0.1:8080 js0
//   node examples/javascript/worker.mjs http://127.0.0.1:8080 js1
//
// A server that asks for a token, and whose certificate is of an authority of your own:
//
//   NODE_EXTRA_CA_CERTS=keys/ca.pem PS_TOKEN_FILE=keys/token node examples/javascript/worker.mjs https://trainer.example.com:8080 w0
//
// Written from docs/how-to/without-python.md, docs/reference/http.md and docs/reference/frame-format.md alone.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { read, write } from "./frames.mjs";

const [server = "http://127.0.0.1:8080", rank = "js0"] = process.argv.slice(2);
const TOKEN_FILE = process.env.PS_TOKEN_FILE;
const AUTHORIZATION = TOKEN_FILE ? { Authorization: `Bearer ${readFileSync(TOKEN_FILE, "utf8").trim()}` } : {};
const FRAME = "application/vnd.leeway.frame";
const TRUTH = [1, -2, 3];

/** How long a server may be away before the worker gives up. */
const PATIENCE_MS = 300_000;

class Refused extends Error {
  constructor({ status, code, detail, ...facts }) {
    super(`${status} ${code}: ${detail}`);
    Object.assign(this, { code, facts });
  }
}

/** One request, sent again with the same bytes while the server is away: a push is applied once however often it comes. */
async function call(method, path, { body, type = "application/json", wait = 0 } = {}) {
  const patience = Date.now() + PATIENCE_MS;
  for (let pause = 100; ; pause = Math.min(2 * pause, 5000)) {
    if (Date.now() > patience) throw new Error(`${server} has been away for too long`);
    let reply, data;
    try {
      const headers = { "Content-Type": type, Accept: FRAME, Prefer: `wait=${wait}`, ...AUTHORIZATION };
      reply = await fetch(server + path, { method, body, headers });
      data = Buffer.from(await reply.arrayBuffer());
    } catch (error) {
      // A certificate that is not to be trusted, of either side, does not pass by itself.
      if (/CERT|UNABLE_TO|UNKNOWN_CA/.test(error.cause?.code)) throw new Error(`${server}: ${error.cause.message}`);
      await sleep(pause * (0.5 + Math.random()));
      continue;
    }
    if ([429, 500, 503].includes(reply.status)) await sleep(pause * (0.5 + Math.random()));
    else if (!reply.ok) throw new Refused(JSON.parse(data));
    else return { status: reply.status, data };
  }
}

const json = (fields) => ({ body: JSON.stringify(fields) });
const query = (fields) => new URLSearchParams(fields).toString();
const tensor = (name, values) => ({ name, dtype: "float32", kind: "trainable", shape: [values.length], data: Float32Array.from(values) });

async function join(session) {
  const joined = JSON.parse((await call("POST", "/v1/workers", json({ rank, session }))).data);
  const life = { rank, epoch: joined.epoch, incarnation: joined.incarnation };
  return { life, clock: joined.groups.default.clock, lease: joined.lease_seconds };
}

/** What a server lacks that was just started, or has lost its state: the first offer of a tensor counts. */
async function offer(values) {
  const specs = [["w", "float32", "trainable", [TRUTH.length]]];
  const { wanted } = JSON.parse((await call("PUT", "/v1/params?ask=1", json({ specs }))).data);
  if (wanted.length) await call("PUT", "/v1/params", { body: write({}, [tensor("w", values)]), type: FRAME });
}

/** The mean gradient of (x·w - x·truth)²/2 over a batch, and the mean loss. */
function gradient(w, samples) {
  const sum = w.map(() => 0);
  let loss = 0;
  for (let sample = 0; sample < samples; sample += 1) {
    const x = w.map(() => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));
    const error = x.reduce((total, xi, i) => total + xi * (w[i] - TRUTH[i]), 0);
    x.forEach((xi, i) => (sum[i] += error * xi));
    loss += error ** 2 / 2;
  }
  return { values: sum.map((one) => one / samples), loss: loss / samples };
}

let session = randomUUID();
let { life, clock, lease } = await join(session);
let w = [0, 0, 0];
await offer(w);

/** Once and no more: the next heartbeat is the repetition. */
function tell(method, path) {
  const signal = AbortSignal.timeout(5000);
  return fetch(`${server}${path}?${query({ epoch: life.epoch, incarnation: life.incarnation })}`, { method, signal, headers: AUTHORIZATION }).catch(() => {});
}

const heartbeat = setInterval(() => tell("PUT", `/v1/workers/${rank}/lease`), (lease * 1000) / 3);

for (;;) {
  try {
    const { status, data } = await call("GET", `/v1/params?${query({ ...life, clock })}`, { wait: 20 });
    if (status === 204) continue; // not yet: the policy does not allow it, ask again
    const { message: granted, tensors } = read(data);
    const { bytes } = tensors.find(({ name }) => name === "w");
    w = [...new Float32Array(Uint8Array.from(bytes).buffer)];
    const samples = 16;
    const { values, loss } = gradient(w, samples);
    const version = Number(granted.version.split(".")[1]);
    const update = { ...life, clock, version, round: granted.round, kind: "gradient", samples, metrics: { loss } };
    await call("POST", "/v1/updates", { body: write(update, [tensor("w", values)]), type: FRAME });
    clock += 1;
  } catch (error) {
    if (error.code === "finished") break;
    if (error.code === "evicted") session = randomUUID();
    else if (!["old-epoch", "not-joined", "superseded", "not-granted", "wrong-clock"].includes(error.code)) throw error;
    ({ life, clock } = await join(session)); // and compute anew, for the clock that it names
    await offer(w);
  }
}

clearInterval(heartbeat);
// The server may have ended with the run: whoever leaves does not wait for it.
await tell("DELETE", `/v1/workers/${rank}`);
console.log(clock, w.map((value) => value.toFixed(3)).join(" "));
