// The adapters of this caller. Labels, and the texts behind adapters, are known to this tab alone.

import { call, forget, recall, remember } from "./api.js";
import { canGrow } from "./growing.js";
import { announce, byId, confirming, count, flash, make, shortId, show, size, tell, timeLeft } from "./view.js";

const PAGE = 10;
const PREFIX = "genadapter.note.";
// Browsers give a page about 5 MB; a long text is remembered until the page is left, then no more.
const LONGEST_KEPT = 200_000;
const texts = new Map();

export function noteOf(id) {
  const note = JSON.parse(recall(PREFIX + id) ?? "{}");
  return { label: note.label ?? "", text: texts.get(id) ?? note.text ?? null };
}

export function note(id, { label, text }) {
  if (text !== null) texts.set(id, text);
  const kept = text !== null && text.length <= LONGEST_KEPT ? text : null;
  if (!remember(PREFIX + id, JSON.stringify({ label, text: kept }))) remember(PREFIX + id, JSON.stringify({ label }));
}

export class History {
  // use: called with the adapter that is chosen; grow: with the one to add to; gone: with the id of one that was deleted.
  constructor({ use, grow, gone, failed }) {
    this.use = use;
    this.grow = grow;
    this.gone = gone;
    this.failed = failed;
    this.current = null;
    this.last = null;
    byId("history-reload").addEventListener("click", () => this.load());
    byId("history-more").addEventListener("click", () => this.load(this.last));
  }

  async load(after = null) {
    await this.attempt(async () => {
      const path = `adapters?limit=${PAGE}${after ? `&after=${encodeURIComponent(after)}` : ""}`;
      const page = await (await call(path)).json();
      const rows = page.data.map((adapter) => this.row(adapter));
      if (after) byId("history-list").append(...rows);
      else byId("history-list").replaceChildren(...rows);
      this.last = page.last_id;
      show(byId("history-more"), page.has_more);
      show(byId("history-none"), !byId("history-list").children.length);
      this.mark(this.current);
    });
  }

  mark(id) {
    this.current = id;
    for (const row of byId("history-list").children) row.setAttribute("aria-current", String(row.dataset.id === id));
  }

  row(adapter) {
    const row = make("li", {}, this.label(adapter), this.summary(adapter), this.buttons(adapter));
    row.dataset.id = adapter.id;
    return row;
  }

  label({ id, metadata }) {
    const placeholder = Object.values(metadata)[0] ?? "Add a label"; // what a program noted with it says more
    const field = make("input", { type: "text", value: noteOf(id).label, placeholder, maxLength: 120 });
    field.setAttribute("aria-label", `Label of ${shortId(id)}`);
    field.addEventListener("change", () => note(id, { label: field.value, text: noteOf(id).text }));
    return field;
  }

  summary(adapter) {
    const grown = adapter.parent ? [`grown from ${shortId(adapter.parent)}`] : [];
    const parts = [`${count(adapter.tokens)} tokens`, ...grown, size(adapter.bytes), `expires ${timeLeft(adapter.expires_at)}`];
    return make("p", { className: "hint" }, make("code", { title: adapter.id }, shortId(adapter.id)), ` · ${parts.join(" · ")}`);
  }

  buttons(adapter) {
    const use = button("Use", `Use ${shortId(adapter.id)}`, () => this.use(adapter));
    const save = button("Download", `Download ${shortId(adapter.id)} as a PEFT LoRA`, () => this.download(adapter.id, save));
    const remove = button("Delete", `Delete ${shortId(adapter.id)}`);
    confirming(remove, "Really delete?", () => this.remove(adapter.id));
    const grow = button("Add to", `Add to ${shortId(adapter.id)}`, () => this.grow(adapter));
    return make("div", { className: "row" }, use, ...(canGrow(adapter) ? [grow] : []), save, remove);
  }

  async download(id, pressed) {
    await this.attempt(async () => {
      flash(pressed, "Packing…");
      const blob = await (await call(`adapters/${id}/peft`)).blob(); // a plain link would not send the key
      const url = URL.createObjectURL(blob);
      make("a", { href: url, download: `${id}.zip` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
      flash(pressed, "Saved");
    });
  }

  async remove(id) {
    await this.attempt(async () => {
      await call(`adapters/${id}`, { method: "DELETE" });
      texts.delete(id);
      forget(PREFIX + id);
      announce("Deleted.");
      this.gone(id);
      byId("history-title").focus(); // the button that had the focus is gone
      await this.load();
    });
  }

  async attempt(action) {
    tell(byId("history-error"), "");
    try {
      await action();
    } catch (error) {
      tell(byId("history-error"), error.message);
      this.failed(error);
    }
  }
}

function button(text, description, action) {
  const node = make("button", { type: "button", className: "quiet small", textContent: text, title: description });
  if (action) node.addEventListener("click", action);
  return node;
}
