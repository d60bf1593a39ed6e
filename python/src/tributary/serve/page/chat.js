// The chat: messages, and an answer that comes as server-sent events.
import { byId, count, make, ms, show, hint } from "./draw.js";
import { answerBegins, answerEnds, showAnswer } from "./cluster.js";

const messages = [];
let stopping = null; // aborts the answer that comes

export function headers() {
  const key = byId("key").value.trim();
  return key === "" ? {} : { Authorization: `Bearer ${key}` };
}

export function begin() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("message").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  byId("stop").addEventListener("click", () => stopping?.abort());
  byId("clear").addEventListener("click", () => {
    stopping?.abort();
    messages.length = 0;
    show("log", hint("A new chat."));
    byId("speed").textContent = "";
  });
}

function number(id) {
  const text = byId(id).value.trim();
  return text === "" ? undefined : Number(text);
}

function requestOf() {
  const system = byId("system").value.trim();
  const own = {};
  if (byId("policy").value.trim() !== "") own.policy = byId("policy").value.trim();
  if (number("sample-rate") !== undefined) own.parameters = { quality_sample_rate: number("sample-rate") };
  if (number("window") !== undefined) own.window_tokens = number("window");
  return {
    messages: [...(system === "" ? [] : [{ role: "system", content: system }]), ...messages],
    stream: true, stream_options: { include_usage: true }, temperature: number("temperature"),
    max_tokens: number("max-tokens"), tributary: own,
  };
}

function turn(role, who) {
  const text = make("p");
  const note = make("p", { class: "note" });
  const element = make("div", { class: `turn ${role}` }, make("h4", {}, who), text, note);
  if (messages.length === 0) show("log");
  byId("log").append(element);
  byId("log").scrollTop = byId("log").scrollHeight;
  return { text, note };
}

async function send() {
  const content = byId("message").value;
  if (content.trim() === "" || stopping !== null) return;
  const mine = turn("user", "You");
  mine.text.textContent = content;
  messages.push({ role: "user", content });
  byId("message").value = "";
  const answer = turn("assistant", "Answer");
  stopping = new AbortController();
  byId("send").disabled = true;
  byId("stop").disabled = false;
  answerBegins();
  try {
    const said = await read(answer, stopping.signal);
    messages.push({ role: "assistant", content: said });
  } catch (error) {
    messages.pop(); // the turn did not happen
    answer.note.textContent = error.name === "AbortError" ? "stopped" : error.message;
    answer.note.className = "note error";
  }
  answerEnds();
  stopping = null;
  byId("send").disabled = false;
  byId("stop").disabled = true;
  byId("message").focus();
}

async function read(answer, signal) {
  const clock = { began: performance.now(), first: 0, last: 0, tokens: 0 };
  const response = await fetch("/v1/chat/completions", {
    method: "POST", headers: { "Content-Type": "application/json", ...headers() }, body: JSON.stringify(requestOf()), signal,
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  let said = "";
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    const piece = event.choices[0]?.delta?.content;
    if (piece) {
      clock.last = performance.now();
      clock.first ||= clock.last;
      ++clock.tokens;
      said += piece;
      answer.text.textContent = said;
      byId("log").scrollTop = byId("log").scrollHeight;
      byId("speed").textContent = speedOf(clock, clock.tokens);
    }
    if (event.usage) {
      showAnswer(event.usage);
      byId("speed").textContent = speedOf(clock, event.usage.completion_tokens);
      answer.note.textContent = `${count(event.usage.prompt_tokens)} tokens in, ${count(event.usage.completion_tokens)} out; ${byId("speed").textContent}`;
    }
  }
  return said;
}

function speedOf(clock, tokens) {
  const first = ms((clock.first - clock.began) / 1000);
  const seconds = (clock.last - clock.first) / 1000;
  const rate = tokens > 1 && seconds > 0 ? `${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
  return [`first token after ${first}`, rate].filter(Boolean).join(", ");
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}
