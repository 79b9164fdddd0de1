// What was just done, as lines to paste: curl, Python and the command line.

import { address, apiKey } from "./api.js";
import { pathOf } from "./growing.js";

const DEFAULT_URL = "http://127.0.0.1:8000/";
// A longer text is better kept in a file than in a command.
const LONGEST_INLINE = 4000;

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
// JSON on one line with room to breathe; its strings, numbers, lists and objects are Python's too, its truth is not.
function literal(value, truth = String) {
  const inner = (item) => literal(item, truth);
  if (typeof value === "boolean") return truth(value);
  if (Array.isArray(value)) return `[${value.map(inner).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, item]) => `${inner(name)}: ${inner(item)}`).join(", ")}}`;
}

const python = (value) => literal(value, (truth) => (truth ? "True" : "False"));

const cliUrl = () => (address("") === DEFAULT_URL ? "" : ` --url ${shell(address("").replace(/\/$/, ""))}`);
// The key itself never gets into a text that is copied around.
const curlKey = () => (apiKey() ? ' \\\n  -H "Authorization: Bearer $GENADAPTER_API_KEY"' : "");

function curlJson(path, body) {
  return `curl -s ${shell(address(path))}${curlKey()} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shell(literal(body))}`;
}

function pythonHead(imports) {
  return (apiKey() ? ["import os", "", ...imports] : imports).join("\n");
}

// source: {files: [names]}, {text} or {messages, text}; wanted: {parent, options}, as in growing.js
export function making(source, wanted) {
  if (source.files) return makingFromFiles(source.files, wanted, "");
  if (source.text.length > LONGEST_INLINE) return makingFromFiles(["document.txt"], wanted, "# the text, saved as document.txt\n");
  const body = { ...(source.messages ? { messages: source.messages } : { text: source.text }), ...wanted.options };
  return {
    curl: curlJson(pathOf(wanted), body),
    python: makingInPython(wanted, [`json=${python(body)}`]),
    cli: `printf '%s' ${shell(source.text)} | genadapter contextualize${cliWishes(wanted)} -${cliUrl()}`,
  };
}

function makingFromFiles(names, wanted, comment) {
  const options = Object.entries(wanted.options).map(([name, value]) => [name, String(value)]);
  const parts = names.map((name) => ` \\\n  -F ${shell(`file=@"${name.replace(/["\\]/g, "\\$&")}"`)}`);
  const fields = options.map(([name, value]) => ` \\\n  -F ${name}=${value}`);
  const opened = names.map((name) => `("file", open(${literal(name)}, "rb"))`);
  const data = options.length ? [`data=${literal(Object.fromEntries(options))}`] : [];
  return {
    curl: `${comment}curl -s ${shell(address(pathOf(wanted)))}${curlKey()}${[...parts, ...fields].join("")}`,
    python: comment + makingInPython(wanted, [`files=[${opened.join(", ")}]`, ...data]),
    cli: `${comment}genadapter contextualize${cliWishes(wanted)}${cliUrl()} -- ${names.map(shell).join(" ")}`,
  };
}

function cliWishes({ parent, options: { keep_state: keep } }) {
  const append = parent ? ` --append ${parent}` : "";
  return keep === undefined ? append : `${append} --${keep ? "" : "no-"}keep-state`;
}

function makingInPython(wanted, given) {
  const key = apiKey() ? ['headers={"Authorization": f"Bearer {os.environ[\'GENADAPTER_API_KEY\']}"}'] : [];
  const lines = [`"${address(pathOf(wanted))}"`, ...given, ...key, "timeout=300"].map((line) => `    ${line},\n`);
  return `${pythonHead(["import httpx"])}

adapter = httpx.post(
${lines.join("")}).raise_for_status().json()
print(adapter["id"])`;
}

export function asking(id, question, longest) {
  const messages = [{ role: "user", content: question }];
  const key = apiKey() ? 'os.environ["GENADAPTER_API_KEY"]' : '"unused"';
  return {
    curl: curlJson("generate", { adapter_id: id, messages, max_tokens: longest, temperature: 0 }),
    python: `${pythonHead(["from openai import OpenAI"])}

client = OpenAI(base_url="${address("v1")}", api_key=${key})
answer = client.chat.completions.create(
    model="${id}",
    messages=${python(messages)},
    max_tokens=${longest},
    temperature=0,
)
print(answer.choices[0].message.content)`,
    cli: `genadapter generate${cliUrl()} --max-tokens ${longest} --temperature 0 -- ${id} ${shell(question)}`,
  };
}
