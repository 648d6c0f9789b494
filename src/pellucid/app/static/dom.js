// Elements, and what assistive technology is told.

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `dataset`, `on...`, attributes) and children; null children are left out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The options of a select: [value, words] pairs, one of them chosen. */
export function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, words]) => h("option", { value }, words)));
  select.value = chosen;
}

/** Said once to screen readers, without moving the focus. */
export function say(text) {
  $("live").textContent = text;
}

/** Colours of the current theme for what is drawn on canvas. */
export function theme() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}
