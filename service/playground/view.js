// Small pieces of the page. Whatever comes from outside becomes text, never markup.

export const byId = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

export function show(node, visible = true) {
  node.hidden = !visible;
}

export function tell(node, message) {
  node.textContent = message ?? "";
  show(node, Boolean(message));
}

export function announce(message) {
  byId("announcer").textContent = message;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export const count = (value) => whole.format(value);
export const times = (value) => `${(value < 9.95 ? precise : whole).format(value).replace(/\.0$/, "")}×`;
export const plural = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;

export function duration(ms) {
  if (ms < 1) return ms === 0 ? "0 ms" : "< 1 ms";
  return ms < 1000 ? `${whole.format(ms)} ms` : `${precise.format(ms / 1000)} s`;
}

export function size(bytes) {
  return bytes < 1024 ** 2 ? `${whole.format(bytes / 1024)} KiB` : `${precise.format(bytes / 1024 ** 2)} MiB`;
}

export function timeLeft(expiresAt) {
  const minutes = Math.max(0, expiresAt - Date.now() / 1000) / 60;
  if (minutes < 1) return "now";
  if (minutes < 90) return `in ${plural(Math.round(minutes), "minute")}`;
  return minutes < 48 * 60 ? `in ${plural(Math.round(minutes / 60), "hour")}` : `in ${plural(Math.round(minutes / 1440), "day")}`;
}

export const timeFor = (end) => timeLeft(end).replace(/^in /, "for ");

export const shortId = (id) => `${id.slice(0, 11)}…`;

export function facts(list, entries) {
  list.replaceChildren(...entries.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

const copied = new WeakMap();

// Shows for a moment on the button itself what came of pressing it.
export function flash(button, message) {
  clearTimeout(copied.get(button)?.timer);
  const before = copied.get(button)?.before ?? button.textContent;
  button.textContent = message;
  announce(message);
  const timer = setTimeout(() => {
    button.textContent = before;
    copied.delete(button);
  }, 1600);
  copied.set(button, { before, timer });
}

export async function copy(button, text) {
  flash(button, (await toClipboard(text)) ? "Copied" : "Copy it by hand");
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyTheOldWay(text); // pages over plain http have no clipboard
  }
}

function copyTheOldWay(text) {
  const focused = document.activeElement;
  const field = make("textarea", { value: text, className: "unseen" });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}

// A button that deletes asks once more, in its own place.
export function confirming(button, question, action) {
  const before = button.textContent;
  let armed = 0;
  const disarm = () => {
    clearTimeout(armed);
    armed = 0;
    button.textContent = before;
  };
  button.addEventListener("blur", disarm);
  button.addEventListener("click", () => {
    if (armed) {
      disarm();
      action();
      return;
    }
    button.textContent = question;
    announce(question);
    armed = setTimeout(disarm, 5000);
  });
}
