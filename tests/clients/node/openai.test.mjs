// The openai JavaScript SDK, unmodified. Run by tests/clients/test_openai_js.py; REJOINDER_URL says where the server is.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.REJOINDER_URL}/v1`, apiKey: "unused" });
const WORDS = "alpha beta gamma";
const EVENTS = 9 + 3; // of a background response that echoes WORDS
const UNKNOWN = "resp_0000" + "0".repeat(32);

const echo = (fields = {}, options = {}) =>
  client.responses.create({ model: "echo", input: WORDS, background: true, ...fields }, options);
const upTo = (count) => Array.from({ length: count }, (_, index) => index);
const numbers = (events) => events.map((event) => event.sequence_number);

async function take(stream, count = Infinity) {
  const events = [];
  for await (const event of stream) {
    events.push(event);
    if (events.length === count) break;
  }
  return events;
}

const rejoin = (id, after) => client.responses.retrieve(id, { stream: true, starting_after: after });

async function polled(id, until) {
  for (;;) {
    const response = await client.responses.retrieve(id);
    if (until(response)) return response;
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

test("create in the background and poll with partial output", async () => {
  const created = await echo({ metadata: { "echo.tokens": "40", "echo.interval_ms": "60" } });
  assert.equal(created.status, "queued");

  const partial = await polled(created.id, (response) => response.output_text);
  const final = await polled(created.id, (response) => response.status === "completed");

  assert.equal(partial.status, "in_progress");
  assert.ok(final.output_text.startsWith(partial.output_text));
  assert.equal(final.usage.output_tokens, 40);
});

for (const cut of upTo(EVENTS + 1).slice(1)) {
  test(`cut after event ${cut} and rejoin`, async () => {
    const seen = await take(await echo({ stream: true }), cut);
    const id = seen[0].response.id;

    seen.push(...(await take(await rejoin(id, seen.at(-1).sequence_number))));

    assert.deepEqual(numbers(seen), upTo(EVENTS));
    assert.deepEqual(seen, await take(await client.responses.retrieve(id, { stream: true })));
  });
}

test("rejoining past the end gives an empty stream", async () => {
  const { id } = await echo();
  await polled(id, (response) => response.status === "completed");

  assert.deepEqual(await take(await rejoin(id, EVENTS - 1)), []);
});

test("the stream helper, from the start and rejoined", async () => {
  const final = await client.responses.stream({ model: "echo", input: WORDS }).finalResponse();
  assert.equal(final.output_text, WORDS);

  const { id } = await echo();
  const later = await take(client.responses.stream({ response_id: id, starting_after: 4 }));
  assert.deepEqual(numbers(later), upTo(EVENTS).slice(5));
});

test("keep-alives do not disturb the SDK", async () => {
  const pause = String(Number(process.env.KEEPALIVE_MS) * 2.5);
  const { id } = await echo({ input: "one two", metadata: { "echo.interval_ms": pause } });

  assert.deepEqual(numbers(await take(await client.responses.retrieve(id, { stream: true }))), upTo(11));
});

test("synchronous, and a plain stream", async () => {
  const plain = { model: "echo", input: WORDS };

  assert.equal((await client.responses.create(plain)).output_text, WORDS);
  const events = await take(await client.responses.create({ ...plain, stream: true }));
  assert.equal(events.at(-1).type, "response.completed");
});

test("a failure has its code", async () => {
  const events = await take(await echo({ stream: true, metadata: { "echo.fail_after": "1" } }));

  assert.equal(events.at(-1).type, "response.failed");
  assert.equal(events.at(-1).response.error.code, "server_error");
});

test("cancel, twice", async () => {
  const { id } = await echo({ metadata: { "echo.interval_ms": "60000" } });

  const [first, again] = [await client.responses.cancel(id), await client.responses.cancel(id)];

  assert.equal(first.status, "cancelled");
  assert.deepEqual(first.output, again.output);
  await assert.rejects(async () => {
    const done = await client.responses.create({ model: "echo", input: WORDS });
    await client.responses.cancel(done.id);
  }, /Cannot cancel a synchronous response\./);
});

test("delete, also while it streams", async () => {
  const { id } = await echo({ metadata: { "echo.interval_ms": "60000" } });
  const stream = await client.responses.retrieve(id, { stream: true });
  const cut = assert.rejects(take(stream));
  await client.responses.delete(id);

  await cut;
  await assert.rejects(client.responses.retrieve(id), OpenAI.NotFoundError);
});

test("input items, page by page", async () => {
  const lines = upTo(45).map((index) => `line ${index}`);
  const { id } = await echo({ input: lines.map((content) => ({ role: "user", content })) });

  const items = await take(client.responses.inputItems.list(id, { limit: 10, order: "asc" }));

  assert.deepEqual(items.map((item) => item.content[0].text), lines);
});

test("errors", async () => {
  const message = `404 Response with id '${UNKNOWN}' not found.`;
  for (const call of [
    () => client.responses.retrieve(UNKNOWN),
    () => client.responses.retrieve(UNKNOWN, { stream: true }),
    () => client.responses.cancel(UNKNOWN),
    () => client.responses.delete(UNKNOWN),
  ]) {
    await assert.rejects(call(), { message, status: 404, code: "not_found" });
  }
  await assert.rejects(echo({ model: "no-such-model" }), { status: 400, param: "model", code: "model_not_found" });
  await assert.rejects(echo({ input: 7 }), { status: 400, param: "input", code: "invalid_type" });
});

test("an idempotency key makes repeated posts one response", async () => {
  // The SDK's own option `idempotencyKey` is not sent: it knows no header for it.
  const headers = { "Idempotency-Key": randomUUID() };

  const [first, second] = [await echo({}, { headers }), await echo({}, { headers })];

  assert.equal(first.id, second.id);
  await assert.rejects(echo({ input: "other" }, { headers }), { status: 422 });
});
