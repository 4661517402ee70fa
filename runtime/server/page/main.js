// Puts the page together: the form, the keys, the header.

import { getJson } from "./api.js";
import { EXAMPLES, HINTS, read } from "./ask.js";
import { run } from "./exchange.js";
import { refresh, watch } from "./live.js";

const element = (id) => document.getElementById(id);
const form = element("ask");

let turns = []; // what was said before, in a chat
let running = null; // what aborts the present request

// ------------------------------------------------------------------ the form

for (const [i, example] of EXAMPLES.entries()) element("example").append(new Option(example.name, i));

element("example").addEventListener("change", (event) => {
  const example = EXAMPLES[event.target.value];
  if (!example) return;
  for (const name of ["mode", "prompt", "held", "constraint"]) form.elements[name].value = example[name] ?? "";
  turns = [];
  showConstraint();
});

form.addEventListener("change", showConstraint);

function showConstraint() {
  const held = form.elements.held.value;
  element("constraint-label").hidden = held === "free";
  element("constraint-hint").textContent = HINTS[held] ?? "";
}

// ------------------------------------------------------------------ asking

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (running) return;
  running = new AbortController();
  setRunning(true);
  showProblem("");
  const asked = read(form);
  try {
    const text = await run(asked, turns, element("transcript"), running.signal);
    if (asked.mode === "chat") {
      turns = [...turns, { role: "user", content: asked.prompt }, { role: "assistant", content: text }];
    }
  } catch (error) {
    if (error.name === "SyntaxError") showProblem(`The schema is no JSON: ${error.message}`);
    else if (error.name !== "AbortError") showProblem(error.message);
  } finally {
    running = null;
    setRunning(false);
    refresh();
  }
});

function setRunning(is) {
  element("run").disabled = is;
  element("stop").disabled = !is;
  element("empty").hidden = true;
  element("transcript").ariaBusy = is;
}

function showProblem(text) {
  element("problem").textContent = text;
  element("problem").hidden = !text;
}

element("stop").addEventListener("click", () => running?.abort());
element("clear").addEventListener("click", () => {
  turns = [];
  element("transcript").replaceChildren();
  element("empty").hidden = false;
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  if (event.key === "Escape") running?.abort();
});

// ------------------------------------------------------------------ the header

const root = document.documentElement;
root.dataset.theme = localStorage.getItem("theme") ?? "";
element("theme").addEventListener("click", () => {
  const dark = getComputedStyle(root).colorScheme === "dark";
  const prefersDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const isDark = root.dataset.theme ? dark : prefersDark;
  root.dataset.theme = isDark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});

async function showHealth() {
  const health = await getJson("health").then(
    () => ["ok", "well"],
    (error) => ["bad", error.message],
  );
  [element("health").dataset.state, element("health").textContent] = health;
}

async function showModel() {
  const { data } = await getJson("v1/models");
  element("model").textContent = `${data[0].id}, ${data[0].max_model_len.toLocaleString("en")} tokens`;
  for (const { id } of data) form.elements.model.append(new Option(id));
  element("model-label").hidden = data.length < 2;
}

showHealth();
setInterval(() => document.hidden || showHealth(), 5000);
showModel().catch((error) => showProblem(error.message));
watch();
