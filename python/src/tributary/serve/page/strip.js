// The strip of what steps read: a bar for each reading, as wide as its steps, as high as their share of the remote tokens.
import { add } from "./reads.js";
import { byId, count, hint, known, make, makeSvg, partClass, share, show, small, swatch } from "./draw.js";

const WIDTH = 1000;
const HEIGHT = 100;
const GAP = 2;
const MIN_STEPS = 32; // so that the first bars are no walls
const TOPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1];
let pointed = null; // the reading under the pointer

export function showReads(look) {
  const { readings, totals } = add(look);
  if (readings.length === 0) {
    pointed = null;
    return show("steps", hint("No step yet."));
  }
  if (totals.covered === 0) {
    return show("steps", hint(`${count(totals.steps)} steps, which had nothing remote to read: everything is in the worker's window.`));
  }
  if (!readings.includes(pointed)) pointed = null;
  const said = make("p", { class: "hint", id: "reading" });
  const tell = () => { said.textContent = wordsOf(pointed ?? readings.at(-1), totals); };
  tell();
  show("steps", headline(totals, look.running), plot(readings, totals, (reading) => { pointed = reading; tell(); }),
    said, legend(totals), hint("A bar is the steps between two looks at the nodes, in their mean, and as wide as they are " +
      "many; dashed: the mean of all."));
}

// A look may catch nodes in the middle of a step, so that few steps have too many or too few tokens, but the right share:
// how many remote tokens there are is the mean of all steps.
const remote = (totals) => totals.covered / totals.steps;
const shareOf = ({ read, covered }) => (covered > 0 ? Math.min(1, read / covered) : 0);

function headline(totals, running) {
  const of = running > 1 ? ` of ${count(running)} answers at once` : "";
  return make("p", {}, make("strong", {}, share(shareOf(totals))),
    ` of the remote tokens read, mean of ${count(totals.steps)} steps${of}: ` +
    `${count(shareOf(totals) * remote(totals))} of ${count(remote(totals))} in each layer of a step.`);
}

function wordsOf(reading, totals) {
  const last = reading.begin + reading.steps;
  const which = reading.steps === 1 ? `Step ${count(last)}` : `Steps ${count(reading.begin + 1)} to ${count(last)}, their mean`;
  const read = shareOf(reading);
  const words = [`${which}: ${share(read)}, ${count(read * remote(totals))} tokens`];
  if (reading.keptMassSamples > 0) words.push(`softmax mass kept ${share(reading.keptMass / reading.keptMassSamples)}`);
  if (reading.errorSamples > 0) words.push(`true output error ${small(reading.error / reading.errorSamples)}`);
  return words.join("; ");
}

function plot(readings, totals, point) {
  const top = TOPS.find((one) => readings.every((reading) => shareOf(reading) <= one)) ?? 1;
  const begin = readings[0].begin;
  const scale = WIDTH / Math.max(MIN_STEPS, totals.position - begin);
  const svg = makeSvg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Share of the remote tokens that steps read, from ${share(0)} to ${share(top)}; mean ${share(shareOf(totals))}` });
  for (const reading of readings) {
    svg.append(barOf(reading, scale * (reading.begin - begin), scale * reading.steps, HEIGHT / top, point));
  }
  const y = HEIGHT * (1 - shareOf(totals) / top);
  svg.append(makeSvg("line", { x1: 0, x2: WIDTH, y1: y, y2: y, class: "mean" }));
  svg.addEventListener("pointerleave", () => point(null));
  const percent = (part) => `${100 * part} %`;
  return make("div", { class: "strip" }, make("div", { class: "ticks", "aria-hidden": "true" },
    make("span", {}, percent(top)), make("span", {}, percent(0))), svg);
}

// Each node's part stands on those before it. What is above is there to be pointed at.
function barOf(reading, x, width, scale, point) {
  const group = makeSvg("g", {});
  const part = (y, height, name) => group.append(
    makeSvg("rect", { x, y, width: Math.max(1, width - GAP), height: Math.max(0, height), class: name }));
  part(0, HEIGHT, "room");
  let y = HEIGHT;
  reading.nodes.forEach(({ read }, i) => {
    const height = known(read / reading.covered) ? (scale * read) / reading.covered : 0;
    y -= height;
    part(y, height, partClass(i + 1));
  });
  group.addEventListener("pointerenter", () => point(reading));
  return group;
}

function legend(totals) {
  const items = [...totals.nodes].map(([name, read], i) => make("li", {}, swatch(i + 1),
    `${name}: ${count(read / totals.steps)} tokens a step`));
  return make("ul", { class: "legend" }, ...items);
}
