// What runs and waits, what happened just now, pictures, errors: as lists that can be read out.

const SURE_MS = 4000;
const FIRST_ROWS = 10;

const STATES = {
  loading: "loading its model", abandoned: "cancelled, still computed", retrying: "to be tried again",
};

function drawQueue(queue, cancel) {
  const running = list(queue.running), waiting = list(queue.waiting);
  const total = number(queue.waiting_total) ?? waiting.length;
  const id = (each) => plain(each.job_id, 64);
  const update = (node, each) => updateRow(node, each);
  keep(byId("running"), running, id, (each) => buildRow(each, cancel), update);
  const all = byId("waiting-all").getAttribute("aria-expanded") === "true";
  keep(byId("waiting"), all ? waiting : waiting.slice(0, FIRST_ROWS), id, (each) => buildRow(each, cancel), update);
  say(byId("running-count"), running.length ? String(running.length) : "");
  say(byId("waiting-count"), total ? String(total) : "");
  byId("running-none").hidden = running.length > 0;
  byId("waiting-none").hidden = total > 0;
  byId("waiting-all").hidden = waiting.length <= FIRST_ROWS;
  say(byId("waiting-all"), all ? "Show the first ones" : `Show all ${waiting.length}`);
  const more = total - waiting.length;
  byId("waiting-more").hidden = more <= 0;
  say(byId("waiting-more"), more > 0 ? `and ${more} more` : "");
}

function buildRow(request, cancel) {
  const row = make("li", "row");
  const what = make("div", "what");
  what.append(make("div", "model"), make("div", "note"));
  const times = make("div", "times");
  times.append(make("span", "age"), make("span", "note left"));
  const act = make("div", "act");
  row.append(make("div", "place"), make("div", "chip"), what, times, act);
  if (request.own === true) act.append(cancelButton(plain(request.job_id, 64), request, cancel));
  return row;
}

/** It asks once more before it cancels, and forgets that it asked. */
function cancelButton(jobId, request, cancel) {
  const button = make("button", "", "Cancel");
  button.type = "button";
  button.setAttribute("aria-label", `Cancel ${plain(request.type, 16)} on ${plain(request.model, 80)}`);
  let timer = 0;
  const calm = () => {
    clearTimeout(timer);
    delete button.dataset.sure;
    say(button, "Cancel");
    button.removeAttribute("aria-description");
  };
  button.addEventListener("click", async () => {
    if (!("sure" in button.dataset)) {
      button.dataset.sure = "";
      say(button, "Sure?");
      button.setAttribute("aria-description", "Press again to cancel");
      announce("Press again to cancel.", true);
      timer = setTimeout(calm, SURE_MS);
      return;
    }
    calm();
    button.setAttribute("aria-disabled", "true");
    await cancel(jobId);
    button.removeAttribute("aria-disabled");
  });
  return button;
}

function updateRow(row, request) {
  const [place, chip, what, times, act] = row.children;
  if (request.state === "abandoned") [...act.children].forEach(leave); // cancelled already
  row.dataset.type = plain(request.type, 16);
  say(place, request.position == null ? "" : plain(request.position, 8));
  say(chip, plain(request.type, 16));
  sayLong(what.firstChild, request.model);
  const parts = [];
  if (request.priority === "critical") parts.push(["strong", "▲ critical"]);
  if (request.priority === "batch") parts.push(["", "▽ batch"]);
  if (request.priority === "normal") parts.push(["", "normal"]);
  if (request.state in STATES) parts.push(["warn", STATES[request.state]]);
  if (request.lent === true) parts.push(["", "lent its place"]);
  if (request.own !== true) parts.push(["", "of another program"]);
  parts.forEach((part, i) => part.push(i ? " · " : ""));
  keep(what.lastChild, parts, ([, text]) => text, () => make("span"), (node, [kind, text, before]) => {
    node.className = kind;
    say(node, before + text);
  });
  const runs = request.position == null;
  say(times.firstChild, `${runs ? "runs" : "waits"} ${span(runs ? request.running_s : request.waiting_s)}`);
  say(times.lastChild, number(request.estimate_s) === null ? "no estimate yet" : `takes about ${span(request.estimate_s)}`);
}

function drawMoments(moments) {
  byId("moments-part").hidden = moments.length === 0;
  keep(byId("moments"), moments, (each) => each.key, (each) => {
    const node = make("li");
    const text = make("div");
    const name = make("bdi");
    sayLong(name, each.model);
    text.append(each.before ? `${each.before} ` : "", name, ` ${each.after}`);
    node.append(make("time", "", clock(Date.now() - (steady() - each.at))), text);
    return node;
  }, () => {});
}

function drawErrors(errors) {
  const samples = list(errors.recent_samples);
  const found = entries(errors.counts).filter(([, n]) => number(n) !== null);
  const rows = found.sort((a, b) => b[1] - a[1]).slice(0, 12).map(([code, n]) => ({
    code, n, sample: samples.find((each) => each.error === code),
  }));
  byId("errors-none").hidden = rows.length > 0;
  keep(byId("errors"), rows, (row) => row.code, () => {
    const node = make("li");
    node.append(make("span", "times"), make("span", "code"), make("div", "note"));
    const when = make("span");
    node.lastChild.append(make("bdi"), when);
    return node;
  }, (node, { code, n, sample }) => {
    const [times, name, note] = node.children;
    say(times, `${n}×`);
    say(name, plain(code, 64));
    sayLong(note.firstChild, sample?.message ?? "");
    say(note.lastChild, sample ? ` (${clock(Date.parse(sample.timestamp))})` : "");
  });
}

function drawPictures(ids, thumbs) {
  const shown = ids.filter((id) => thumbs.has(id));
  byId("pictures-part").hidden = shown.length === 0;
  keep(byId("pictures"), shown, (id) => id, (id) => {
    const node = make("li");
    const image = make("img");
    const [, h, m, s] = /T(\d\d)(\d\d)(\d\d)/.exec(id) ?? [];
    const day = id.slice(0, 8).replace(/(\d{4})(\d\d)(\d\d)/, "$1-$2-$3");
    const at = clock(Date.parse(`${day}T${h}:${m}:${s}Z`));
    image.alt = `${id.includes("img2img") ? "Changed" : "Generated"} picture of ${at}`;
    image.src = thumbs.get(id);
    node.append(image, make("span", "", at));
    return node;
  }, () => {});
}
