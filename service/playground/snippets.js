// What was just done, as lines to paste: curl, Python and the command line.

import { address, apiKey } from "./api.js";

const DEFAULT_URL = "http://127.0.0.1:8000/";
// A longer text is better kept in a file than in a command.
const LONGEST_INLINE = 4000;

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
// JSON on one line with room to breathe; its strings, numbers, lists and objects are Python's too.
function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, item]) => `${literal(name)}: ${literal(item)}`).join(", ")}}`;
}

const cliUrl = () => (address("") === DEFAULT_URL ? "" : ` --url ${shell(address("").replace(/\/$/, ""))}`);
// The key itself never gets into a text that is copied around.
const curlKey = () => (apiKey() ? ' \\\n  -H "Authorization: Bearer $GENADAPTER_API_KEY"' : "");

function curlJson(path, body) {
  return `curl -s ${shell(address(path))}${curlKey()} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shell(literal(body))}`;
}

function pythonHead(imports) {
  return (apiKey() ? ["import os", "", ...imports] : imports).join("\n");
}

// source: {files: [names]}, {text} or {messages, text}
export function making(source) {
  if (source.files) return makingFromFiles(source.files, "");
  if (source.text.length > LONGEST_INLINE) return makingFromFiles(["document.txt"], "# the text, saved as document.txt\n");
  const body = source.messages ? { messages: source.messages } : { text: source.text };
  const [[name, value]] = Object.entries(body);
  return {
    curl: curlJson("contextualize", body),
    python: makingInPython(`json={"${name}": ${literal(value)}}`),
    cli: `printf '%s' ${shell(source.text)} | genadapter contextualize -${cliUrl()}`,
  };
}

function makingFromFiles(names, comment) {
  const parts = names.map((name) => ` \\\n  -F ${shell(`file=@"${name.replace(/["\\]/g, "\\$&")}"`)}`);
  const opened = names.map((name) => `("file", open(${literal(name)}, "rb"))`);
  return {
    curl: `${comment}curl -s ${shell(address("contextualize"))}${curlKey()}${parts.join("")}`,
    python: comment + makingInPython(`files=[${opened.join(", ")}]`),
    cli: `${comment}genadapter contextualize${cliUrl()} -- ${names.map(shell).join(" ")}`,
  };
}

function makingInPython(argument) {
  const key = apiKey() ? '    headers={"Authorization": f"Bearer {os.environ[\'GENADAPTER_API_KEY\']}"},\n' : "";
  return `${pythonHead(["import httpx"])}

adapter = httpx.post(
    "${address("contextualize")}",
    ${argument},
${key}    timeout=300,
).raise_for_status().json()
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
    messages=${literal(messages)},
    max_tokens=${longest},
    temperature=0,
)
print(answer.choices[0].message.content)`,
    cli: `genadapter generate${cliUrl()} --max-tokens ${longest} --temperature 0 -- ${id} ${shell(question)}`,
  };
}
