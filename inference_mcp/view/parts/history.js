// What was seen of each run, so that lanes have a past: from one look at the queue to the next.
// Times are milliseconds of `steady`, so that setting the machine's clock moves nothing.

const KEPT_MS = 330_000;
const MOST_RUNS = 400;
const MOST_MOMENTS = 8;

class History {
  runs = [];
  moments = [];
  /** Whether a run has ended; whoever has looked at what became of it clears this. */
  ended = false;
  #phases = null;
  #looked = 0;
  #told = 0;

  /** Take in one answer of `get_queue_status`. */
  look(queue, now) {
    const running = new Map(list(queue.running).map((each) => [plain(each.job_id, 64), each]));
    const waiting = new Map(list(queue.waiting).map((each) => [plain(each.job_id, 64), each]));
    const recent = new Map(list(queue.recent).map((each) => [plain(each.job_id, 64), each]));
    const offset = now - (Date.parse(queue.timestamp) || now);
    const gaveWay = queue.limits?.preemption === "off" ? "retrying" : "preempted";
    for (const run of this.runs.filter((each) => each.end === null)) {
      const still = running.get(run.id);
      // The server's own count, for a machine that slept lets this page's clock run ahead.
      if (still && ranFor(still) >= run.ran) continue;
      if (still) this.#close(run, Math.min(now, began(still, now)), gaveWay);
      else if (waiting.has(run.id)) {
        this.#close(run, now, waiting.get(run.id).state === "retrying" ? "retrying" : gaveWay);
      } else {
        // Another program's end is not told, nor is what ended while nobody looked.
        const told = recent.get(run.id);
        const at = told ? Date.parse(told.finished) + offset : NaN;
        this.#close(run, at > run.start && at <= now ? at : this.#looked, plain(told?.state ?? "ended", 32));
      }
    }
    for (const [id, each] of running) {
      const run = this.runs.find((known) => known.id === id && known.end === null);
      const start = began(each, now);
      if (!run) this.runs.push({ id, ...factsOf(each), start, ran: ranFor(each), end: null, state: "" });
      else Object.assign(run, { ran: ranFor(each), start: Math.abs(start - run.start) < 1500 ? run.start : start });
    }
    this.#models(queue.slots, now);
    this.runs = this.runs.filter((run) => now - (run.end ?? now) < KEPT_MS).slice(-MOST_RUNS);
    this.moments = this.moments.filter((each) => now - each.at < KEPT_MS);
    this.#looked = now;
  }

  /** Runs that ended before this page was opened. */
  remember(ended, now) {
    for (const each of list(ended)) {
      const id = plain(each.job_id, 64);
      const ago = number(each.ended_s), ran = number(each.ran_s);
      if (ago === null || ran === null || this.runs.some((run) => run.id === id)) continue;
      const end = now - ago * 1000;
      this.runs.push({ id, ...factsOf(each), start: end - ran * 1000, end, state: plain(each.state, 32) });
    }
  }

  #close(run, end, state) {
    this.ended = true;
    Object.assign(run, { end: Math.max(run.start, end), state });
    if (state === "preempted") this.#moment(end, `${run.type} on`, run.model, "made room for a better one");
    if (state === "retrying") this.#moment(end, `${run.type} on`, run.model, "failed and is tried again");
  }

  #models(slots, now) {
    const phases = new Map(entries(slots).map(([name, model]) => [name, plain(model?.state, 16)]));
    for (const [name, phase] of this.#phases ? phases : []) {
      const before = this.#phases.get(name) ?? "absent";
      if (before === phase) continue;
      const what = { loading: "is being loaded", resident: "is in memory", absent: "left memory" };
      this.#moment(now, "", name, what[phase] ?? "");
    }
    this.#phases = phases;
  }

  #moment(at, before, model, after) {
    this.moments.unshift({ key: String(++this.#told), at, before, model, after });
    this.moments.length = Math.min(this.moments.length, MOST_MOMENTS);
  }
}

function ranFor(request) {
  return number(request.running_s) ?? 0;
}

function began(request, now) {
  return now - ranFor(request) * 1000;
}

function factsOf(each) {
  const type = plain(each.type, 16);
  return { type, model: typeof each.model === "string" ? each.model : "" };
}
