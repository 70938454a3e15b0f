// Where the facts come from: the host around this page (MCP Apps), or the server itself.
// Both can `call` a tool and `read` a resource; both throw `Gone` where nobody answers.

const PATIENCE_MS = 10_000;

/** Nobody answered, or nobody who could. `closed`: asking again will not help. */
class Gone extends Error {
  constructor(message, closed = false) {
    super(message);
    this.closed = closed;
  }
}

/** JSON-RPC with the window that holds this one. */
class HostSource {
  #open = new Map();
  #last = 0;
  #hear;
  canRead = false;

  constructor(hear) {
    this.#hear = hear;
    window.addEventListener("message", (event) => this.#received(event));
  }

  async connect() {
    const told = await this.#ask("ui/initialize", {
      protocolVersion: "2026-01-26",
      appInfo: { name: "inference-mcp-queue", version: "1.0.0" },
      appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] },
    });
    this.canRead = Boolean(told?.hostCapabilities?.serverResources);
    this.#hear("context", told?.hostContext ?? {});
    this.tell("ui/notifications/initialized", {});
  }

  async call(name, args) {
    return bodyOf(await this.#ask("tools/call", { name, arguments: args }));
  }

  async read(uri) {
    const found = (await this.#ask("resources/read", { uri }))?.contents?.[0];
    return { text: found?.text, blob: found?.blob, mime: found?.mimeType };
  }

  tell(method, params) {
    window.parent.postMessage({ jsonrpc: "2.0", method, params }, "*");
  }

  #ask(method, params) {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => {
        this.#open.delete(id);
        reject(new Gone("The host does not answer."));
      }, PATIENCE_MS);
      this.#open.set(id, { resolve, reject, late });
      window.parent.postMessage({ jsonrpc: "2.0", id, method, params }, "*");
    });
  }

  #received(event) {
    const message = event.data;
    if (event.source !== window.parent || message?.jsonrpc !== "2.0") return;
    if (typeof message.method === "string") this.#asked(message);
    else this.#answered(message);
  }

  #answered({ id, result, error }) {
    const open = this.#open.get(id);
    if (!open) return;
    this.#open.delete(id);
    clearTimeout(open.late);
    if (error) open.reject(new Gone("The server cannot be reached through this host."));
    else open.resolve(result);
  }

  #asked({ id, method, params }) {
    if (id === undefined) {
      if (method === "ui/notifications/host-context-changed") this.#hear("context", params ?? {});
      if (method === "ui/notifications/tool-result") this.#hear("result", params ?? {});
      return;
    }
    const known = method === "ping" || method === "ui/resource-teardown";
    if (method === "ui/resource-teardown") this.#hear("end", {});
    const error = { code: -32601, message: "This page has no such method." };
    const answer = known ? { jsonrpc: "2.0", id, result: {} } : { jsonrpc: "2.0", id, error };
    window.parent.postMessage(answer, "*");
  }
}

/** The server that this page came from. */
class ServerSource {
  canRead = true;

  async connect() {}

  tell() {}

  async call(name, args) {
    if (name === "cancel_job") {
      return bodyOf(await this.#fetch(`api/${name}`, { method: "POST", body: JSON.stringify(args) }));
    }
    return bodyOf(await this.#fetch(`api/${name}?${new URLSearchParams(args)}`));
  }

  async read(uri) {
    return this.#fetch(`api/${uri.replace("inference://", "")}`);
  }

  async #fetch(path, options = {}) {
    let answer;
    try {
      answer = await fetch(path, {
        ...options,
        headers: { "X-Inference-MCP": "page", "Content-Type": "application/json" },
        signal: AbortSignal.timeout(PATIENCE_MS),
        redirect: "error",
      });
    } catch {
      throw new Gone("The server does not answer.");
    }
    if (answer.status === 401) {
      throw new Gone("This page is no longer let in. Run “inference-mcp dashboard” again.", true);
    }
    if (!answer.ok) throw new Gone("The server cannot answer now.");
    try {
      return await answer.json();
    } catch {
      throw new Gone("What answers is not the server."); // or it broke off
    }
  }
}

/** What a status tool answered; an error of its own is one that it told. */
function bodyOf(result) {
  if (result?.isError || !result) {
    throw new Error(list(result?.content).map((each) => each.text ?? "").join(" ") || "No answer.");
  }
  if (result.structuredContent) return result.structuredContent;
  return JSON.parse(list(result.content).find((each) => each.type === "text")?.text ?? "{}");
}
