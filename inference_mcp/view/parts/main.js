// Looks at the queue while somebody looks at this page, and says so when it cannot.

const EVERY_MS = 2000;
const AROUND_MS = 10_000;
const SOON_MS = 4000;
const LONGEST_MS = 30_000;
const QUIET_MS = 10_000;

const history_ = new History();
const thumbs = new Map();
const framed = window.parent !== window;
const source = framed ? new HostSource(heard) : new ServerSource();

let queue = null;
let pictures = [];
let around = 0;
let failures = 0;
let timer = 0;
let busy = false;
let ended = false;
let connected = false;
let inView = true;
let said = { text: "", at: 0 };

const looked = () => document.visibilityState === "visible" && inView && !ended;

/** Told to who listens: not too often, and never the same twice. */
function announce(text, urgent = false) {
  const now = steady();
  if (text === said.text || (!urgent && now - said.at < QUIET_MS)) return;
  said = { text, at: now };
  byId("live").textContent = text;
}

function link(state, text) {
  byId("link").dataset.state = state;
  say(byId("link-text"), text);
  document.body.toggleAttribute("data-stale", state === "gone" && queue !== null);
}

function show(found) {
  const now = steady();
  queue = found;
  history_.look(queue, now);
  draw();
}

function draw() {
  if (!queue) return;
  drawQueue(queue, cancel);
  drawLanes(queue, history_, steady());
  drawMoments(history_.moments);
  const running = list(queue.running).length;
  const waiting = number(queue.waiting_total) ?? list(queue.waiting).length;
  const room = queue.intake_open === false ? " · takes nothing in" : "";
  const text = `${running} running · ${waiting} waiting${room}`;
  say(byId("summary"), text);
  document.title = running + waiting ? `(${running + waiting}) Queue – inference-mcp` : "Queue – inference-mcp";
  announce(`${running} running, ${waiting} waiting.`);
}

async function look() {
  if (!connected) {
    await source.connect();
    connected = true;
  }
  show(await source.call("get_queue_status", {}));
  const since = steady() - around;
  if (since < (history_.ended ? SOON_MS : AROUND_MS)) return;
  history_.ended = false;
  await lookAround();
  around = steady();
}

/** What changes slowly. One that fails leaves the others alone, unless nobody answers. */
async function lookAround() {
  await tried(async () => drawFigures(await source.call("get_request_metrics", { window_seconds: 3600 })));
  await tried(async () => drawErrors(await source.call("get_error_metrics", { limit: 20 })));
  if (!source.canRead) return;
  await tried(async () => {
    const found = JSON.parse((await source.read("inference://activity")).text);
    history_.remember(found.ended, steady());
    drawCharts(found.series);
    pictures = (Array.isArray(found.pictures) ? found.pictures : []).filter(isId).slice(0, 12);
  });
  for (const id of pictures.filter((each) => !thumbs.has(each))) await tried(() => fetchThumb(id));
  for (const id of thumbs.keys()) if (!pictures.includes(id)) thumbs.delete(id);
  drawPictures(pictures, thumbs);
}

const isId = (id) => typeof id === "string" && /^\d{8}T\d{9}Z-(txt|img)2img-[a-z2-7]{6}$/.test(id);

async function fetchThumb(id) {
  const { blob, mime } = await source.read(`inference://thumbs/${id}`);
  if (!["image/png", "image/jpeg"].includes(mime) || !/^[A-Za-z0-9+/=]{1,200000}$/.test(blob ?? "")) return;
  thumbs.set(id, `data:${mime};base64,${blob}`);
}

async function tried(work) {
  try {
    await work();
  } catch (error) {
    if (error instanceof Gone) throw error;
  }
}

async function cancel(jobId) {
  try {
    const told = await source.call("cancel_job", { job_id: jobId });
    announce(plain(told.message, 300), true);
  } catch (error) {
    announce(plain(error.message, 300), true);
  }
  around = 0;
  again(0);
}

/** One round, and when the next one is due. */
async function round() {
  if (busy || !looked()) return;
  busy = true;
  try {
    await look();
    if (failures) announce("The server is back.", true);
    failures = 0;
    link("live", "Live");
    again(EVERY_MS);
  } catch (error) {
    failed(error);
  } finally {
    busy = false;
  }
}

function failed(error) {
  failures += 1;
  around = 0;
  const wait = Math.min(LONGEST_MS, EVERY_MS * 2 ** Math.min(6, failures - 1));
  const closed = error instanceof Gone && error.closed;
  const text = error instanceof Gone ? error.message : plain(error.message, 300);
  link("gone", closed ? text : `${text} Trying again in ${Math.round(wait / 1000)} s.`);
  if (failures === 1) announce(text, true);
  if (!closed) again(wait);
}

function again(wait) {
  clearTimeout(timer);
  timer = setTimeout(round, wait);
}

/** What the host around this page tells. */
function heard(what, params) {
  if (what === "end") ended = true;
  if (what === "context") {
    if (["light", "dark"].includes(params.theme)) document.documentElement.dataset.theme = params.theme;
    const font = params.styles?.variables?.["--font-sans"];
    if (typeof font === "string") document.documentElement.style.setProperty("--host-font", font.slice(0, 300));
  }
  if (what === "result" && !queue) {
    try {
      show(bodyOf(params));
    } catch {
      // The next look says what is wrong.
    }
  }
}

function resumed() {
  if (!looked()) {
    clearTimeout(timer);
    if (!failures) link("wait", "Paused");
    return;
  }
  again(0);
}

byId("waiting-all").addEventListener("click", ({ currentTarget: button }) => {
  button.setAttribute("aria-expanded", String(button.getAttribute("aria-expanded") !== "true"));
  draw();
});
document.addEventListener("visibilitychange", resumed);
if (framed) {
  new IntersectionObserver((found) => {
    inView = found[found.length - 1].isIntersecting;
    resumed();
  }).observe(document.body);
  let height = 0;
  new ResizeObserver(() => {
    const now = Math.ceil(document.body.getBoundingClientRect().height);
    if (now === height || !connected) return;
    height = now;
    source.tell("ui/notifications/size-changed", { width: document.documentElement.clientWidth, height });
  }).observe(document.body);
}
setInterval(() => {
  if (queue && looked() && !failures) drawLanes(queue, history_, steady());
}, 1000);
round();
