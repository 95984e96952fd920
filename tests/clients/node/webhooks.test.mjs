// Webhooks with the openai JavaScript SDK, unmodified. Run by tests/clients/test_openai_js.py.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.REJOINDER_URL}/v1`, apiKey: "unused" });
const received = [];
let server, url;

before(async () => {
  server = createServer((request, response) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      received.push({ headers: request.headers, body: Buffer.concat(chunks).toString() });
      response.writeHead(200).end();
    });
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  url = `http://127.0.0.1:${server.address().port}/hook`;
});
after(() => server.close());

async function heard(matches) {
  for (let tries = 0; tries < 400; tries++) {
    const found = received.find(({ body }) => matches(JSON.parse(body)));
    if (found) return found;
    await new Promise((wake) => setTimeout(wake, 50));
  }
  assert.fail("no webhook came");
}

const made = () =>
  client.webhooks.create({ name: "js", url, event_types: ["response.completed", "response.cancelled"] });
const removed = ({ id }) => client.webhooks.delete(id);

test("unwrap verifies the end of a background response", async () => {
  const endpoint = await made();
  const response = await client.responses.create({ model: "echo", input: "a b", background: true });
  const { headers, body } = await heard(({ data }) => data.id === response.id);
  const event = await client.webhooks.unwrap(body, headers, endpoint.signing_secret);
  assert.equal(event.type, "response.completed");
  assert.equal(event.data.id, response.id);
  await assert.rejects(client.webhooks.unwrap(`${body} `, headers, endpoint.signing_secret));
  await removed(endpoint);
});

test("both secrets verify while one is rotated", async () => {
  const endpoint = await made();
  const rotated = await client.webhooks.rotateSecret(endpoint.id, { keep_old_secret_active_for_24_hours: true });
  const tested = await client.webhooks.test(endpoint.id, { event_type: "response.cancelled" });
  assert.equal(tested.status_code, 200);
  const { headers, body } = await heard(({ type }) => type === "response.cancelled");
  for (const secret of [endpoint.signing_secret, rotated.signing_secret]) {
    assert.equal((await client.webhooks.unwrap(body, headers, secret)).type, "response.cancelled");
  }
  await removed(endpoint);
});

test("endpoints are listed, changed and gone", async () => {
  const endpoint = await made();
  await client.webhooks.update(endpoint.id, { name: "other" });
  const names = [];
  for await (const each of client.webhooks.list({ limit: 1 })) names.push(each.name);
  assert.ok(names.includes("other"));
  await removed(endpoint);
  await assert.rejects(client.webhooks.retrieve(endpoint.id), OpenAI.NotFoundError);
  assert.equal((await client.webhooks.eventTypes.list()).data.length, 4);
});
