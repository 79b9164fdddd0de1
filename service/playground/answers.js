// One question, asked three ways, side by side.

import { call, events } from "./api.js";
import { byId, count, duration, facts, make, plural, times } from "./view.js";

const WAYS = [
  { name: "adapter", title: "With the adapter", note: "The document is in its weights." },
  { name: "bare", title: "Bare model", note: "Has never seen the document." },
  { name: "prompt", title: "Document in the prompt", note: "Reads it again for every question." },
];
const SEVERAL = 10;
const WAITS = "Waits for its turn.";
const UNKNOWN_TEXT =
  "Not available: this page does not know the text, which was read in another tab or for a program. Give it the document again to compare.";

// The three columns, empty. Returns {name: column}.
export function columns() {
  const made = WAYS.map((way) => ({ ...way, ...column(way) }));
  byId("answers").replaceChildren(...made.map((item) => item.node));
  return Object.fromEntries(made.map((item) => [item.name, item]));
}

function column({ name, title, note }) {
  const heading = make("h3", { id: `answer-${name}`, textContent: title });
  const text = make("p", { className: "answer" });
  text.setAttribute("aria-live", "polite");
  const bar = make("div", { className: "fill" });
  const measured = make("dl", { className: "facts" });
  const track = make("div", { className: "track", hidden: true }, bar);
  const node = make("article", { className: `way ${name}` }, heading, make("p", { className: "hint" }, note), text, track, measured);
  node.setAttribute("aria-labelledby", heading.id);
  return { node, text, bar, track, measured };
}

// Asks one after the other and resolves to what was measured: {name: {prompt_tokens, first_token, ...}}.
export async function askAll({ adapter, text, question, longest, signal }) {
  const shown = columns();
  const found = {};
  for (const item of Object.values(shown)) wait(item, WAITS);
  try {
    await askInTurn(shown, found, { adapter, text, question, longest, signal });
  } finally {
    for (const item of Object.values(shown)) if (item.text.textContent === WAITS) wait(item, "");
  }
  return found;
}

async function askInTurn(shown, found, { adapter, text, question, longest, signal }) {
  for (const item of Object.values(shown)) {
    if (item.name === "prompt" && text === null) {
      wait(item, UNKNOWN_TEXT);
      continue;
    }
    const content = item.name === "prompt" ? `${text}\n\n${question}` : question;
    const body = { adapter_id: item.name === "adapter" ? adapter : null, messages: [{ role: "user", content }] };
    const measured = await askOne(item, { ...body, max_tokens: longest, temperature: 0, stream: true }, signal);
    if (measured) found[item.name] = measured;
    compare(shown, found);
  }
}

function wait(item, message) {
  item.text.classList.add("waiting");
  item.text.textContent = message;
}

async function askOne(item, body, signal) {
  item.text.setAttribute("aria-busy", "true"); // read out when it is whole, not token by token
  wait(item, "Thinking…");
  try {
    return await stream(item, body, signal);
  } catch (error) {
    const stopped = error.name === "AbortError";
    wait(item, stopped ? "Stopped." : forAll(error) ? "" : error.message);
    if (stopped || forAll(error)) throw error;
    item.text.classList.add("failed");
    return null;
  } finally {
    item.text.removeAttribute("aria-busy");
  }
}

// The other two would fail alike, so that it is told once: no key, no service, no engine.
const forAll = ({ status }) => [0, 401, 503].includes(status);

async function stream(item, body, signal) {
  let last = null;
  let begun = false;
  for await (const event of events(await call("generate", { method: "POST", body, signal }))) {
    for (const choice of event.choices) {
      if (!begun && choice.text) {
        begun = true;
        item.text.classList.remove("waiting");
        item.text.textContent = "";
      }
      if (choice.text) item.text.append(choice.text);
    }
    last = event;
  }
  if (!begun) wait(item, "(an empty answer)");
  if (item.text.scrollHeight > item.text.clientHeight) item.text.tabIndex = 0; // so that the keyboard can scroll it
  return { ...last.usage, ...last.timings_ms };
}

// Prompt tokens are what is paid for with each question, so they are the cost.
function compare(shown, found) {
  const most = Math.max(...Object.values(found).map((item) => item.prompt_tokens));
  const least = found.adapter?.prompt_tokens;
  for (const [name, measured] of Object.entries(found)) {
    const { bar, track, measured: list } = shown[name];
    track.hidden = false;
    bar.style.width = `${(100 * measured.prompt_tokens) / most}%`;
    facts(list, [
      ["First token", measured.first_token === null ? "none" : duration(measured.first_token)],
      ["Prompt", plural(measured.prompt_tokens, "token")],
      ["Cost", least ? times(measured.prompt_tokens / least) : "unknown"],
    ]);
  }
}

// Sentences. Tokens read are what both ways differ in: the adapter's document once, the other's with every question.
export function conclusion({ adapter, prompt }, documentTokens) {
  if (!adapter || !prompt) return [];
  const factor = times(prompt.prompt_tokens / adapter.prompt_tokens);
  const once = count(documentTokens + SEVERAL * adapter.prompt_tokens);
  return [
    `With the adapter this question cost ${plural(adapter.prompt_tokens, "prompt token")}; with the document in the prompt ` +
      `${count(prompt.prompt_tokens)}, ${factor} as many.`,
    `${SEVERAL} such questions: ${once} tokens with the adapter, the one reading of the document included, against ` +
      `${count(SEVERAL * prompt.prompt_tokens)}.`,
    "A prompt that is soon repeated may still be in the engine's cache, which makes it cheap until it is dropped. Times vary: ask " +
      "twice before you judge them.",
  ];
}

export function conclude(sentences) {
  byId("takeaway").replaceChildren(...sentences.map((sentence) => make("p", {}, sentence)));
}
