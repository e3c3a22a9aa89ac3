// Elements and texts, for the other modules.

export const find = (selector, root = document) => root.querySelector(selector);

// Returns a new element. Names with a dash, `role` and `for` are attributes, all others properties.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || ["role", "for", "list"].includes(name)) made.setAttribute(name, value);
    else made[name] = value;
  }
  return fill(made, ...children);
}

// Gives an element these children instead of its own; null and false are none.
export function fill(place, ...children) {
  place.replaceChildren(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return place;
}

export const button = (text, onclick, properties = {}) =>
  element("button", { type: "button", onclick, ...properties }, text);

let counted = 0;
export const newId = (name) => `${name}-${++counted}`;

export const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// Copies text, also where the page has no secure context and so no clipboard of its own.
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", { value: text, className: "visually-hidden" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

// Opens a dialog with this content and resolves with what `close` was given, or null.
export function dialog(title, build, className = "") {
  const id = newId("dialog");
  return new Promise((resolve) => {
    let answer = null;
    const shown = element("dialog", { className, "aria-labelledby": id });
    const close = (value = null) => {
      answer = value;
      shown.close();
    };
    shown.append(element("h2", { id }, title), build(close, shown));
    shown.addEventListener("close", () => {
      shown.remove();
      resolve(answer);
    });
    document.body.append(shown);
    shown.showModal();
  });
}
