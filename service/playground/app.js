// The page: what happens on which click.

import { askAll, columns, conclude, conclusion } from "./answers.js";
import { apiKey, call, setApiKey } from "./api.js";
import { bodyOf, canGrow, chooseParent, pathOf, startGrowing, stopGrowing, wholeText, wishes } from "./growing.js";
import { History, note, noteOf } from "./history.js";
import { asking, making } from "./snippets.js";
import { fromConversation, fromFiles, fromText, SAMPLE } from "./sources.js";
import { attach, begin, outline, rest } from "./stages.js";
import { announce, byId, copy, count, facts, plural, shortId, show, size, tell, timeFor, timeLeft } from "./view.js";

const READY_POLL_MS = 2000;

let current = null; // the adapter in use, as the API describes it
let snippets = null;
let running = null; // AbortController of the question that is being answered
let attaching = null; // AbortController of the adapter on its way into the engine
const history = new History({ use: choose, grow: chooseParent, gone, failed });

// ---- 1: the document

function kind() {
  return document.querySelector("input[name=kind]:checked").value;
}

function showPane() {
  for (const name of ["text", "file", "conversation"]) show(byId(`pane-${name}`), name === kind());
}

function pick(name) {
  document.querySelector(`input[name=kind][value=${name}]`).checked = true;
  showPane();
}

function fillSample() {
  pick("text");
  byId("text").value = SAMPLE.text;
  byId("question").value = SAMPLE.question;
  tell(byId("make-error"), "");
  byId("make-button").focus();
  announce("A sample document and a question are filled in.");
}

function source() {
  if (kind() === "file") return fromFiles(byId("files").files);
  if (kind() === "conversation") return fromConversation(byId("conversation").value);
  const given = fromText(byId("text").value);
  return given.text === SAMPLE.text ? { ...given, label: SAMPLE.label } : given;
}

async function makeAdapter(event) {
  event.preventDefault();
  if (byId("make-button").getAttribute("aria-disabled")) return;
  tell(byId("make-error"), "");
  attaching?.abort();
  begin();
  const stopClock = startClock();
  try {
    const given = source();
    const wanted = wishes();
    const adapter = await (await call(pathOf(wanted), { method: "POST", body: bodyOf(given, wanted) })).json();
    remember(adapter, given);
    byId("make-status").textContent = "Loading it into the engine";
    const attached = choose(adapter);
    offer(making(given, wanted));
    announce(adapter.reused ? "You had this adapter already." : "The adapter is made.");
    if (adapter.parent && canGrow(adapter)) startGrowing(adapter); // the next turn of a conversation, say
    else stopGrowing();
    history.load();
    await Promise.all([attached, learnText(adapter, given)]);
  } catch (error) {
    rest();
    tell(byId("make-error"), error.message);
    failed(error);
  } finally {
    stopClock();
  }
}

function remember({ id, parent }, { label, text }) {
  const before = parent ? noteOf(parent) : null;
  const whole = before ? wholeText(before.text, text) : text;
  note(id, { label: noteOf(id).label || before?.label || label, text: whole });
}

// The service tells what it has read in files: the third answer wants that in its prompt, and stays away without.
async function learnText(adapter, given) {
  if (given.text !== null) return;
  try {
    const { text } = await (await call("contextualize/text", { method: "POST", body: given.body })).json();
    remember(adapter, { ...given, text });
  } catch {
    // the third column says that it does not know the text
  }
}

// The service answers when all is done, so that meanwhile only the time can be shown.
function startClock() {
  const begin = performance.now();
  byId("make-button").setAttribute("aria-disabled", "true"); // stays focusable, unlike `disabled`
  byId("make-status").textContent = "Reading the document";
  const timer = setInterval(() => {
    byId("make-clock").textContent = `${((performance.now() - begin) / 1000).toFixed(1)} s`;
  }, 100);
  return () => {
    clearInterval(timer);
    byId("make-button").removeAttribute("aria-disabled");
    byId("make-status").textContent = byId("make-clock").textContent = "";
  };
}

function acceptDrops() {
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    byId("make").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("make").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // else the browser would open the file instead of this page
    byId("make").classList.remove("over");
    pick("file");
    byId("files").files = event.dataTransfer.files;
    byId("make-button").focus();
  });
}

// ---- 2: the adapter

