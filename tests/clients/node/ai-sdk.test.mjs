// Vercel's AI SDK, unmodified. Run by tests/clients/test_ai_sdk.py; REJOINDER_URL says where the server is. Its models
// `responses-…` and `chat-…` are those of tests/model_server.py: `recall` says the conversation as it came upstream.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import {
  APICallError,
  generateText,
  isStepCount,
  Output,
  StreamProviderError,
  streamText,
  tool,
  ToolLoopAgent,
} from "ai";
import OpenAI from "openai";
import { z } from "zod";

const baseURL = `${process.env.REJOINDER_URL}/v1`;
let references = 0; // to items, in what the SDK has sent since it was last 0
const provider = createOpenAI({
  baseURL,
  apiKey: "unused",
  fetch(url, request) {
    const { input = [] } = JSON.parse(request.body);
    references += input.filter((item) => item.type === "item_reference").length;
    return fetch(url, request);
  },
});
const client = new OpenAI({ baseURL, apiKey: "unused" });

const SAID = "Good day, Sir.";
const CALLED = 'call weather {"where":"here"}\n'.repeat(2) + "output It rains here.\noutput It rains here.";
const weather = tool({
  description: "The weather at a place",
  inputSchema: z.object({ where: z.string() }),
  execute: async ({ where }) => `It rains ${where}.`,
});
const ENDLESS = { "echo.tokens": "1000", "echo.interval_ms": "100" };

// The same questions, answered whole and streamed.
const asking = {
  async whole(options) {
    const result = await generateText({ maxRetries: 0, ...options });
    const { text, reasoningText, usage, finishReason, steps, responseMessages: messages, providerMetadata } = result;
    return { text, reasoningText, usage, finishReason, steps, messages, id: providerMetadata.openai.responseId };
  },
  async streamed(options) {
    const failed = [];
    const result = streamText({ maxRetries: 0, onError: ({ error }) => failed.push(error), ...options });
    let streamed = "";
    for await (const piece of result.textStream) streamed += piece;
    if (failed.length) throw failed[0];
    const steps = await result.steps;
    assert.equal(steps.map((step) => step.text).join(""), streamed);
    return {
      text: await result.text,
      reasoningText: await result.reasoningText,
      usage: await result.usage,
      finishReason: await result.finishReason,
      steps,
      messages: await result.responseMessages,
      id: (await result.providerMetadata).openai.responseId,
    };
  },
};

// A conversation, a turn for each model; returns the last answer and all messages.
async function conversation(ask, models, options = {}) {
  const messages = [];
  let answer;
  for (const [number, model] of models.entries()) {
    messages.push({ role: "user", content: `turn ${number}` });
    answer = await ask({ model: provider(model), messages, stopWhen: isStepCount(5), ...options });
    messages.push(...answer.messages);
  }
  return answer;
}

