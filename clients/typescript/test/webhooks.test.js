import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";

import { TryOnError, WebhookInvalid, verifyWebhook } from "../src/index.js";
import { verifySignature } from "../src/webhooks.js";

const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER = `whsec_${btoa("another secret")}`;
// The vector that the Standard Webhooks specification publishes.
const VECTOR = {
  "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
  "webhook-timestamp": "1614265330",
  "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
};
const BODY = JSON.stringify({
  id: "mine",
  seed: 1,
  output: { images: [{ image: "iVBORw==", format: "png", width: 1, height: 1, seed: 1 }] },
  workflow: { name: "demo", version: "1" },
  timings: { queue_s: 0, execute_s: 1, total_s: 1 },
});

/** Headers as a server sends them while its secret is being replaced. */
function signed(body, { ageS = 0, secret = SECRET } = {}) {
  const sent = String(Math.floor(Date.now() / 1000) - ageS);
  const key = Buffer.from(secret.replace("whsec_", ""), "base64");
  const signature = createHmac("sha256", key).update(`mine.${sent}.${body}`).digest("base64");
  return {
    "Webhook-Id": "mine",
    "Webhook-Timestamp": sent,
    "Webhook-Signature": `v1a,other v1,bm9uZQ== v1,! v1,${signature}`,
  };
}

async function at(seconds, call) {
  const { now } = Date;
  Date.now = () => 1000 * seconds;
  try {
    return await call();
  } finally {
    Date.now = now;
  }
}

test("the published vector of Standard Webhooks", async () => {
  const body = new TextEncoder().encode('{"test": 2432232314}');
  const sent = Number(VECTOR["webhook-timestamp"]);
  const id = await at(sent + 299, () => verifySignature(body, VECTOR, [SECRET]));
  assert.equal(id, VECTOR["webhook-id"]);
  await assert.rejects(at(sent, () => verifyWebhook(body, VECTOR, SECRET)), /body is not a result/);
  for (const now of [sent + 301, sent - 301]) {
    await assert.rejects(at(now, () => verifySignature(body, VECTOR, [SECRET])), /five minutes/);
  }
});

test("a webhook brings the result or the error", async () => {
  const bytes = new TextEncoder().encode(BODY);
  const headers = signed(BODY);
  for (const body of [BODY, bytes, bytes.buffer]) {
    for (const given of [headers, new Headers(headers)]) {
      for (const secret of [SECRET, SECRET.replace("whsec_", ""), [OTHER, SECRET]]) {
        const result = await verifyWebhook(body, given, secret);
        assert.deepEqual([result.id, [...result.images[0].bytes]], ["mine", [137, 80, 78, 71]]);
      }
    }
  }
  const body = '{"error": {"code": "timeout", "message": "Too long.", "details": {}}}';
  const error = await verifyWebhook(body, signed(body), SECRET);
  assert.ok(error instanceof TryOnError);
  assert.deepEqual([error.code, error.status, error.requestId], ["timeout", 504, "mine"]);
});

test("webhooks that must not be believed", async () => {
  const headers = signed(BODY);
  for (const name of Object.keys(headers)) {
    const { [name]: _, ...others } = headers;
    await assert.rejects(verifyWebhook(BODY, others, SECRET), new RegExp(name.toLowerCase()));
  }
  const invalid = (error) => error instanceof WebhookInvalid;
  for (const [body, given] of [
    [`${BODY} `, headers],
    [BODY, { ...headers, "Webhook-Id": "another" }],
    [BODY, { ...headers, "Webhook-Timestamp": String(Number(headers["Webhook-Timestamp"]) - 1) }],
    [BODY, { ...headers, "Webhook-Timestamp": "soon" }],
    [BODY, { ...headers, "Webhook-Timestamp": "1e9" }],
    [BODY, { ...headers, "Webhook-Signature": headers["Webhook-Signature"].replaceAll("v1,", "v2,") }],
    [BODY, { ...headers, "Webhook-Signature": "" }],
    [BODY, signed(BODY, { ageS: 301 })],
    [BODY, signed(BODY, { ageS: -302 })],
    [BODY, signed(BODY, { secret: OTHER })],
  ]) {
    await assert.rejects(verifyWebhook(body, given, SECRET), invalid);
  }
  for (const secret of ["", "whsec_", "whsec_not base64!"]) {
    await assert.rejects(verifyWebhook(BODY, headers, secret), TypeError);
  }
});
