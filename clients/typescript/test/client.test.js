/** The client over replies that the tests write themselves. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { TryOn, TryOnError } from "../src/index.js";

const GREY = new Uint8Array([137, 80, 78, 71]);
const REQUEST = { person: GREY, garment: GREY };
const SEED = "18446744073709551615";
const REPLY = `{
  "id": "mine", "seed": ${SEED},
  "output": {"mask": "bWFzaw==", "images": [{"image": "iVBORw==", "format": "png", "width": 16, "height": 16,
    "seed": 7, "report": {"window": [0, 0, 16, 16], "changed": 0.5, "colour_difference": null}}]},
  "workflow": {"name": "demo", "version": "1"},
  "timings": {"queue_s": 0, "execute_s": 1.5, "total_s": 1.6}
}`;
const EVENT_STREAM = { "Content-Type": "text/event-stream" };

/** @type {number[]} The pauses before retries, which take no time here. */
let pauses = [];
const setTimeoutThen = globalThis.setTimeout;
globalThis.setTimeout = /** @type {any} */ (
  (/** @type {() => void} */ call, /** @type {number} */ ms) => {
    if (ms > 100_000) {
      return setTimeoutThen(call, ms);
    }
    pauses.push(ms / 1000);
    return setTimeoutThen(call, 0);
  }
);

/** A client over these replies, one after the other; errors are thrown. */
function scripted(replies, options = {}) {
  const calls = [];
  pauses = [];
  const fetch = async (url, init) => {
    calls.push({ url, ...init });
    const reply = replies.shift();
    if (reply instanceof Error) {
      throw reply;
    }
    return reply;
  };
  return { client: new TryOn({ url: "http://server/", fetch, ...options }), calls };
}

const ok = () => new Response(REPLY);

function failure(status, code, headers = {}) {
  return Response.json({ error: { code, message: "Wait.", details: {} } }, { status, headers });
}

function events(...chunks) {
  const encoder = new TextEncoder();
  const body = new ReadableStream({
    start(controller) {
      chunks.forEach((chunk) => controller.enqueue(encoder.encode(chunk)));
      controller.close();
    },
  });
  return new Response(body, { headers: EVENT_STREAM });
}

const output = () => `event: output\ndata: ${REPLY.replaceAll("\n", "\ndata: ")}\n\n`;

async function all(stream) {
  const list = [];
  for await (const event of stream) {
    list.push(event);
  }
  return list;
}

async function error(promise) {
  const caught = await promise.then(() => assert.fail("it did not fail"), (reason) => reason);
  assert.ok(caught instanceof TryOnError, String(caught));
  return caught;
}

function lost() {
  return new TypeError("fetch failed", { cause: Object.assign(new Error("reset"), { code: "ECONNRESET" }) });
}

function refused() {
  return new TypeError("fetch failed", { cause: Object.assign(new Error("refused"), { code: "ECONNREFUSED" }) });
}

function gaveUp() {
  const cause = Object.assign(new Error("Headers Timeout Error"), { code: "UND_ERR_HEADERS_TIMEOUT" });
  return new TypeError("fetch failed", { cause });
}

test("a result has everything", async () => {
  const { client } = scripted([ok()]);
  const result = await client.tryOn(REQUEST);
  const [image] = result.images;
  assert.equal(result.seed, BigInt(SEED));
  assert.equal(image.seed, 7);
  assert.deepEqual(image.bytes, GREY);
  assert.equal(image.blob.type, "image/png");
  assert.deepEqual(image.report, { window: [0, 0, 16, 16], changed: 0.5, colourDifference: null });
  assert.deepEqual(result.mask, new TextEncoder().encode("mask"));
  assert.deepEqual([result.id, result.timings.executeS, result.workflow.name], ["mine", 1.5, "demo"]);
  assert.deepEqual(result.warnings, []);
});

