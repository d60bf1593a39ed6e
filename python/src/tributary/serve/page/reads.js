// What steps read: the difference of two looks at the nodes' metrics. Nothing tells it step by step, so a reading is the
// mean of the steps between two looks; if a step takes longer than that, it is the step's own.

const MAX_READINGS = 240; // so many bars are told apart
const WORKER_FIGURES = ["sequence_steps", "appended_tokens", "covered_tokens", "attended_tokens", "kept_mass",
  "kept_mass_samples", "output_error", "output_error_samples"];
let latest = null; // the look that the next one is compared with
let readings = [];
let totals = nothing();

function nothing() {
  return { position: 0, steps: 0, covered: 0, read: 0, nodes: new Map() };
}

// Forgets the steps so far: an answer begins.
export function forget() {
  readings = [];
  totals = nothing();
}

// What is known of the steps since forget(), tokens once for each layer. totals.position counts steps that nothing is
// known of, too.
export function add(look) {
  if (latest !== null && look.time_s !== latest.time_s) {
    const reading = difference(latest, look);
    if (reading !== null) keep(reading);
  }
  latest = look;
  return { readings, totals };
}

function keep({ appended, ...reading }) {
  reading.begin = totals.position;
  totals.position += reading.steps;
  // Parts of a prompt that are appended read remote tokens, too, and are no steps.
  if (appended > 0) return;
  totals.steps += reading.steps;
  totals.covered += reading.covered;
  totals.read += reading.read;
  for (const { name, read } of reading.nodes) totals.nodes.set(name, (totals.nodes.get(name) ?? 0) + read);
  readings.push(reading);
  if (readings.length > MAX_READINGS) readings.shift();
}

// null if there was no step, or if a node began anew or was silent.
function difference(before, now) {
  const old = new Map(before.nodes.map((node) => [node.node_id, node.figures]));
  const worker = Object.fromEntries(WORKER_FIGURES.map((name) => [name, 0]));
  const nodes = [];
  let covered = 0;
  for (const { node_id: name, role, figures } of now.nodes) {
    const then = old.get(name);
    if (!figures !== !then) return null;
    if (!figures) continue;
    const since = (figure) => (figures[figure] ?? 0) - (then[figure] ?? 0);
    if (role === "gpu_worker") {
      for (const figure of WORKER_FIGURES) worker[figure] += since(figure);
    } else {
      nodes.push({ name, read: since("attended_tokens") / now.layers });
      covered += since("covered_tokens") / now.layers;
    }
  }
  const isWhole = covered >= 0 && [...Object.values(worker), ...nodes.map((node) => node.read)].every((value) => value >= 0);
  if (!isWhole || worker.sequence_steps === 0) return null;
  return { steps: worker.sequence_steps, appended: worker.appended_tokens, ...tokens(worker, nodes, covered, before, now),
    keptMass: worker.kept_mass, keptMassSamples: worker.kept_mass_samples,
    error: worker.output_error, errorSamples: worker.output_error_samples };
}

// A look catches nodes in the middle of a step, some layers of which it then lacks. The worker counts whole steps, but
// only those of answers with a sparse policy: that is taken if no other answer is under way.
function tokens(worker, nodes, covered, before, now) {
  const read = nodes.reduce((sum, node) => sum + node.read, 0);
  if (worker.covered_tokens === 0 || Math.max(before.running, now.running) > 1) return { covered, read, nodes };
  const scale = read > 0 ? worker.attended_tokens / read : 0;
  return { covered: worker.covered_tokens, read: worker.attended_tokens,
    nodes: nodes.map((node) => ({ name: node.name, read: scale * node.read })) };
}
