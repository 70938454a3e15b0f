// One lane for each model: what ran, what runs, what is planned. Left of the line is the past.

const MOST_LANES = 8;
const ROW_PX = 23;
const UNKNOWN_S = 10;

const SPANS_MS = [30_000, 60_000, 120_000, 300_000];

/** How much time is shown on each side of the line, in milliseconds: some runs of usual length. */
function scale(queue, history) {
  const asked = [...list(queue.running), ...list(queue.waiting)].map((each) => number(each.estimate_s));
  const ran = history.runs.slice(-20).map((run) => (run.end === null ? null : (run.end - run.start) / 1000));
  const known = [...asked, ...ran].filter((each) => each !== null).sort((a, b) => a - b);
  const usual = (known[Math.floor(known.length / 2)] ?? UNKNOWN_S) * 1000;
  const fit = window.innerWidth <= 520 ? 6 : 12;
  const past = SPANS_MS.find((each) => each >= usual * fit) ?? SPANS_MS.at(-1);
  return { past, next: (past * 2) / 3 };
}

function drawLanes(queue, history, now) {
  const { past, next } = scale(queue, history);
  const planned = plan(queue, now);
  const names = laneNames(queue, history, now - past);
  const at = (ms) => ((ms - now + past) / (past + next)) * 100;
  const lanes = inOrder(names.slice(0, MOST_LANES), queue).map((name) => {
    const ran = history.runs.filter((run) => run.model === name && (run.end ?? now) > now - past);
    return { name, model: queue.slots?.[name], blocks: blocksOf(ran, planned.get(name) ?? [], queue, now, now + next), at };
  });
  byId("lanes-none").hidden = lanes.length > 0;
  byId("axis").hidden = lanes.length === 0;
  const more = names.length - lanes.length;
  byId("lanes-more").hidden = more <= 0;
  say(byId("lanes-more"), more > 0 ? `and ${many(more, "more model")}` : "");
  keep(byId("lanes"), lanes, (lane) => lane.name, buildLane, updateLane);
  drawAxis(past, next);
}

/** All models there is something to tell of, what runs first, then what waits, then the past. */
function laneNames(queue, history, since) {
  const found = new Set();
  for (const each of [...list(queue.running), ...list(queue.waiting)]) found.add(factsOf(each).model);
  for (const run of history.runs) if (run.end === null || run.end > since) found.add(run.model);
  for (const [name, model] of entries(queue.slots)) {
    if (model?.state !== "absent" || model?.used) found.add(name);
  }
  return [...found];
}

function inOrder(names, queue) {
  const busy = (name) => Number(!(queue.slots?.[name]?.used > 0));
  return [...names].sort((a, b) => busy(a) - busy(b) || (a < b ? -1 : 1));
}

/** When what waits would run, in its order, if estimates hold: by model, start and end. */
function plan(queue, now) {
  const places = Array.from({ length: Math.min(64, Math.max(1, number(queue.limits?.max_concurrency) ?? 1)) }, () => now);
  const models = new Map();
  const slotsOf = (name) => {
    if (!models.has(name)) models.set(name, Array.from({ length: Math.min(64, number(queue.slots?.[name]?.limit) || 1) }, () => now));
    return models.get(name);
  };
  const take = (name, busy, from) => {
    for (const slots of [places, slotsOf(name)]) {
      const first = slots.indexOf(Math.min(...slots));
      slots[first] = Math.max(slots[first], from + busy);
    }
  };
  for (const each of list(queue.running)) take(factsOf(each).model, left(each), now);
  const planned = new Map();
  for (const each of list(queue.waiting)) {
    const { type, model } = factsOf(each);
    const start = Math.max(now, Math.min(...places), Math.min(...slotsOf(model)));
    const took = (number(each.estimate_s) ?? UNKNOWN_S) * 1000;
    take(model, took, start);
    planned.set(model, [...(planned.get(model) ?? []), { id: plain(each.job_id, 64), type, start, end: start + took }]);
  }
  return planned;
}

