// Requests to the server: the key, errors in OpenAI's form, and streams of events.

const KEY = "steerlm.key";
let asking = null; // the dialog is open: everybody waits for the same answer

export class Refused extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

export function forgetKey() {
  sessionStorage.removeItem(KEY);
}

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

// Ask for the key; `rejected` is the one that was not accepted, if any.
function askForKey(rejected) {
  if (sessionStorage.getItem(KEY) !== rejected) return Promise.resolve(); // another request has asked meanwhile
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    const input = document.getElementById("key");
    const about = document.getElementById("key-about");
    if (rejected !== null) about.textContent = "The server does not know this key. Please try another one.";
    document.getElementById("key-form").onsubmit = (event) => {
      event.preventDefault();
      // a header holds no other characters, and no valid key has them
      sessionStorage.setItem(KEY, input.value.trim().replace(/[^\x21-\x7e]/g, ""));
      input.value = "";
      asking = null;
      dialog.close();
      resolve();
    };
    dialog.oncancel = (event) => event.preventDefault(); // without a key there is nothing to see
    dialog.showModal();
    input.focus();
  });
  return asking;
}

async function send(path, options) {
  for (;;) {
    const tried = sessionStorage.getItem(KEY);
    let reply;
    try {
      reply = await fetch(path, { ...options, headers: { ...options.headers, ...headers() } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("The server does not answer.");
    }
    if (reply.status === 401) {
      await askForKey(tried);
      continue;
    }
    if (reply.ok) return reply;
    const text = await reply.text();
    let message = `The server answers with status ${reply.status}.`;
    let code;
    try {
      ({ message, code } = JSON.parse(text).error);
    } catch {
      // not the server's own error: its status has to do
    }
    throw new Refused(message, code);
  }
}

export async function getAttributes() {
  return (await send("v1/attributes", {})).json();
}

// Ask, and call `onChunk` with every chunk of the streamed answer.
export async function chat(body, onChunk, signal) {
  const reply = await send("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("The connection was lost.");
    }
    if (part.done) throw new Refused("The answer broke off.");
    const events = (rest + part.value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length === 0) continue; // a comment that keeps the connection alive
      const data = lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(chunk.error.message, chunk.error.code);
      onChunk(chunk);
    }
  }
}
