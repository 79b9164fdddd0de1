// Talks to the service: addresses, the API key, errors in words, streams of events.

const root = new URL(".", document.baseURI); // the page may be served under a path
const KEY = "genadapter.key";

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export function address(path) {
  return new URL(path, root).href;
}

// A browser may forbid storage altogether; the page then forgets, and works.
export function recall(name) {
  try {
    return sessionStorage.getItem(name);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    sessionStorage.setItem(name, value);
    return true;
  } catch {
    return false;
  }
}

export function forget(name) {
  try {
    sessionStorage.removeItem(name);
  } catch {
    // nothing was kept, then
  }
}

let key = recall(KEY) ?? "";

export function apiKey() {
  return key;
}

export function setApiKey(value) {
  key = value.trim();
  remember(KEY, key);
}

function headers() {
  if (/[^\x21-\x7e]/.test(key)) throw new ApiError("The API key holds characters that no key has: copy it again.", 401);
  return key ? { authorization: `Bearer ${key}` } : {};
}

// body: a FormData, or a value that is sent as JSON.
export async function call(path, { method = "GET", body, signal } = {}) {
  const request = { method, signal, headers: headers(), cache: "no-store", credentials: "omit" };
  if (body instanceof FormData) request.body = body;
  else if (body !== undefined) {
    request.body = JSON.stringify(body);
    request.headers["content-type"] = "application/json";
  }
  const response = await inWords(() => fetch(address(path), request));
  if (!response.ok) throw await errorOf(response);
  return response;
}

// What the browser reports of a lost connection is no sentence for people.
async function inWords(action) {
  try {
    return await action();
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError("The service does not answer. Check that it is still running, then try again.");
  }
}

async function errorOf(response) {
  if (response.status === 401) return new ApiError("The service wants an API key: type it under Settings.", 401);
  let message = `The service answered with status ${response.status} and no explanation.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not ours: a proxy's page, say
  }
  const seconds = response.headers.get("retry-after");
  return new ApiError(seconds ? withWait(message, seconds) : message, response.status);
}

function withWait(message, seconds) {
  return /try again/i.test(message) ? `${message.replace(/\.$/, "")}, in ${seconds} s.` : `${message} Try again in ${seconds} s.`;
}

// The objects of a server-sent stream that ends with [DONE].
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await inWords(() => reader.read());
    if (done) break;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.message, 500);
      yield event;
    }
  }
  throw new ApiError("The answer broke off before its end. Ask again.", 500);
}
