// The cluster's half of the page: /cluster each second, more often while an answer comes, and what the last answer's
// usage says.
import { bar, byId, bytes, count, facts, hint, known, ms, share, show, small, swatch, table } from "./draw.js";
import { forget } from "./reads.js";
import { showReads } from "./strip.js";

const PERIOD_MS = 1000;
const ANSWER_PERIOD_MS = 250; // the server itself looks hardly more often
let before = null; // the snapshot that the latest one is compared with
let periodMs = PERIOD_MS;
let shownMs = -PERIOD_MS; // when the tables were made
let timer = 0;
let look = () => {};

export function watch(headers) {
  look = async () => {
    try {
      const answer = await fetch("/cluster", { headers: headers() });
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.error.message);
      showReads(body);
      if (performance.now() - shownMs >= 0.9 * PERIOD_MS) {
        shownMs = performance.now();
        showCluster(body);
      }
    } catch (error) {
      shownMs = -PERIOD_MS;
      byId("health").className = "bad";
      byId("health").textContent = error.message;
    }
    clearTimeout(timer);
    timer = setTimeout(look, periodMs);
  };
  look();
}

// An answer is asked for: its steps are looked at.
export function answerBegins() {
  forget();
  periodMs = ANSWER_PERIOD_MS;
  clearTimeout(timer);
  look();
}

export function answerEnds() {
  periodMs = PERIOD_MS;
}

function showCluster(now) {
  byId("model").textContent = `${now.model}: ${now.layers} layers, ${now.kv_heads} KV heads`;
  byId("health").className = "good";
  byId("health").textContent = `${now.running} running, ${now.waiting} waiting`;
  const old = new Map((before?.nodes ?? []).map((node) => [node.node_id, node.figures]));
  const seconds = before ? now.time_s - before.time_s : 0;
  const rows = now.nodes.map((node) => nodeRow(node, old.get(node.node_id), seconds));
  show("nodes", table("Each second: memory, what is stored, and what was done since the last look.",
    ["node", "state", "memory used", "sequences", "shards", "tokens read/s", "busy"], rows));
  showStages(now, old);
  showKept(now.kept);
  if (seconds !== 0 || !before) before = now;
}

// Tokens that were read, once for each layer, in a second; and the share of it spent on steps or queries.
function nodeRow(node, old, seconds) {
  const figures = node.figures ?? {};
  const since = (name) => (old && seconds > 0 && known(figures[name]) ? Math.max(0, figures[name] - (old[name] ?? 0)) / seconds : NaN);
  const isWorker = node.role === "gpu_worker";
  const used = node.capacity_bytes - node.free_bytes;
  const memory = node.capacity_bytes ? `${bytes(used)} of ${bytes(node.capacity_bytes)}` : "–";
  return [node.node_id, node.state, memory, count(node.sequences), isWorker ? "–" : count(node.shards),
    isWorker ? "–" : count(since("attended_tokens")), known(since(isWorker ? "step_s" : "compute_s")) ? share(since(isWorker ? "step_s" : "compute_s")) : "–"];
}

// Of the steps since the last look; with none of them, what was shown stays.
function showStages(now, old) {
  const phases = new Map();
  let steps = 0;
  let stepSeconds = 0;
  for (const node of now.nodes) {
    const then = old.get(node.node_id);
    if (!then || !node.figures?.phases_s) continue;
    steps += node.figures.steps - then.steps;
    stepSeconds += node.figures.step_s - then.step_s;
    for (const [name, value] of Object.entries(node.figures.phases_s)) {
      phases.set(name, (phases.get(name) ?? 0) + value - (then.phases_s?.[name] ?? 0));
    }
  }
  if (steps <= 0) return;
  const parts = [...phases].map(([name, value]) => ({ name, value: Math.max(0, value) }));
  const rows = parts.map((part, i) => [[swatch(i), part.name], ms(part.value / steps)]);
  show("stages", bar(parts, "Share of a step"),
    table(`Mean of the latest ${count(steps)} steps of all workers: ${ms(stepSeconds / steps)} each.`, ["stage", "time"], rows));
}

function showKept(kept) {
  if (kept.length === 0) return show("kept", hint("None."));
  const rows = kept.map((one) => [one.request_id, count(one.context_tokens), count(one.max_context_tokens),
    bytes(one.resident_bytes), bytes(one.shard_bytes), `${Math.round(one.lease_left_s)} s`]);
  show("kept", table("Sequences that a next turn may go on with.",
    ["sequence", "tokens", "room", "on the worker", "on nodes", "left"], rows));
}

// `told` is the usage of an answer; its `tributary` is missing if a stop string ended the sequence.
export function showAnswer(told) {
  const one = [told.tributary ?? []].flat()[0];
  if (!one) return;
  const parts = [{ name: "the worker: sinks and window", value: one.resident_tokens, shards: "–", kv: "–" },
    ...one.nodes.map((node) => ({ name: node.node_id, value: node.tokens, shards: count(node.shards), kv: bytes(node.kv_bytes) }))];
  const rows = parts.map((part, i) => [[swatch(i), part.name], count(part.value), part.shards, part.kv]);
  show("where", bar(parts, "Tokens"), table(
    `${count(one.context_tokens)} tokens, ${count(one.remote_tokens)} of them remote; policy ${one.policy}. Nodes that share tokens by heads each count them.`,
    ["where", "tokens", "shards", "KV"], rows));
  show("read", ...facts([
    ["tokens attended to, mean of a step", count(one.attended_tokens_mean)],
    ["of the remote KV read", share(one.remote_read_share)],
    ["softmax mass kept, mean", one.policy === "dense" ? "all" : share(one.kept_mass_mean)],
    ["softmax mass kept, least", one.policy === "dense" ? "all" : share(one.kept_mass_min)],
    ["true output error, mean", one.policy === "dense" ? "none" : small(one.output_error_mean)],
    ["true output error, 95 %", one.policy === "dense" ? "none" : small(one.output_error_p95)],
    ["sent to nodes", bytes(one.bytes_sent)],
    ["received from nodes", bytes(one.bytes_received)],
    ["prompt from a kept sequence", count(told.prompt_tokens_details?.cached_tokens)],
  ]));
  const stages = Object.entries(one.stages_s ?? {}).map(([name, value]) => ({ name, value }));
  if (stages.length > 0 && one.decode_s > 0) {
    const stageRows = stages.map((part, i) => [[swatch(i), part.name], ms(part.value)]);
    show("stages", bar(stages, "Share of a step"), table("Mean of the last answer's steps.", ["stage", "time"], stageRows));
  }
}