// Resolves when the engine has it, or could not take it.
function choose(adapter) {
  running?.abort();
  attaching?.abort();
  current = adapter;
  showAdapter(true);
  byId("adapter-badge").textContent = adapter.reused === undefined ? "chosen" : adapter.reused ? "had it already" : "new";
  byId("adapter-id").textContent = adapter.id;
  facts(byId("adapter-facts"), [
    ["Document", plural(adapter.tokens, "token")],
    ["Size", size(adapter.bytes)],
    ["Expires", timeLeft(adapter.expires_at)],
    ["Read in", plural(adapter.chunks, "chunk")],
    ["Rank", count(adapter.rank)],
    ["Can grow", canGrow(adapter) ? timeFor(adapter.state_expires_at) : "no"],
    ["Base model", adapter.base_model],
    ...(adapter.parent ? [["Grown from", shortId(adapter.parent)]] : []),
  ]);
  show(byId("adapter-grow"), canGrow(adapter));
  forgetAnswers();
  history.mark(adapter.id);
  byId("adapter").scrollIntoView({ block: "nearest" }); // on a phone it is further down
  attaching = new AbortController();
  return attach(adapter, attaching.signal).catch((error) => {
    if (error.name !== "AbortError") failed(error);
  });
}

function showAdapter(there) {
  show(byId("adapter-none"), !there);
  for (const name of ["adapter-card", "adapter-badge"]) show(byId(name), there);
}

function forgetAnswers() {
  columns();
  conclude([]);
}

function gone(id) {
  stopGrowing(id);
  if (current?.id !== id) return;
  running?.abort();
  attaching?.abort();
  current = null;
  showAdapter(false);
  outline();
  forgetAnswers();
}

// ---- 3: the question

async function ask(event) {
  event.preventDefault();
  if (running) {
    running.abort();
    return;
  }
  const question = byId("question").value.trim();
  if (!current || !question) {
    tell(byId("ask-error"), current ? "Write a question first." : "Make an adapter first, or choose one of yours below.");
    return;
  }
  tell(byId("ask-error"), "");
  conclude([]);
  running = new AbortController();
  byId("ask-button").textContent = "Stop";
  try {
    await answer(current, question, running.signal);
  } catch (error) {
    if (error.name !== "AbortError") tell(byId("ask-error"), error.message);
    failed(error);
  } finally {
    running = null;
    byId("ask-button").textContent = "Ask";
  }
}

async function answer(adapter, question, signal) {
  const longest = Math.max(1, Math.round(byId("longest").valueAsNumber || 64));
  offer(asking(adapter.id, question, longest));
  const found = await askAll({ adapter: adapter.id, text: noteOf(adapter.id).text, question, longest, signal });
  conclude(conclusion(found, adapter.tokens));
}

// ---- the rest

function offer(made) {
  snippets = made;
  show(byId("code"));
  showCode();
}

function showCode() {
  byId("code-text").textContent = snippets[document.querySelector("input[name=language]:checked").value];
}

function failed(error) {
  if (error.status === 401) askForKey();
  if (error.status === 0 || error.status >= 500) watchReadiness();
}

function askForKey() {
  const settings = byId("settings");
  document.querySelector("main").prepend(settings);
  settings.open = true;
  tell(byId("key-error"), apiKey() ? "The service does not know this API key." : "This service asks for an API key.");
  if (document.activeElement !== document.body) byId("key").focus(); // but not while the page is only being opened
}

function useKey() {
  tell(byId("key-error"), "");
  setApiKey(byId("key").value);
  history.load();
}

let watching = false;

async function watchReadiness() {
  if (watching) return;
  watching = true;
  while (!(await isReady())) await new Promise((resolve) => setTimeout(resolve, READY_POLL_MS));
  watching = false;
}

async function isReady() {
  const line = byId("readiness");
  try {
    const { ready, parts } = await (await fetch("readyz", { cache: "no-store" })).json();
    const missing = Object.entries(parts).filter(([, state]) => state !== "ok");
    const words = ready ? "Ready" : `Not ready: ${missing.map(([part, state]) => `${part} (${state})`).join(", ")}`;
    if (line.textContent !== words) line.textContent = words; // told once, not every two seconds
    line.classList.toggle("ready", ready);
    return ready;
  } catch {
    line.textContent = "The service does not answer";
    line.classList.remove("ready");
    return false;
  }
}

function start() {
  document.querySelectorAll("input[name=kind]").forEach((input) => input.addEventListener("change", showPane));
  document.querySelectorAll("input[name=language]").forEach((input) => input.addEventListener("change", showCode));
  byId("sample").addEventListener("click", fillSample);
  byId("make-form").addEventListener("submit", makeAdapter);
  byId("make-form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("make-form").requestSubmit();
  });
  byId("parent-clear").addEventListener("click", () => {
    stopGrowing();
    byId("make-button").focus(); // the button that had the focus is gone
  });
  byId("adapter-grow").addEventListener("click", () => chooseParent(current));
  byId("ask-form").addEventListener("submit", ask);
  byId("adapter-copy").addEventListener("click", () => copy(byId("adapter-copy"), current.id));
  byId("code-copy").addEventListener("click", () => copy(byId("code-copy"), snippets[document.querySelector("input[name=language]:checked").value]));
  byId("key").value = apiKey();
  byId("key").addEventListener("change", useKey);
  acceptDrops();
  showPane(); // a reloaded page keeps what was chosen
  outline();
  columns();
  history.load();
  watchReadiness();
}

start();
