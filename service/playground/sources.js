// What the visitor gives: a text, files or a conversation, as a request and as the text behind it.

const TURN = /^(system|user|assistant|tool)\s*:\s*/i;

export const SAMPLE = {
  label: "The glass frogs of Lake Imbari",
  text:
    "The frogs of Lake Imbari are famous for their transparent skin, through which the beating heart can be seen. " +
    "They were first described in 1931 by the Portuguese zoologist Duarte Fonseca, who mistook them for young toads. " +
    "Adults weigh less than four grams and live only in the reeds of the northern shore, where the water stays above " +
    "twenty-two degrees. The male guards the eggs for eighteen days and keeps them wet with his legs. Their greatest " +
    "enemy is the banded heron. Since a road was built in 2004 the number of frogs has fallen by half, and a " +
    "foundation led by Amara Keita now breeds them in a former brewery in the town of Leston.",
  question: "Who first described the frogs? Answer with a short phrase.",
};

// Each source: {label, text (null: the service reads it), body, and files or messages}. Throws an Error for people.
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

export function fromFiles(files) {
  if (!files.length) throw new Error("Choose a file first.");
  const body = new FormData();
  for (const file of files) body.append("file", file, file.name);
  const names = [...files].map((file) => file.name);
  return { label: names.join(", "), text: null, files: names, body };
}

function labelOf(text) {
  const words = text.trim().replace(/\s+/g, " ");
  return words.length <= 48 ? words : `${words.slice(0, 47).trimEnd()}…`;
}
