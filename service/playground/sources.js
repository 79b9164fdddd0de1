// What the visitor gives: a text, files or a conversation, as a request and as the text behind it.

const TURN = /^(system|user|assistant|tool)\s*:\s*/i;
const TEXT_FILE = /\.(txt|text|md|markdown)$/i;

export const SAMPLE = {
  label: "The Karsun lighthouse",
  text:
    "The Karsun lighthouse stands on the island of Veldra, eleven miles off the coast of Norland. It was built in 1874 by the " +
    "engineer Mathilde Oskarsen after a storm wrecked the steamer Aurelia and drowned forty-two passengers. The tower is made of " +
    "red granite and rises 58 metres above the sea. Its lamp burned whale oil until 1911, when it was replaced by an electric " +
    "light that can be seen from thirty kilometres away. The first keeper, Jonas Brekke, lived there with his three daughters " +
    "for twenty-six years and kept a diary that is now in the maritime museum of Hellborg. Since 1987 the lighthouse has been " +
    "automatic, and in summer it is open to visitors, who reach it by a ferry that leaves from the village of Sund every " +
    "Saturday at nine in the morning.",
  question: "Who built the Karsun lighthouse? Answer with a short phrase.",
};

// Each source: {label, text (null when only the service can read it), body, and files or messages}. Throws an Error for people.
export function fromText(text) {
  if (!text.trim()) throw new Error("Paste a text first, or try the sample.");
  return { label: labelOf(text), text, body: { text } };
}

export function fromConversation(input) {
  if (!input.trim()) throw new Error("Paste a conversation first.");
  const messages = input.trim().startsWith("[") ? fromJson(input) : fromLines(input);
  const text = messages.map(({ role, content }) => `${role[0].toUpperCase()}${role.slice(1)}: ${content.trim()}`).join("\n");
  return { label: labelOf(messages[0].content), text, messages, body: { messages } };
}

function fromJson(input) {
  try {
    const messages = JSON.parse(input).map(({ role, content }) => ({ role, content }));
    if (messages.length && messages.every(({ role, content }) => TURN.test(`${role}:`) && typeof content === "string")) return messages;
  } catch {
    // the sentence below says it
  }
  throw new Error('This begins like JSON, but is no list of messages: [{"role": "user", "content": "…"}]');
}

function fromLines(input) {
  const messages = [];
  for (const line of input.trim().split(/\r?\n/)) {
    const turn = line.match(TURN);
    if (turn) messages.push({ role: turn[1].toLowerCase(), content: line.slice(turn[0].length) });
    else if (messages.length) messages.at(-1).content += `\n${line}`;
    else throw new Error("The first line must begin with User:, Assistant: or System:, so that it is known who speaks.");
  }
  return messages;
}

export async function fromFiles(files) {
  if (!files.length) throw new Error("Choose a file first.");
  const body = new FormData();
  for (const file of files) body.append("file", file, file.name);
  const names = [...files].map((file) => file.name);
  return { label: names.join(", "), text: await textOf([...files]), files: names, body };
}

// Null unless all of them are plain text: other types are read by the service.
async function textOf(files) {
  if (!files.every((file) => TEXT_FILE.test(file.name))) return null;
  const decoder = new TextDecoder("utf-8", { fatal: true });
  try {
    return (await Promise.all(files.map(async (file) => decoder.decode(await file.arrayBuffer())))).join("\n\n");
  } catch {
    return null;
  }
}

function labelOf(text) {
  const words = text.trim().replace(/\s+/g, " ");
  return words.length <= 48 ? words : `${words.slice(0, 47).trimEnd()}…`;
}
