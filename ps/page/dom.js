// Elements made and kept up to date.
//
// The one rule: whatever comes from the server goes into the page as text or as the value of an attribute that is not
// code. There is no innerHTML in this page; a rank named <img onerror=...> is a rank with a strange name.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** `el("p", {class: "note"}, "text", child)`. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** `span("note", "text", child)`: the element that most of the page is made of. */
export const span = (kind, ...children) => el("span", { class: kind }, ...children);

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** The drawing with this id in the page's own sheet of symbols. */
export function symbol(name) {
  const use = svg("use", { href: `#${name}` });
  return svg("svg", { class: `symbol ${name}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, use);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Write only what has changed: an untouched node keeps selection, and costs no layout. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (value === null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function setProperty(node, name, value) {
  if (node.style.getPropertyValue(name) !== value) node.style.setProperty(name, value);
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** Make the children of `container` those of `items`, in order; a child of the same key stays the same node. */
export function keyed(container, items, keyOf, make, update) {
  const old = new Map([...container.children].map((node) => [node.dataset.key, node]));
  let place = container.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let node = old.get(key);
    if (node) old.delete(key);
    else {
      node = make(item);
      node.dataset.key = key;
    }
    if (node === place) place = place.nextElementSibling;
    else container.insertBefore(node, place);
    update(node, item);
  }
  for (const node of old.values()) node.remove();
}
