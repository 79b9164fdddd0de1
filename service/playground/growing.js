// Adding to an adapter that is there: which one, what is sent, and the text that the new one stands for.

import { announce, byId, shortId, show } from "./view.js";

const BETWEEN = "\n\n";
let parent = null;

export const canGrow = (adapter) => (adapter.state_expires_at ?? 0) > Date.now() / 1000;

export function startGrowing(adapter) {
  parent = adapter;
  byId("keep-state").checked = true; // what is added to is most often added to again
  byId("parent-id").textContent = shortId(adapter.id);
  byId("parent-id").title = adapter.id;
  for (const name of ["text", "files", "conversation"]) byId(name).value = "";
  showParent();
}

export function stopGrowing(id = parent?.id) {
  if (!parent || parent.id !== id) return;
  parent = null;
  byId("keep-state").checked = false;
  showParent();
}

// The visitor chose an adapter to add to, or none.
export function chooseParent(adapter) {
  startGrowing(adapter);
  byId("make-title").scrollIntoView({ block: "nearest" });
  document.querySelector("input[name=kind]:checked").focus();
  announce(`What you give now is added to ${shortId(adapter.id)}.`);
}

function showParent() {
  show(byId("parent"), parent !== null);
  show(byId("sample"), parent === null);
  byId("make-button").textContent = parent ? "Add it" : "Make the adapter";
  byId("make-title").lastChild.textContent = parent ? " Give it more" : " Give it a document";
}

// {parent: id or null, options: fields beside the source}; what the service does by itself is left out.
export function wishes() {
  const keep = byId("keep-state").checked;
  return { parent: parent?.id ?? null, options: keep === (parent !== null) ? {} : { keep_state: keep } };
}

export const pathOf = ({ parent: id }) => (id ? `adapters/${id}/append` : "contextualize");

export function bodyOf(source, { options }) {
  if (!(source.body instanceof FormData)) return { ...source.body, ...options };
  for (const [name, value] of Object.entries(options)) source.body.set(name, String(value));
  return source.body;
}

// Null if the text of either part is not known to this page.
export function wholeText(before, added) {
  return before === null || added === null ? null : before + BETWEEN + added;
}
