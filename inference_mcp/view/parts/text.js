// Text that strangers wrote, and numbers, as a person can read them.

const MOST = 2000;
const CONTROL = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Cs}\u2028\u2029]/gu;

/** Any value as text: controls (those that turn text round among them) by number, bounded. */
function plain(value, most = MOST) {
  const text = typeof value === "string" ? value : value == null ? "" : String(value);
  const shown = text.slice(0, most).replace(CONTROL, (sign) => {
    const number = sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return `⟨U+${number}⟩`;
  });
  const more = text.length - most;
  return more > 0 ? `${shown}… (${more.toLocaleString("en")} more characters)` : shown;
}

/** A finite number, or null for whatever else came. */
function number(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** The entries of an object that came over a wire, or nothing. */
function entries(value) {
  return value && typeof value === "object" ? Object.entries(value) : [];
}

function list(value) {
  return Array.isArray(value) ? value.filter((each) => each && typeof each === "object") : [];
}

/** "0.4 s", "12 s", "3:05 min", "2:10 h"; a dash for what is not known. */
function span(seconds) {
  const s = number(seconds);
  if (s === null) return "–";
  if (s < 9.95) return `${Math.max(0, s).toFixed(1)} s`;
  if (s < 99.5) return `${Math.round(s)} s`;
  const [unit, part] = s < 5970 ? ["min", Math.round(s)] : ["h", Math.round(s / 60)];
  return `${Math.floor(part / 60)}:${String(part % 60).padStart(2, "0")} ${unit}`;
}

/** Milliseconds that go on evenly, whatever becomes of the machine's clock. */
const steady = () => performance.timeOrigin + performance.now();

function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour12: false });
}

function many(n, one, several = `${one}s`) {
  return `${n} ${n === 1 ? one : several}`;
}