for (const backend of ["responses", "chat"]) {
  for (const [name, ask] of Object.entries(asking)) {
    const model = (what) => provider(`${backend}-${what}`);
    const of = `${backend}, ${name}`;

    test(`${of}: an answer`, async () => {
      const { text, usage, finishReason, id } = await ask({ model: model("text"), prompt: "hi" });

      assert.equal(text, SAID);
      assert.deepEqual([usage.inputTokens, usage.outputTokens, usage.totalTokens], [5, 7, 12]);
      assert.equal(finishReason, "stop");
      assert.match(id, /^resp_/);
    });

    test(`${of}: thoughts`, async () => {
      const { text, reasoningText } = await ask({ model: model("reasoning"), prompt: "hi" });

      assert.equal(text, SAID);
      // The SDK reads summaries, and takes no notice of `reasoning_text`, as which a chat server's thoughts are told.
      assert.equal(reasoningText, backend === "responses" ? "Thinking." : undefined);
    });

    test(`${of}: a tool loop`, async () => {
      const { text, steps } = await ask({
        model: model("recall"),
        prompt: "hi",
        tools: { weather },
        stopWhen: isStepCount(5),
      });

      assert.equal(steps.length, 2);
      assert.equal(steps[0].finishReason, "tool-calls");
      assert.equal(text, `user: hi\n${CALLED}`);
    });

    test(`${of}: several turns, by references to items`, async () => {
      references = 0;
      const { text } = await conversation(ask, ["text", "text", "recall"].map((what) => `${backend}-${what}`));

      assert.equal(text, `user: turn 0\nassistant: ${SAID}\nuser: turn 1\nassistant: ${SAID}\nuser: turn 2`);
      assert.equal(references, 1 + 2);
    });

    test(`${of}: thoughts and tools over several turns, by references`, async () => {
      references = 0;
      const { text } = await conversation(ask, [`${backend}-reasoning`, `${backend}-reasoning+recall`], {
        tools: { weather },
        providerOptions: { openai: { forceReasoning: true } },
      });

      assert.ok(text.startsWith(`user: turn 0\n${CALLED}\nassistant: ${SAID}\nuser: turn 1\n`), text);
      assert.ok(text.endsWith(CALLED), text);
      assert.ok(references > (backend === "responses" ? 5 : 0), `${references}`);
    });

    test(`${of}: sealed thoughts go round where nothing is stored`, async () => {
      const { text } = await conversation(ask, [`${backend}-reasoning+recall`], {
        tools: { weather },
        providerOptions: { openai: { store: false, forceReasoning: true } },
      });

      const sealed = backend === "responses" ? "thought sealed\n" : "";
      assert.equal(text, `user: turn 0\n${sealed}${CALLED}`);
    });

    test(`${of}: several turns, by the id of the previous response`, async () => {
      const first = await ask({ model: model("text"), prompt: "one" });
      const { text } = await ask({
        model: model("recall"),
        prompt: "two",
        providerOptions: { openai: { previousResponseId: first.id } },
      });

      assert.equal(text, `user: one\nassistant: ${SAID}\nuser: two`);
    });

    test(`${of}: what failed is no empty answer`, async () => {
      await assert.rejects(ask({ model: model("failed"), prompt: "hi" }), /slow down/);
    });

    test(`${of}: what is cut short says so`, async () => {
      const { finishReason } = await ask({ model: model("incomplete"), prompt: "hi" });

      assert.equal(finishReason, "length");
    });
  }

  test(`${backend}: an agent's loop`, async () => {
    const agent = new ToolLoopAgent({ model: provider(`${backend}-recall`), tools: { weather } });

    assert.equal((await agent.generate({ prompt: "hi" })).text, `user: hi\n${CALLED}`);
  });
}

const echo = (metadata) => ({ model: provider("echo"), prompt: "hi", providerOptions: { openai: { metadata } } });

for (const [name, ask] of Object.entries(asking)) {
  test(`${name}: a failure is raised`, async () => {
    await assert.rejects(ask(echo({ "echo.fail_after": "0" })), (error) => {
      if (name === "whole") return APICallError.isInstance(error) && error.statusCode === 502;
      return StreamProviderError.isInstance(error) && error.code === "server_error";
    });
  });
}

test("a structured answer", async () => {
  const { output } = await generateText({
    ...echo({}),
    prompt: '{"where": "here"}',
    output: Output.object({ schema: z.object({ where: z.string() }) }),
  });

  assert.deepEqual(output, { where: "here" });
});

test("chat completions are not offered", async () => {
  await assert.rejects(generateText({ model: provider.chat("echo"), prompt: "hi" }), /\/v1\/responses/);
});

test("an unknown reference is refused", async () => {
  const content = [{ type: "text", text: "hi", providerOptions: { openai: { itemId: "msg_none" } } }];
  const messages = [{ role: "assistant", content }, { role: "user", content: "go on" }];

  await assert.rejects(generateText({ model: provider("echo"), messages, maxRetries: 0 }), /msg_none/);
});

// The id of the response whose stream was left after its first word.
async function left() {
  const stop = new AbortController();
  const result = streamText({ ...echo(ENDLESS), abortSignal: stop.signal, includeRawChunks: true });
  let id;
  for await (const part of result.fullStream) {
    if (part.type === "raw" && part.rawValue.type === "response.created") id = part.rawValue.response.id;
    if (part.type === "text-delta") stop.abort();
  }
  return id;
}

test("a stream that is aborted stops the model", async () => {
  let last;
  for await (const event of await client.responses.retrieve(await left(), { stream: true })) last = event;

  assert.deepEqual([last.type, last.response.status], ["response.failed", "cancelled"]);
});
