// One question and its answer, from the request to the last figure.

import { postJson, streamJson } from "./api.js";
import { readChunk, requestFor } from "./ask.js";
import { TokenBox } from "./tokens.js";

/** Runs one exchange in a new box of `transcript`; returns the answer's text. Throws what goes wrong. */
export async function run(asked, turns, transcript, signal) {
  const { path, body } = requestFor(asked, turns);
  const view = new ExchangeView();
  const began = performance.now();
  const prompt = await postJson("tokenize", {
    ...(body.messages ? { messages: body.messages } : { prompt: body.prompt }),
    return_token_strs: true,
  });
  transcript.append(view.element);
  view.element.scrollIntoView({ block: "nearest" });
  view.showPrompt(prompt.token_strs);
  const answer = new Answer(view.answer);
  try {
    for await (const chunk of streamJson(path, body, signal)) answer.take(readChunk(chunk));
  } finally {
    view.showEnd(answer, asked, performance.now() - began);
  }
  return answer.text;
}

/** What has come so far. Alternatives may come later than the word of how a token came about, never earlier. */
class Answer {
  text = "";
  reason = null;
  usage = null;
  warnings = [];
  #kinds = [];
  #shown = 0;
  #box;

  constructor(box) {
    this.#box = box;
  }

  take(chunk) {
    this.text += chunk.text;
    this.#kinds.push(...chunk.kinds);
    for (const token of chunk.tokens) this.#box.add(token, this.#kinds[this.#shown++] ?? "sampled");
    this.reason = chunk.reason ?? this.reason;
    this.usage = chunk.usage ?? this.usage;
    this.warnings.push(...chunk.warnings);
  }
}

class ExchangeView {
  constructor() {
    this.element = document.createElement("article");
    this.element.className = "exchange";
    this.prompt = new TokenBox("Prompt");
    this.answer = new TokenBox("Answer");
    this.promptTitle = document.createElement("h3");
    this.figures = document.createElement("div");
    this.figures.className = "figures";
    this.element.append(
      section("prompt", this.promptTitle, this.prompt.element),
      section("answer", title("Answer"), this.answer.element),
      section("end", this.figures),
    );
  }

  showPrompt(texts) {
    this.promptTitle.textContent = `Prompt, ${texts.length} tokens`;
    for (const text of texts) this.prompt.add({ text }, "");
  }

  /** The figures of the end; from here on it is known which tokens of the prompt were cached. */
  showEnd(answer, asked, took) {
    if (answer.usage) this.#showUsage(answer.usage, took);
    if (answer.reason) this.#figure("ended by", answer.reason);
    if (asked.held === "schema" && answer.reason) {
      this.#figure("", isJson(answer.text) ? "valid JSON" : "no JSON", isJson(answer.text) ? "good" : "bad");
    }
    for (const warning of new Set(answer.warnings)) this.#figure("warning", warning, "bad");
    if (!answer.reason) this.#figure("", "stopped", "bad");
  }

  #showUsage(usage, took) {
    const cached = usage.prompt_tokens_details.cached_tokens;
    const { jumped_tokens: jumped, speculated_tokens: speculated } = usage.completion_tokens_details;
    this.prompt.paint(0, cached, "cached");
    this.prompt.paint(cached, usage.prompt_tokens, "prefilled");
    this.promptTitle.textContent = `Prompt, ${usage.prompt_tokens} tokens: ${cached} cached, ${usage.prompt_tokens - cached} prefilled`;
    this.#figure("answer", count(usage.completion_tokens));
    this.#figure("sampled", usage.completion_tokens - jumped - speculated);
    this.#figure("jumped", jumped);
    if (speculated) this.#figure("speculated", speculated);
    this.#figure("took", `${took.toFixed(0)} ms`);
  }

  #figure(name, value, tone = "") {
    const figure = document.createElement("span");
    const strong = document.createElement("b");
    strong.textContent = value;
    strong.className = tone;
    figure.append(name && `${name} `, strong);
    this.figures.append(figure);
  }
}

const count = (tokens) => (tokens === 1 ? "1 token" : `${tokens} tokens`);

function section(name, ...children) {
  const element = document.createElement("section");
  element.className = name;
  element.append(...children);
  return element;
}

function title(text) {
  const element = document.createElement("h3");
  element.textContent = text;
  return element;
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