test("an image that was uploaded has no bytes", async () => {
  const reply = JSON.parse(REPLY);
  reply.output.images = [{ url: "https://bucket.example/1.png", bytes: 99, format: "png", width: 1, height: 1, seed: 1 }];
  const { client, calls } = scripted([Response.json(reply)]);
  const uploadUrls = ["https://bucket.example/1.png?s=1", "https://bucket.example/2.png?s=2"];
  const [image] = (await client.tryOn({ ...REQUEST, uploadUrls })).images;
  assert.deepEqual([image.bytes, image.blob, image.size], [null, null, 99]);
  assert.equal(image.url, "https://bucket.example/1.png");
  assert.deepEqual(calls[0].body.getAll("upload_urls"), uploadUrls);
});

test("fields and images become the parts of a form", async () => {
  const { client, calls } = scripted([ok()], { apiKey: "secret", headers: { "X-Shop": "1" } });
  const uri = "data:image/png;base64,iVBORw==";
  await client.tryOn(
    {
      person: new URL("https://shop.example/me.jpg"),
      garment: [new Blob([GREY]), GREY.buffer, uri],
      mask: null,
      clothType: ["upper", "lower", "upper"],
      numInferenceSteps: 20,
      guidanceScale: 2.5,
      returnMask: true,
      framing: undefined,
      seed: BigInt(SEED),
    },
    { requestId: "mine" },
  );
  const [{ url, method, headers, body }] = calls;
  assert.deepEqual([url, method], ["http://server/api/v1/tryon", "POST"]);
  assert.deepEqual([headers["X-API-Key"], headers["X-Shop"], headers["X-Request-Id"]], ["secret", "1", "mine"]);
  assert.equal(body.get("person_image"), "https://shop.example/me.jpg");
  const [first, second, third] = body.getAll("garment_image");
  for (const file of [first, second]) {
    assert.deepEqual(new Uint8Array(await file.arrayBuffer()), GREY);
  }
  assert.equal(third, uri);
  assert.deepEqual(body.getAll("cloth_type"), ["upper", "lower", "upper"]);
  const texts = { num_inference_steps: "20", guidance_scale: "2.5", return_mask: "true", seed: SEED };
  for (const [name, text] of Object.entries(texts)) {
    assert.equal(body.get(name), text);
  }
  assert.ok(!body.has("mask_image") && !body.has("framing"));
});

test("addresses and images that cannot be used are refused", async () => {
  assert.throws(() => new TryOn({ url: "127.0.0.1:8000" }), /http:/);
  const secret = "two\nlines";
  for (const options of [{ apiKey: secret }, { headers: { Authorization: secret } }]) {
    const unquoted = (error) => error instanceof TypeError && !error.message.includes("lines");
    assert.throws(() => new TryOn({ url: "http://server", ...options }), unquoted);
  }
  const { client, calls } = scripted([]);
  for (const requestId of ["a\nb", "", "a/b", "x".repeat(65)]) {
    await assert.rejects(client.tryOn(REQUEST, { requestId }), /requestId must be/);
  }
  await assert.rejects(client.tryOn({ person: "me.jpg", garment: GREY }), /openAsBlob/);
  await assert.rejects(client.tryOn({ ...REQUEST, webhookUrl: "https://shop.example/" }), /submit/);
  assert.equal(calls.length, 0);
});

test("it waits as long as Retry-After says and sends the same id", async () => {
  const { client, calls } = scripted([
    failure(429, "queue_full", { "Retry-After": "7" }),
    failure(503, "draining", { "Retry-After": new Date(Date.now() - 60_000).toUTCString() }),
    new Response("<html>a load balancer's page</html>", { status: 503, headers: { "Retry-After": "0" } }),
    ok(),
  ]);
  assert.equal((await client.tryOn(REQUEST)).id, "mine");
  assert.ok(pauses[0] >= 7 && pauses[0] <= 7 * 1.25);
  assert.deepEqual(pauses.slice(1), [0, 0]);
  assert.equal(new Set(calls.map((call) => call.headers["X-Request-Id"])).size, 1);
});

test("pauses grow up to a limit if the server asks for none", async () => {
  const { client } = scripted([...Array.from({ length: 7 }, () => failure(503, "not_ready")), ok()], { maxRetries: 7 });
  await client.tryOn(REQUEST);
  [1, 2, 4, 8, 10, 10, 10].forEach((longest, index) => {
    assert.ok(pauses[index] >= 0.75 * longest && pauses[index] <= longest, String(pauses));
  });
});

