// Tokens as coloured pieces of text, and what else each could have been.

const tooltip = document.getElementById("alternatives");
const known = new WeakMap();

/** A token's text as it can be seen: a line's end gets a mark, a part of a character its bytes. */
export function visible(text) {
  if (text.startsWith("bytes:")) return `‹${text.slice(6).replaceAll("\\x", " ").trim()}›`;
  return text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥");
}

/** A box of tokens: `add` one, `paint` those from one to another; hovering or the arrow keys show alternatives. */
export class TokenBox {
  constructor(label) {
    this.element = document.createElement("div");
    this.element.className = "tokens";
    this.element.tabIndex = 0;
    this.element.role = "group";
    this.element.ariaLabel = `${label}; arrow keys walk over the tokens`;
    this.element.addEventListener("pointerover", (event) => this.#show(event.target.closest(".token")));
    this.element.addEventListener("pointerleave", () => this.#show(null));
    this.element.addEventListener("blur", () => this.#show(null));
    this.element.addEventListener("keydown", (event) => this.#walk(event));
  }

  add(token, kind) {
    const span = document.createElement("span");
    span.className = `token ${kind}`;
    span.textContent = visible(token.text);
    if (/^<\|.*\|>$/.test(token.text)) span.classList.add("special");
    known.set(span, { ...token, kind });
    this.element.append(span);
  }

  paint(start, end, kind) {
    for (const span of [...this.element.children].slice(start, end)) {
      span.classList.add(kind);
      known.get(span).kind = kind;
    }
  }

  #walk(event) {
    const now = this.element.querySelector(".current");
    const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (event.key === "Escape") this.#show(null);
    if (!step) return;
    event.preventDefault();
    this.#show(now?.[step] ?? now ?? this.element.firstElementChild);
  }

  #show(span) {
    this.element.querySelector(".current")?.classList.remove("current");
    tooltip.hidden = !span;
    if (!span) return;
    span.classList.add("current");
    tooltip.replaceChildren(...describe(known.get(span)));
    const box = span.getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tooltip.offsetWidth - 12);
    tooltip.style.left = `${Math.max(8, left) + scrollX}px`;
    tooltip.style.top = `${box.bottom + scrollY + 6}px`;
  }
}

function describe(token) {
  const head = document.createElement("div");
  const chance = token.logprob == null ? "" : `, ${percent(token.logprob)}`;
  head.textContent = `${token.kind || "prompt"}${chance}`;
  if (!token.top?.length) return [head];
  const table = document.createElement("table");
  for (const other of token.top) {
    const row = table.insertRow();
    row.classList.toggle("taken", other.text === token.text);
    row.insertCell().textContent = JSON.stringify(other.text).slice(1, -1);
    const meter = document.createElement("meter");
    meter.value = Math.exp(other.logprob);
    row.insertCell().append(meter);
    row.insertCell().textContent = percent(other.logprob);
  }
  return [head, table];
}

function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  return share >= 0.1 ? `${share.toFixed(1)} %` : "< 0.1 %";
}
