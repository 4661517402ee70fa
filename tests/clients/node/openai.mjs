// What a JavaScript program does with the openai package: each job ends in a value that the test looks at.
import OpenAI from "openai";

export default ({ baseURL, apiKey, ask, asked, record, city }) => {
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 180_000 });
  const chat = { model: "sprout", messages: [{ role: "user", content: ask }], temperature: 0, max_tokens: 100 };
  const weather = {
    ...chat,
    messages: [{ role: "user", content: asked.weather }],
    tools: [{ type: "function", function: { name: "get_weather", parameters: city, strict: true } }],
    tool_choice: "required",
    parallel_tool_calls: false,
  };
  const form = { type: "json_schema", json_schema: { name: "record", schema: record, strict: true } };
  const asRecord = { ...chat, messages: [{ role: "user", content: asked.record }], response_format: form };
  const respond = { model: "sprout", input: ask, temperature: 0, max_output_tokens: 100 };
  const text = async (stream) => {
    let found = "";
    for await (const chunk of stream) found += chunk.choices[0]?.delta?.content ?? "";
    return found;
  };
  const refused = (promise) =>
    promise.then(
      () => null,
      (error) => ({ kind: error.constructor.name, status: error.status, param: error.param, code: error.code }),
    );
  return {
    chat: async () => (await client.chat.completions.create(chat)).choices[0].message.content,
    stream: async () => text(await client.chat.completions.create({ ...chat, stream: true })),
    usage: async () => (await client.chat.completions.create(chat)).usage,
    tool: async () => (await client.chat.completions.create(weather)).choices[0].message.tool_calls,
    streamedTool: async () =>
      (await client.chat.completions.stream(weather).finalChatCompletion()).choices[0].message.tool_calls,
    parse: async () => (await client.chat.completions.parse(asRecord)).choices[0].message.parsed,
    streamedFormat: async () =>
      (await client.chat.completions.stream(asRecord).finalChatCompletion()).choices[0].message.content,
    several: async () =>
      (await client.chat.completions.create({ ...chat, n: 3, temperature: 1 })).choices.map((c) => c.message.content),
    logprobs: async () =>
      (await client.chat.completions.create({ ...chat, logprobs: true, top_logprobs: 2 })).choices[0].logprobs.content,
    completion: async () =>
      (await client.completions.create({ model: "sprout", prompt: ["1 2 3", "a b c"], max_tokens: 8 })).choices.map(
        (choice) => choice.text,
      ),
    response: async () => (await client.responses.create(respond)).output_text,
    streamedResponse: async () => {
      let found = "";
      for await (const event of await client.responses.create({ ...respond, stream: true })) {
        if (event.type === "response.output_text.delta") found += event.delta;
      }
      return found;
    },
    embeddings: async () =>
      (await client.embeddings.create({ model: "sprout", input: ["a cat", "a dog"] })).data.map((d) => d.embedding.length),
    left: async () => {
      const stream = await client.chat.completions.create({ ...chat, stream: true, max_tokens: 3000, ignore_eos: true });
      for await (const _ of stream) break;
      return "left";
    },
    wrongModel: () => refused(client.chat.completions.create({ ...chat, model: "gpt-9" })),
    wrongField: () => refused(client.chat.completions.create({ ...chat, n: 1000 })),
    wrongKey: () => refused(new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).models.list()),
  };
};
