// The prefix tree: roots to the left, one row for each leaf, warm where it was used lately.

const ROW = 28;
const GAP = 32;
const CHARACTER = 7.25; // of the font's 12 px
const LONGEST = 26;
const COLDEST_AGE = 256; // uses of the tree after which a node is as cold as it gets

/** Draw the report's tree into `box`, and say its size in `caption`. */
export function draw(report, box, caption) {
  const nodes = arrange(report.nodes);
  const hidden = nodes.reduce((sum, node) => sum + node.hidden, 0);
  caption.textContent =
    `${report.tokens} tokens, ${nodes.length} nodes` + (hidden ? `, and ${hidden} more branches` : "");
  const width = Math.max(...nodes.map((node) => node.x + node.width), 0) + 2;
  const height = Math.max(...nodes.map((node) => node.y), 0) + ROW;
  const svg = make("svg", { width, height, role: "img", "aria-label": caption.textContent });
  svg.append(...nodes.filter((node) => node.above).map(edge), ...nodes.map(pill));
  box.replaceChildren(svg);
}

/** Give each node its place. Parents come before their children in the list. */
function arrange(reported) {
  const nodes = reported.map((node) => ({ ...node, children: [], label: labelOf(node) }));
  for (const node of nodes) {
    node.above = node.parent === null ? null : nodes[node.parent];
    node.above?.children.push(node);
    node.width = CHARACTER * node.label.length + 52;
    node.x = node.above ? node.above.x + node.above.width + GAP : 0;
  }
  let rows = 0;
  const place = (node) => {
    node.children.forEach(place);
    // Beside its first child: in the middle of hundreds it would be out of sight.
    node.y = node.children.length ? node.children[0].y : ROW * rows++;
  };
  nodes.filter((node) => !node.above).forEach(place);
  return nodes;
}

function labelOf(node) {
  if (node.text === undefined) return `${node.tokens} token${node.tokens === 1 ? "" : "s"}`;
  const text = node.text.replaceAll("\n", "↵").replaceAll("\t", "⇥");
  return text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text;
}

function edge(node) {
  const { above } = node;
  const [x1, y1] = [above.x + above.width, above.y + ROW / 2];
  const [x2, y2] = [node.x, node.y + ROW / 2];
  const middle = (x1 + x2) / 2;
  return make("path", {
    class: "edge",
    d: `M${x1},${y1}C${middle},${y1} ${middle},${y2} ${x2},${y2}`,
    "stroke-width": 1 + Math.min(5, Math.log10(1 + node.tokens) * 1.5),
  });
}

function pill(node) {
  const group = make("g", {
    class: node.locks ? "node locked" : "node",
    transform: `translate(${node.x + 1},${node.y + 3})`,
  });
  const heat = 1 - Math.min(1, Math.log2(1 + node.age) / Math.log2(1 + COLDEST_AGE));
  group.style.setProperty("--heat", `${Math.round(100 * heat)}%`);
  const label = make("text", { x: 8, y: 15 });
  label.textContent = node.label;
  const count = make("text", { class: "count", x: node.width - 8, y: 15, "text-anchor": "end" });
  count.textContent = node.text === undefined ? "" : node.tokens;
  const title = make("title", {});
  title.textContent = summary(node);
  group.append(title, make("rect", { width: node.width - 2, height: ROW - 6, rx: 5 }), label, count);
  return group;
}

function summary(node) {
  const parts = [
    `${node.tokens} tokens, ${node.end} from the root`,
    node.locks ? `held by ${node.locks}` : "not in use",
    node.keeps ? `kept for ${node.keeps} programs` : "",
    node.hidden ? `${node.hidden} branches not shown` : "",
    node.text ?? "",
  ];
  return parts.filter(Boolean).join("\n");
}

function make(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
