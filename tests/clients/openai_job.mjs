// What a JavaScript program does with the openai package; prints what it got as JSON.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const ask = { model: "sprout", messages, temperature: 0, max_tokens: 60 };
const city = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const record = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer" } },
  required: ["name", "age"],
  additionalProperties: false,
};

const whole = await client.chat.completions.create(ask);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
const runner = client.chat.completions.stream({
  ...ask,
  max_tokens: 200,
  tools: [{ type: "function", function: { name: "get_weather", parameters: city } }],
  tool_choice: "required",
});
const called = (await runner.finalChatCompletion()).choices[0].message.tool_calls[0].function;
const parsed = await client.chat.completions.parse({
  ...ask,
  max_tokens: 200,
  response_format: { type: "json_schema", json_schema: { name: "record", schema: record, strict: true } },
});
const response = await client.responses.create({ model: "sprout", input: "Hello", max_output_tokens: 30 });
const refused = await client.chat.completions.create({ ...ask, n: 1000 }).then(
  () => null,
  (error) => [error.status, error.param],
);
console.log(
  JSON.stringify({
    whole: whole.choices[0].message.content,
    streamed,
    tool: called.name,
    arguments: called.arguments,
    record: parsed.choices[0].message.parsed,
    response: response.output_text,
    refused,
  }),
);
