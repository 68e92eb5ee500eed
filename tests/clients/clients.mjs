// The official Node client and the Vercel AI SDK against a server: `node clients.mjs http://127.0.0.1:8000/v1 MODEL`.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none" });
const messages = [{ role: "user", content: "Hi" }];

assert.equal((await client.models.list()).data[0].id, model);
const chat = { model, messages, max_tokens: 24, temperature: 0 };
const whole = (await client.chat.completions.create(chat)).choices[0].message.content;
let text = "";
for await (const chunk of await client.chat.completions.create({ ...chat, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(text, whole);
console.log("openai chat");

const asked = { model, input: "Hi", max_output_tokens: 24, temperature: 0 };
const response = await client.responses.create(asked);
assert.equal(response.output_text, whole);
text = "";
for await (const event of await client.responses.create({ ...asked, stream: true })) {
  if (event.type === "response.output_text.delta") text += event.delta;
}
assert.equal(text, whole);
console.log("openai responses");

const steered = await client.chat.completions.create({ ...chat, steer: { attributes: { humor: 4 } } });
assert.equal(steered.steer.attributes.humor, 4);
await assert.rejects(client.chat.completions.create({ ...chat, model: `${model}@humor=9` }), /humor 0..4/);
console.log("openai steering");

const openai = createOpenAI({ baseURL, apiKey: "none" });
const compatible = createOpenAICompatible({ baseURL, name: "steerlm" });
const ways = { "ai-sdk default": openai(model), "ai-sdk chat": openai.chat(model), "ai-sdk compatible": compatible(model) };
for (const [name, way] of Object.entries(ways)) {
  const settings = { model: way, prompt: "Hi", maxOutputTokens: 24, temperature: 0, maxRetries: 0 };
  const reply = await generateText(settings);
  assert.equal(reply.text, whole, name);
  assert.ok(reply.usage.outputTokens > 0, name);
  const stream = streamText({ ...settings, onError: ({ error }) => { throw error; } });
  let streamed = "";
  for await (const piece of stream.textStream) streamed += piece;
  assert.equal(streamed, whole, name);
  const turns = [{ role: "system", content: "Be brief." }, { role: "user", content: "Hi" }];
  turns.push({ role: "assistant", content: whole }, { role: "user", content: "Why?" });
  const { prompt, ...rest } = settings;
  const { instructions, messages: talk } = { instructions: turns[0].content, messages: turns.slice(1) };
  assert.ok((await generateText({ ...rest, system: instructions, messages: talk })).usage.outputTokens > 0, name);
  console.log(name);
}
