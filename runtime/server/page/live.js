// The runtime as it is now: asked once a second, while somebody looks.

import { getJson } from "./api.js";
import { draw } from "./tree.js";

const EVERY_MS = 1000;
const KEPT = 60; // a minute of figures

const element = (id) => document.getElementById(id);
const history = []; // the latest reports, each with `at` in seconds

export function watch() {
  setInterval(() => element("watch").checked && !document.hidden && refresh(), EVERY_MS);
  refresh();
}

/** Ask and draw, once. */
export async function refresh() {
  const problem = element("live-problem");
  try {
    show(await getJson("server/inspect"));
    problem.hidden = true;
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
  }
}

function show(report) {
  history.push({ ...report, at: performance.now() / 1000 });
  if (history.length > KEPT) history.shift();
  showTiles(report);
  showSlots(report.stats);
  showBatch(report.requests, report.stats.running + report.stats.waiting);
  draw(report.tree, element("tree"), element("tree-size"));
}

// ------------------------------------------------------------------ figures

const rates = (of) => history.slice(1).map((now, i) => of(history[i], now));
const grown = (before, now, name) => now.stats[name] - before.stats[name];
const perSecond = (before, now, name) => grown(before, now, name) / (now.at - before.at);

function hitRate(before, now) {
  const cached = grown(before, now, "tokens_cached");
  const computed = grown(before, now, "tokens_computed");
  return cached + computed ? cached / (cached + computed) : null;
}

function showTiles({ stats, durations }) {
  const first = history[0];
  const latest = history.at(-1);
  const written = rates((a, b) => perSecond(a, b, "tokens_sampled") + perSecond(a, b, "tokens_jumped"));
  const sinceFirst = (name, share) => quantile(difference(durations[name], first.durations[name]), share);
  element("tiles").replaceChildren(
    tile("running / waiting", `${stats.running} / ${stats.waiting}`, history.map((each) => each.stats.running)),
    tile("tokens / s", (written.at(-1) ?? 0).toFixed(0), written),
    tile("hit rate, this minute", percent(hitRate(first, latest)), rates(hitRate)),
    tile("hit rate, since start", percent(share(stats.tokens_cached, stats.tokens_computed))),
    tile("jumped, since start", percent(share(stats.tokens_jumped, stats.tokens_sampled))),
    tile("first token p50 / p99", pair(sinceFirst("first_token", 0.5), sinceFirst("first_token", 0.99))),
    tile("next token p50 / p99", pair(sinceFirst("between_tokens", 0.5), sinceFirst("between_tokens", 0.99))),
    tile("last step", `${stats.step_ms.toFixed(1)} ms`, history.map((each) => each.stats.step_ms)),
  );
}

const share = (part, rest) => (part + rest ? part / (part + rest) : null);
const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(0)} %`);
const pair = (one, two) => (one === null ? "–" : `${duration(one)} / ${duration(two)}`);
const rounded = (value) => value.toFixed(value < 10 ? 1 : 0);
const duration = (seconds) => (seconds < 1 ? `${rounded(1000 * seconds)} ms` : `${rounded(seconds)} s`);

/** What a histogram has counted since an earlier look at it. */
function difference(now, before) {
  return { bounds: now.bounds, counts: now.counts.map((count, i) => count - before.counts[i]) };
}

/** The duration below which `part` of all lie, evenly spread inside a bucket; null when there are none. */
function quantile({ bounds, counts }, part) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  let left = part * total;
  for (const [i, count] of counts.entries()) {
    if (count && left <= count) {
      const low = i ? bounds[i - 1] : 0;
      return low + ((bounds[i] ?? low) - low) * (left / count);
    }
    left -= count;
  }
  return null;
}

function tile(name, value, line) {
  const box = document.createElement("dl");
  box.className = "tile";
  const term = document.createElement("dt");
  const description = document.createElement("dd");
  term.textContent = name;
  description.textContent = value;
  box.append(term, description);
  if (line) box.append(sparkline(line.map((point) => point ?? 0)));
  return box;
}

function sparkline(points) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  const top = Math.max(...points, 1e-9);
  const at = (value, i) => `${(100 * (KEPT - points.length + i)) / (KEPT - 1)},${25 - (23 * value) / top}`;
  svg.setAttribute("viewBox", "0 0 100 26");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", points.length > 1 ? `M${points.map(at).join("L")}` : "");
  path.setAttribute("fill", "none");
  path.setAttribute("stroke", "currentColor");
  path.setAttribute("stroke-width", "1.5");
  path.setAttribute("vector-effect", "non-scaling-stroke");
  svg.append(path);
  return svg;
}

// ------------------------------------------------------------------ slots and batch

function showSlots(stats) {
  const bar = element("slots");
  const parts = ["locked", "cached", "free"].map((name) => ({ name, count: stats[`slots_${name}`] }));
  bar.ariaLabel = parts.map(({ name, count }) => `${count} slots ${name}`).join(", ");
  bar.replaceChildren(
    ...parts.map(({ name, count }) => {
      const piece = document.createElement("i");
      piece.className = count ? `slot-${name} some` : `slot-${name}`;
      piece.style.width = `${(100 * count) / stats.slots_total}%`;
      return piece;
    }),
  );
  element("slots-legend").replaceChildren(
    ...parts.map(({ name, count }) => {
      const item = document.createElement("li");
      const swatch = document.createElement("span");
      swatch.className = `swatch slot-${name}`;
      item.append(swatch, `${count.toLocaleString("en")} ${name}`);
      return item;
    }),
  );
}

function showBatch(requests, total) {
  const rows = requests.map(({ number, state, tokens, computed, cached, steps }) => {
    const row = document.createElement("tr");
    for (const value of [number, state, tokens, computed, cached, steps]) row.insertCell().textContent = value;
    return row;
  });
  if (total > requests.length) rows.push(wide(`and ${total - requests.length} more`));
  element("batch").replaceChildren(...(rows.length ? rows : [wide("nothing runs")]));
}

function wide(text) {
  const row = document.createElement("tr");
  const cell = row.insertCell();
  cell.colSpan = 6;
  cell.className = "quiet";
  cell.textContent = text;
  return row;
}
