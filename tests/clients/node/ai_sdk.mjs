// What a JavaScript program does with the AI SDK over its provider for servers like OpenAI's.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, embedMany, generateObject, generateText, Output, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";

export default ({ baseURL, apiKey, ask, asked }) => {
  const make = (key) =>
    createOpenAICompatible({
      name: "sprout",
      baseURL,
      apiKey: key,
      includeUsage: true,
      supportsStructuredOutputs: true,
    });
  const provider = make(apiKey);
  const model = provider("sprout");
  const settings = { model, temperature: 0, maxOutputTokens: 200, maxRetries: 0 };
  const person = z.object({ name: z.string(), age: z.number().int(), city: z.string() });
  const weather = tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `sunny in ${city}`,
  });
  const forced = { ...settings, prompt: asked.weather, tools: { get_weather: weather }, toolChoice: "required" };
  const called = ({ toolCalls, toolResults }) => ({
    name: toolCalls[0].toolName,
    arguments: toolCalls[0].input,
    result: toolResults[0].output,
  });
  const refused = (promise) =>
    promise.then(
      () => null,
      (error) => ({ kind: error.name, status: error.statusCode, body: error.responseBody }),
    );
  return {
    chat: async () => (await generateText({ ...settings, prompt: ask })).text,
    system: async () => (await generateText({ ...settings, system: "You help.", prompt: ask })).text,
    stream: async () => {
      let found = "";
      for await (const piece of streamText({ ...settings, prompt: ask }).textStream) found += piece;
      return found;
    },
    usage: async () => (await generateText({ ...settings, prompt: ask })).usage,
    streamedUsage: async () => {
      const made = streamText({ ...settings, prompt: ask });
      await made.consumeStream();
      return await made.usage;
    },
    finish: async () => (await generateText({ ...settings, prompt: ask })).finishReason,
    stop: async () => (await generateText({ ...settings, prompt: ask, stopSequences: ["e"] })).text,
    object: async () => (await generateObject({ ...settings, schema: person, prompt: asked.record })).object,
    streamedObject: async () => {
      const made = streamObject({ ...settings, schema: person, prompt: asked.record });
      for await (const _ of made.partialObjectStream);
      return await made.object;
    },
    output: async () =>
      (await generateText({ ...settings, output: Output.object({ schema: person }), prompt: asked.record })).output,
    choice: async () =>
      (await generateObject({ ...settings, output: "enum", enum: ["red", "green"], prompt: ask })).object,
    array: async () =>
      (await generateObject({ ...settings, output: "array", schema: person, prompt: asked.record })).object,
    tool: async () => called(await generateText(forced)),
    streamedTool: async () => {
      const made = streamText(forced);
      await made.consumeStream();
      return called({ toolCalls: await made.toolCalls, toolResults: await made.toolResults });
    },
    loop: async () => {
      const first = (step) => (step.stepNumber === 0 ? { toolChoice: "required" } : { toolChoice: "none" });
      const made = await generateText({ ...forced, toolChoice: "auto", prepareStep: first, stopWhen: stepCountIs(3) });
      return { steps: made.steps.length, text: made.text };
    },
    embed: async () => (await embed({ model: provider.textEmbeddingModel("sprout"), value: "a cat" })).embedding.length,
    embedMany: async () =>
      (await embedMany({ model: provider.textEmbeddingModel("sprout"), values: ["a cat", "a dog"] })).embeddings.map(
        (vector) => vector.length,
      ),
    left: async () => {
      const controller = new AbortController();
      const options = { ...settings, maxOutputTokens: 3000, abortSignal: controller.signal, onError: () => {} };
      for await (const _ of streamText({ ...options, prompt: ask }).textStream) {
        controller.abort();
        break;
      }
      return "left";
    },
    wrongModel: () => refused(generateText({ ...settings, model: provider("gpt-9"), prompt: ask })),
    wrongKey: () => refused(generateText({ ...settings, model: make("wrong")("sprout"), prompt: ask })),
  };
};
