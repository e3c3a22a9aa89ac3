/** The client against servers: TRYON_TEST_URL answers, TRYON_TEST_HOLDING_URL keeps requests until they are canceled. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { TryOn, TryOnError } from "../src/index.js";

const URL = process.env.TRYON_TEST_URL;
const HOLDING_URL = process.env.TRYON_TEST_HOLDING_URL;
const options = { skip: URL && HOLDING_URL ? false : "TRYON_TEST_URL and TRYON_TEST_HOLDING_URL are not set" };
// 16 x 16 pixels, grey
const GREY =
  "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEklEQVR4nGNsYMAETFjERgVpKQgA/MgA4QcMC9gAAAAASUVORK5CYII=";
const bytes = Uint8Array.from(atob(GREY), (character) => character.charCodeAt(0));

async function failed(promise) {
  const error = await promise.then(() => assert.fail("it did not fail"), (reason) => reason);
  assert.ok(error instanceof TryOnError, String(error));
  return error;
}

test("every kind of image arrives as the same image", options, async () => {
  const client = new TryOn({ url: URL, apiKey: "secret" });
  const results = [];
  for (const person of [bytes, bytes.buffer, new Blob([bytes]), `data:image/png;base64,${GREY}`]) {
    results.push(await client.tryOn({ person, garment: [bytes, new Blob([bytes])], seed: 7, numImages: 2 }));
  }
  const [first, ...others] = results;
  assert.deepEqual(first.images.map((image) => [image.seed, image.width, image.height]), [[7, 16, 16], [8, 16, 16]]);
  assert.equal(first.workflow.name, "demo");
  for (const result of others) {
    assert.deepEqual(result.images[0].bytes, first.images[0].bytes);
  }
});

test("seeds stay exact", options, async () => {
  const client = new TryOn({ url: URL, apiKey: "secret" });
  const seed = 2n ** 64n - 1n;
  const result = await client.tryOn({ person: bytes, garment: bytes, seed, outputFormat: "webp" });
  assert.deepEqual([result.seed, result.images[0].seed, result.images[0].format], [seed, seed, "webp"]);
});

test("events end with the result", options, async () => {
  const client = new TryOn({ url: URL, apiKey: "secret" });
  const types = [];
  for await (const event of client.stream({ person: bytes, garment: bytes, seed: 3 })) {
    types.push(event.type);
    if (event.type === "output") {
      assert.equal(event.result.seed, 3);
    }
  }
  assert.deepEqual([types[0], types.at(-1)], ["status", "output"]);
});

test("errors, workflows and health", options, async () => {
  const client = new TryOn({ url: URL, apiKey: "secret" });
  const request = { person: bytes, garment: bytes, width: 770 };
  for (const call of [client.tryOn(request, { requestId: "wide" }), client.stream(request, { requestId: "wide" }).next()]) {
    const { code, status, details, requestId } = await failed(call);
    assert.deepEqual([code, status, details.field, requestId], ["invalid_parameter", 422, "width", "wide"]);
  }
  assert.deepEqual((await client.workflows()).map(({ name, default: used }) => [name, used]), [["demo", true]]);
  assert.deepEqual(await client.health(), { status: "healthy", reason: null });
  assert.equal((await failed(new TryOn({ url: URL, apiKey: "another" }).workflows())).code, "unauthorized");
});

test("a request is canceled by its id", options, async () => {
  const client = new TryOn({ url: HOLDING_URL });
  const events = client.stream({ person: bytes, garment: bytes }, { requestId: "by-id" });
  assert.deepEqual(await events.next(), { done: false, value: { type: "status", status: "queued", position: 0 } });
  assert.equal(await client.cancel("by-id"), true);
  assert.equal((await failed(events.next())).code, "canceled");
  assert.equal(await client.cancel("by-id"), false);
});

test("a loop that is left early, and a signal, cancel the request", options, async () => {
  const client = new TryOn({ url: HOLDING_URL });
  for await (const event of client.stream({ person: bytes, garment: bytes }, { requestId: "left-early" })) {
    assert.equal(event.status, "queued");
    break;
  }
  const controller = new AbortController();
  const request = client.stream({ person: bytes, garment: bytes }, { requestId: "aborted", signal: controller.signal });
  await request.next();
  controller.abort();
  await assert.rejects(request.next(), { name: "AbortError" });
  // Their ids are free as soon as the server has let go of them; nothing here says so earlier.
  for (const requestId of ["left-early", "aborted"]) {
    let again;
    do {
      const events = client.stream({ person: bytes, garment: bytes }, { requestId });
      again = await events.next().catch((error) => error);
      await events.return();
    } while (again.code === "conflict");
    assert.equal(again.value.status, "queued");
  }
});
