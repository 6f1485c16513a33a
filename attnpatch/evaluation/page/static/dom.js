// Elements. Text from the data only ever becomes a text node or an attribute's value, never markup.
const $ = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function put(id, ...children) {
  $(id).replaceChildren(...children.flat(Infinity).filter(Boolean));
}

function options(select, entries) {
  select.replaceChildren(...entries.map(([value, text]) => el("option", { value }, text)));
}

// A box of its own for what is wider than the screen, reachable by keyboard.
function scrolling(label, ...children) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, ...children);
}

// A long name may break behind its underscores.
const breaking = (name) => name.split("_").flatMap((part, i) => (i ? ["_", el("wbr"), part] : [part]));

const empty = (text) => el("p", { class: "empty" }, text);