test("a lost connection is tried again until the server has let go of the first attempt", async () => {
  const begin = () => [lost(), failure(409, "conflict"), failure(409, "conflict")];
  const plain = scripted([...begin(), ok()]);
  assert.equal((await plain.client.tryOn(REQUEST)).id, "mine");
  assert.equal(plain.calls.length, 4);
  const streamed = scripted([...begin(), events(output())]);
  assert.equal((await all(streamed.client.stream(REQUEST))).at(-1).result.id, "mine");
});

test("errors that a retry does not change are thrown at once", async () => {
  for (const [reply, code] of [
    [() => failure(409, "conflict"), "conflict"],
    [() => failure(422, "invalid_image", { "Retry-After": "0" }), "invalid_image"],
    [() => failure(504, "timeout"), "timeout"],
    [() => failure(503, "not_ready", { "Retry-After": "61" }), "not_ready"],
    [() => new Response("<html>bad gateway</html>", { status: 502 }), "http_502"],
    [() => new Response(null, { status: 302 }), "http_302"],
    [() => new Response("<html>log in</html>"), "invalid_reply"],
    [() => Response.json({ output: {} }), "invalid_reply"],
    [gaveUp, "no_reply"],
  ]) {
    for (const send of [(client) => client.tryOn(REQUEST), (client) => all(client.stream(REQUEST))]) {
      const { client, calls } = scripted([reply()]);
      assert.equal((await error(send(client))).code, code);
      assert.equal(calls.length, 1);
    }
  }
});

test("it gives up after so many retries", async () => {
  for (const [reply, code] of [
    [() => failure(429, "queue_full", { "Retry-After": "0" }), "queue_full"],
    [refused, "connection_failed"],
    [lost, "connection_lost"],
  ]) {
    const { client, calls } = scripted(Array.from({ length: 4 }, reply), { maxRetries: 2 });
    assert.equal((await error(client.tryOn(REQUEST))).code, code);
    assert.equal(calls.length, 3);
  }
});

test("errors say everything", async () => {
  const body = { error: { code: "invalid_parameter", message: "Use 768.", details: { field: "width" } } };
  const { client } = scripted([Response.json(body, { status: 422, headers: { "X-Request-Id": "wide" } })]);
  const { code, message, details, status, requestId, retryAfter } = await error(client.tryOn(REQUEST));
  assert.deepEqual([code, message, details, status], ["invalid_parameter", "Use 768.", { field: "width" }, 422]);
  assert.deepEqual([requestId, retryAfter], ["wide", null]);
});

test("events come in pieces, over several lines, with comments and unknown kinds", async () => {
  const text =
    ": keep-alive\n\n" +
    'event: status\r\ndata: {"status": "queued", "position": 1}\r\n\r\n' +
    'event: later\ndata: {"kind": "of a later server"}\n\n' +
    'event:progress\ndata:{"value": 1, "max": 2, "node": "7"}\n\n' +
    'event: preview\ndata: {"format": "jpeg", "image": "iVBORw=="}\n\n' +
    'event: status\ndata: {"status": "running"}\n\n' +
    output();
  for (const size of [1, 7, text.length]) {
    const chunks = text.match(new RegExp(`.{1,${size}}`, "gs"));
    const { client } = scripted([events(...chunks)]);
    const [first, second, third, fourth, last, ...others] = await all(client.stream(REQUEST));
    assert.deepEqual(first, { type: "status", status: "queued", position: 1 });
    assert.deepEqual(second, { type: "progress", value: 1, max: 2, node: "7" });
    assert.deepEqual(third, { type: "preview", format: "jpeg", image: GREY });
    assert.deepEqual(fourth, { type: "status", status: "running", position: null });
    assert.equal(last.result.seed, BigInt(SEED));
    assert.equal(others.length, 0);
  }
});

test("an error event is retried if it may pass", async () => {
  const event = (code) => `event: error\ndata: {"error": {"code": "${code}", "message": "No.", "details": {}}}\n\n`;
  const { client, calls } = scripted([events(event("out_of_memory")), events(event("timeout"))]);
  const { code, status, requestId } = await error(all(client.stream(REQUEST, { requestId: "mine" })));
  assert.deepEqual([code, status, requestId, calls.length], ["timeout", 504, "mine", 2]);
});

