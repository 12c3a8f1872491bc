// Making and changing elements. Text is only ever set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Make an element: properties by name, `on…` for listeners, `aria-…` and `data-…` as attributes. */
export function h(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "scope") node.setAttribute(name, value);
    else if (name === "class") node.className = value;
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Make an element of a picture. */
export function s(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Set text, if it is another one: what is not touched need not be laid out. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Show an error where it happened; nothing hides it. */
export function sayError(node, error) {
  node.hidden = !error;
  say(node, error ? error.message : "");
}

/** Keep a list of rows as elements: one for each key, made once, updated ever after. */
export function keyed(parent, make) {
  const nodes = new Map();
  return (rows) => {
    const wanted = new Set(rows.map(([key]) => key));
    for (const [key, node] of nodes) {
      if (!wanted.has(key)) {
        node.remove();
        nodes.delete(key);
      }
    }
    let before = parent.firstElementChild;
    for (const [key, value] of rows) {
      let node = nodes.get(key);
      if (!node) {
        node = make(key, value);
        nodes.set(key, node);
      }
      node.update(value);
      if (node === before) before = before.nextElementSibling;
      else parent.insertBefore(node, before);
    }
  };
}

/** Keep a list of names with values; `rows` are [name, text, isBad]. */
export function facts(list) {
  const show = keyed(list, (name) => {
    const value = h("dd");
    const row = h("div", {}, h("dt", {}, name), value);
    row.update = ([text, isBad]) => {
      say(value, text);
      value.classList.toggle("bad", Boolean(isBad));
    };
    return row;
  });
  return (rows) => show(rows.map(([name, ...rest]) => [name, rest]));
}
