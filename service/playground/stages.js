// The stages from a document to an adapter in the engine, each with its time.

import { call } from "./api.js";
import { byId, duration, make } from "./view.js";

const STAGES = {
  parse: "Get the text out",
  tokenize: "Cut it into tokens",
  queue: "Wait for a turn",
  forward: "Read it, in one forward pass",
  factorize: "Press it into small matrices",
  store: "Save",
};
const ATTACH = "Load it into the engine";

const OUTLINE = [...Object.values(STAGES), ATTACH].map((label) => [label, null]);
const NOTHING = [OUTLINE, "Each stage shows its time here."];

let settled = NOTHING; // what is shown while nothing is under way

// Back to what will happen.
export function outline() {
  settled = NOTHING;
  rest();
}

// The service answers when all is done, so that meanwhile it can only be seen that it works.
export function begin() {
  working(true);
  draw(OUTLINE, "");
}

export function rest() {
  working(false);
  draw(...settled);
}

function working(busy) {
  byId("stages").classList.toggle("working", busy);
}

// The engine loads an adapter when it is first asked for: it is asked for one token here, so that the first question does not
// pay for that. Rejects if it cannot.
export async function attach(adapter, signal) {
  const known = Object.entries(adapter.timings_ms ?? {}).filter(([name]) => name in STAGES);
  const rows = known.map(([name, ms]) => [STAGES[name], ms]);
  const said = remark(adapter, rows);
  working(true);
  draw([...rows, [ATTACH, null]], said);
  settled = [[...rows, [ATTACH, null]], said];
  const begun = performance.now();
  try {
    const body = { adapter_id: adapter.id, prompt: "a", max_tokens: 1, temperature: 0 };
    await (await call("generate", { method: "POST", body, signal })).json();
    settled = [[...rows, [ATTACH, performance.now() - begun]], said];
  } catch (error) {
    if (!signal.aborted) settled = [settled[0], `${said} ${error.message}`];
    throw error;
  } finally {
    if (!signal.aborted) rest(); // else another adapter's turn has begun
  }
}

function remark({ reused }, rows) {
  if (!rows.length) return "Made earlier.";
  const total = duration(rows.reduce((sum, [, ms]) => sum + ms, 0));
  return reused ? `The adapter was there already, so nothing had to be read again: ${total}.` : `Made in ${total}, once.`;
}

// rows: [label, milliseconds or null]
function draw(rows, note) {
  byId("stages-note").textContent = note;
  const total = rows.reduce((sum, [, ms]) => sum + (ms ?? 0), 0);
  byId("stages").replaceChildren(...rows.map(([label, ms]) => stage(label, ms, total)));
}

function stage(label, ms, total) {
  const fill = make("div", { className: "fill" });
  fill.style.width = `${total ? (100 * (ms ?? 0)) / total : 0}%`;
  const time = make("span", { className: "number" }, ms === null ? "–" : duration(ms));
  return make("li", { className: ms === null ? "open" : "" }, make("span", {}, label), time, make("div", { className: "track" }, fill));
}
