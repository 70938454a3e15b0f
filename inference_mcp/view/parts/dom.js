// Elements, made and kept. No markup is ever parsed: all text goes in as text.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function make(tag, classes = "", text = null) {
  const node = document.createElement(tag);
  if (classes) node.className = classes;
  if (text !== null) node.textContent = text;
  return node;
}

function shape(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

/** Set text only where it is another one, so that selections and readers are left alone. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A stranger's text: on one line, the rest of it shown where it is looked at or focused. */
function sayLong(node, value) {
  const text = plain(value);
  node.classList.add("long");
  say(node, text);
  if (text.length > 40) node.tabIndex = 0;
  else node.removeAttribute("tabindex");
}

/**
 * Make `parent` hold one child for each item, in order. A child is kept as long as its key is
 * there, and moved only if it must be, so that focus stays where it is. Keys should differ; where
 * a stranger's do not, each is shown, and made anew the next time.
 */
function keep(parent, items, keyOf, build, update) {
  const known = new Map();
  for (const node of [...parent.children]) {
    if (known.has(node.dataset.key)) leave(node);
    else known.set(node.dataset.key, node);
  }
  const focused = document.activeElement;
  let before = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let node = known.get(key);
    if (node) known.delete(key);
    else {
      node = build(item);
      node.dataset.key = key;
    }
    update(node, item);
    while (before && before !== node && known.has(before.dataset.key) && !wanted(items, keyOf, before)) {
      const gone = before;
      before = before.nextElementSibling;
      known.delete(gone.dataset.key);
      leave(gone);
    }
    if (before === node) before = node.nextElementSibling;
    else parent.insertBefore(node, before);
  }
  for (const node of known.values()) leave(node);
  // What was moved lost it.
  if (parent.contains(focused) && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

function wanted(items, keyOf, node) {
  return items.some((item) => keyOf(item) === node.dataset.key);
}

/** Take a child away; focus that was in it goes to its section's title. */
function leave(node) {
  const title = node.contains(document.activeElement) ? node.closest("section")?.querySelector("h2") : null;
  node.remove();
  title?.focus({ preventScroll: true });
}
