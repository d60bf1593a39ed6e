// Elements and numbers. Everything that came from outside is set as text, never as markup.

export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

export function show(id, ...children) {
  byId(id).replaceChildren(...children);
}

export const hint = (text) => make("p", { class: "hint" }, text);

export function makeSvg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// A bar of parts {name, value}, as wide as their shares. Its words are for those who do not see it.
export function bar(parts, what) {
  const total = parts.reduce((sum, part) => sum + part.value, 0) || 1;
  const svg = makeSvg("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img",
    "aria-label": `${what}: ${parts.map((part) => `${part.name} ${share(part.value / total)}`).join(", ")}` });
  let begin = 0;
  parts.forEach((part, i) => {
    const width = (1000 * part.value) / total;
    svg.append(makeSvg("rect", { x: begin, width: Math.max(0, width - 2), height: 10, class: partClass(i) }));
    begin += width;
  });
  return make("div", { class: "bar" }, svg);
}

export const partClass = (i) => `part-${i % 6}`;
export const swatch = (i) => make("span", { class: `swatch ${partClass(i)}`, "aria-hidden": "true" });

export function table(caption, heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  const body = rows.map(([first, ...rest]) =>
    make("tr", {}, make("th", { scope: "row" }, ...[first].flat()), ...rest.map((cell) => make("td", {}, cell))));
  return make("table", {}, make("caption", {}, caption), make("thead", {}, head), make("tbody", {}, ...body));
}

export function facts(pairs) {
  return pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
}

export const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
export const count = (value) => (known(value) ? Math.round(value).toLocaleString("en") : "–");
export const share = (value) => (known(value) ? `${(100 * value).toFixed(value < 0.1 ? 2 : 1)} %` : "not measured");
export const small = (value) => (known(value) ? value.toPrecision(2) : "not measured");
export const ms = (seconds) => (known(seconds) ? `${(1000 * seconds).toFixed(seconds < 0.01 ? 2 : 0)} ms` : "–");

export function bytes(value) {
  if (!known(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (value >= 1024 && i + 1 < units.length) { value /= 1024; ++i; }
  return `${value.toFixed(i === 0 || value >= 100 ? 0 : 1)} ${units[i]}`;
}