test("a stream that stops early begins again", async () => {
  const running = 'event: status\ndata: {"status": "running"}\n\n';
  const again = scripted([events(running), events(running, output())]);
  const types = (await all(again.client.stream(REQUEST))).map((event) => event.type);
  assert.deepEqual(types, ["status", "status", "output"]);
  const { client } = scripted([events(running), events(running)], { maxRetries: 1 });
  assert.equal((await error(all(client.stream(REQUEST)))).code, "connection_lost");
});

test("submitting returns the id, also if the reply that said so was lost", async () => {
  const request = { ...REQUEST, webhookUrl: "https://shop.example/hook" };
  const first = scripted([Response.json({ id: "mine" }, { status: 202 })]);
  assert.equal(await first.client.submit(request), "mine");
  assert.equal(first.calls[0].body.get("webhook_url"), request.webhookUrl);
  const second = scripted([lost(), failure(409, "conflict")]);
  assert.equal(await second.client.submit(request, { requestId: "mine" }), "mine");
  assert.equal((await error(scripted([failure(409, "conflict")]).client.submit(request))).code, "conflict");
  assert.equal((await error(scripted([ok()]).client.submit(request))).code, "invalid_reply");
});

test("aborting ends a request and the pause before a retry", async () => {
  const hanging = (_, { signal }) =>
    new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const client = new TryOn({ url: "http://server", fetch: hanging });
  for (const send of [(signal) => client.tryOn(REQUEST, { signal }), (signal) => all(client.stream(REQUEST, { signal }))]) {
    const controller = new AbortController();
    const request = send(controller.signal);
    controller.abort(new Error("changed my mind"));
    await assert.rejects(request, /changed my mind/);
    await assert.rejects(send(controller.signal), /changed my mind/);
  }
  const controller = new AbortController();
  const busy = scripted([failure(503, "not_ready")], {});
  const request = busy.client.tryOn(REQUEST, { signal: controller.signal });
  controller.abort(new Error("enough"));
  await assert.rejects(request, /enough/);
});

test("a server that sends nothing is given up", async () => {
  const hanging = (_, { signal }) =>
    new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const client = new TryOn({ url: "http://server", fetch: hanging, timeoutMs: 1 });
  assert.equal((await error(client.tryOn(REQUEST))).code, "no_reply");
});

test("a timeout that no timer can wait for never ends a request", async () => {
  for (const timeoutMs of [Infinity, 3e9]) {
    const slow = (_, { signal }) =>
      new Promise((resolve, reject) => {
        signal.addEventListener("abort", () => reject(signal.reason));
        setTimeoutThen(() => resolve(ok()), 50);
      });
    const client = new TryOn({ url: "http://server", fetch: slow, timeoutMs });
    assert.equal((await client.tryOn(REQUEST)).id, "mine");
  }
});

test("a workflow's own seed stays exact", async () => {
  for (const [seed, expected] of [[SEED, BigInt(SEED)], ["9007199254740991", Number.MAX_SAFE_INTEGER], ["7", 7]]) {
    const text = `{"workflows": [{"name": "demo", "default": true, "seed": "used", "parameters": {"seed": ${seed}}}]}`;
    const [workflow] = await scripted([new Response(text)]).client.workflows();
    assert.deepEqual([workflow.parameters.seed, workflow.seed], [expected, "used"]);
  }
});

test("health", async () => {
  for (const [reply, health] of [
    [Response.json({ status: "healthy" }), { status: "healthy", reason: null }],
    [new Response(null, { status: 204 }), { status: "starting", reason: null }],
    [Response.json({ status: "unhealthy", reason: "GPU" }, { status: 503 }), { status: "unhealthy", reason: "GPU" }],
  ]) {
    assert.deepEqual(await scripted([reply]).client.health(), health);
  }
  assert.equal((await error(scripted([new Response("?", { status: 503 })]).client.health())).code, "http_503");
});