/** What a running request has still to do, in milliseconds, if its estimate holds. */
function left(request) {
  const estimate = number(request.estimate_s);
  return Math.max(500, ((estimate ?? UNKNOWN_S) - (number(request.running_s) ?? 0)) * 1000);
}

function blocksOf(ran, planned, queue, now, until) {
  const running = new Map(list(queue.running).map((each) => [plain(each.job_id, 64), each]));
  const blocks = [];
  for (const run of ran) {
    const request = run.end === null ? running.get(run.id) : null;
    const kind = request ? (request.state === "loading" ? "loading" : "running") : `past ${run.state}`;
    blocks.push({ id: `${run.id}-${run.start}`, job: run.id, type: run.type, start: run.start, end: run.end ?? now, kind });
    if (request && number(request.estimate_s) !== null) {
      blocks.push({ id: `${run.id}-rest`, job: run.id, type: run.type, start: now, end: now + left(request), kind: "rest" });
    }
  }
  const shown = planned.filter((each) => each.start < until).slice(0, 24);
  blocks.push(...shown.map((each) => ({ ...each, id: `${each.id}-planned`, kind: "planned" })));
  return Object.assign(inRows(blocks), { later: planned.length - shown.length });
}

/** Blocks that overlap stand below one another. */
function inRows(blocks) {
  const ends = [];
  for (const block of [...blocks].sort((a, b) => a.start - b.start)) {
    const mine = (each) => each.job === block.job && each.end >= block.start;
    block.row = block.kind === "rest" ? blocks.find(mine).row : ends.findIndex((end) => end <= block.start + 200);
    if (block.row < 0) block.row = ends.length;
    ends[block.row] = Math.max(ends[block.row] ?? 0, block.end);
  }
  return Object.assign(blocks, { rows: Math.min(6, Math.max(1, ends.length)) });
}

function buildLane(lane) {
  const node = make("div", "lane");
  node.setAttribute("role", "listitem");
  const label = make("div", "lane-label");
  const name = make("div", "lane-name");
  sayLong(name, lane.name);
  label.append(name, make("div", "lane-state"));
  const track = make("div", "track");
  track.setAttribute("aria-hidden", "true");
  track.append(make("div", "blocks"), make("div", "now"), make("div", "later"));
  node.append(label, track);
  return node;
}

function updateLane(node, { model, blocks, at }) {
  const state = node.querySelector(".lane-state");
  const phase = plain(model?.state, 16);
  const words = { loading: "loading", resident: "in memory", absent: "not loaded" };
  const used = model ? ` · ${number(model.used) ?? 0} of ${number(model.limit) ?? 1} in use` : "";
  state.dataset.phase = phase;
  say(state, (words[phase] ?? "not in use") + used);
  const track = node.querySelector(".track");
  track.style.height = `${blocks.rows * ROW_PX + 3}px`;
  track.querySelector(".now").style.left = `${at(steady())}%`;
  const later = track.querySelector(".later");
  say(later, blocks.later > 0 ? `+${blocks.later} later` : "");
  later.hidden = blocks.later <= 0;
  keep(track.querySelector(".blocks"), blocks, (block) => block.id, () => make("div"), (bar, block) => {
    const from = Math.max(-1, at(block.start)), to = Math.min(101, at(block.end));
    bar.className = `block ${block.kind}`;
    bar.dataset.type = block.type;
    bar.style.left = `${from}%`;
    bar.style.width = `max(3px, calc(${Math.max(0, to - from)}% - 1px))`;
    bar.style.top = `${Math.min(5, block.row) * ROW_PX + 3}px`;
    say(bar, to - from > 7 && block.kind !== "rest" ? block.type : "");
  });
}

function drawAxis(past, next) {
  const ticks = [[-past, span(past / 1000) + " ago"], [-past / 2, span(past / 2000) + " ago"], [0, "now"], [next, "in " + span(next / 1000)]];
  keep(byId("axis"), ticks, ([ms]) => String(ms), () => make("span"), (node, [ms, text]) => {
    node.style.left = `${((ms + past) / (past + next)) * 100}%`;
    node.className = ms === 0 ? "here" : "";
    say(node, text);
  });
}
