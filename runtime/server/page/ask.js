// The form: what the user asks, as the body of a request.

const RECORD = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer" }, city: { type: "string" } },
  required: ["name", "age", "city"],
  additionalProperties: false,
};

export const EXAMPLES = [
  {
    name: "A record as JSON",
    mode: "chat",
    prompt: "Extract the record as JSON.\nAda Berg is 36 years old. She lives in Oslo.\nKeys: name, age, city",
    held: "schema",
    constraint: JSON.stringify(RECORD, null, 2),
  },
  { name: "A capital", mode: "chat", prompt: "What is the capital of France?", held: "free" },
  {
    name: "One of two",
    mode: "chat",
    prompt: "Is this review positive or negative?\nThe food was great and the staff was kind.",
    held: "choices",
    constraint: "positive\nnegative",
  },
  {
    name: "A form, by regex",
    mode: "text",
    prompt: "Log of the day:\n",
    held: "regex",
    constraint: "Date: 20\\d\\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\\d|3[01])\\nWeather: (sun|rain|snow)\\nVisitors: \\d{1,4}",
  },
];

export const HINTS = {
  schema: "A JSON schema; keys come in its order",
  regex: "A regular expression for the whole answer",
  choices: "One choice a line",
};

/** What the form says, as plain values. */
export function read(form) {
  const fields = new FormData(form);
  return {
    mode: fields.get("mode"),
    model: fields.get("model") ?? undefined,
    prompt: fields.get("prompt"),
    held: fields.get("held"),
    constraint: fields.get("constraint"),
    temperature: Number(fields.get("temperature")),
    maxTokens: Number(fields.get("max_tokens")),
    top: Number(fields.get("top")),
    jump: fields.has("jump"),
  };
}

/** The route and the body for `asked`, after the messages of earlier turns. Throws SyntaxError for a schema that is no JSON. */
export function requestFor(asked, turns) {
  const body = {
    model: asked.model,
    temperature: asked.temperature,
    max_tokens: asked.maxTokens,
    jump_forward: asked.jump,
    stream: true,
    stream_options: { include_usage: true, include_runs: true },
    ...constraintOf(asked),
  };
  if (asked.mode === "text") {
    return { path: "v1/completions", body: { ...body, prompt: asked.prompt, logprobs: asked.top } };
  }
  const messages = [...turns, { role: "user", content: asked.prompt }];
  return {
    path: "v1/chat/completions",
    body: { ...body, messages, logprobs: true, top_logprobs: asked.top },
  };
}

function constraintOf({ held, constraint }) {
  if (held === "schema") {
    const schema = JSON.parse(constraint);
    return { response_format: { type: "json_schema", json_schema: { name: "answer", schema, strict: true } } };
  }
  if (held === "regex") return { regex: constraint };
  if (held === "choices") return { choices: constraint.split("\n").filter(Boolean) };
  return {};
}

/** One chunk of either route in one shape: text, tokens with their alternatives, how tokens came about, and the end. */
export function readChunk(chunk) {
  const choice = chunk.choices[0];
  return {
    text: choice?.delta?.content ?? choice?.text ?? "",
    tokens: choice?.logprobs ? tokensOf(choice.logprobs) : [],
    kinds: (choice?.runs ?? []).flatMap((run) => run.token_ids.map(() => run.kind)),
    reason: choice?.finish_reason ?? null,
    warnings: choice?.warnings ?? [],
    usage: chunk.usage ?? null,
  };
}

function tokensOf(logprobs) {
  if (logprobs.content) {
    return logprobs.content.map(({ token, logprob, top_logprobs }) => ({
      text: token,
      logprob,
      top: top_logprobs.map((other) => ({ text: other.token, logprob: other.logprob })),
    }));
  }
  return logprobs.tokens.map((text, i) => ({
    text,
    logprob: logprobs.token_logprobs[i],
    top: Object.entries(logprobs.top_logprobs[i] ?? {})
      .map(([other, logprob]) => ({ text: other, logprob }))
      .sort((one, two) => two.logprob - one.logprob),
  }));
}
