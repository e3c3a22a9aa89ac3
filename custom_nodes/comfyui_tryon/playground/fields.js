// The fields that the chosen workflow takes, made from the server's own description of them.

import { element, newId } from "./dom.js";

const NAMES = {
  num_inference_steps: "Steps",
  guidance_scale: "Guidance",
  num_images: "Images",
  output_format: "File format",
  output_quality: "Quality",
};
const CLOTH_NAMES = { upper: "Upper body", lower: "Lower body", overall: "Dress or overall", inner: "Inner layer", outer: "Outer layer" };
const ELSEWHERE = ["cloth_type", "workflow"]; // which have a place of their own on the page
const ALWAYS = ["output_format", "output_quality"]; // which no graph has a part in
const FIRST = ["framing", "mask_shape", "garment_photo"];

const ALIASES = ["jpg"];

const nameOf = (field) => NAMES[field] ?? (field[0].toUpperCase() + field.slice(1)).replaceAll("_", " ");
export const clothName = (value) => CLOTH_NAMES[value];

const valueOf = (schema) => ({ ...schema, ...(schema.anyOf?.find((option) => option.type !== "null") ?? {}) });

export const clothTypes = (schema) => {
  const { enum: one, items } = valueOf(schema.properties.cloth_type);
  return (one ?? items?.enum ?? []).filter((type) => type in CLOTH_NAMES); // the others are aliases
};

// Shows the controls for a workflow; what was entered in `before` stays. `read()` returns the [name, value] pairs.
export function fields(schema, workflow, first, more, changed) {
  const before = Object.fromEntries([first, more].flatMap((place) =>
    [...place.querySelectorAll("[name]")].map((control) => [control.name, control.value])));
  first.replaceChildren();
  more.replaceChildren();
  const controls = [];
  for (const [name, property] of Object.entries(schema.properties)) {
    const taken = name in workflow.parameters || ALWAYS.includes(name);
    const value = valueOf(property);
    if (!taken || ELSEWHERE.includes(name) || value.format === "byte") continue;
    const control = controlFor(name, value, workflow.parameters[name] ?? property.default);
    if (before[name] && (control.tagName === "INPUT" || [...control.options].some((option) => option.value === before[name]))) {
      control.value = before[name];
    }
    control.addEventListener("input", changed);
    controls.push(control);
    const place = FIRST.includes(name) ? first : more;
    place.append(labelled(nameOf(name), control, property.description));
  }
  return {
    read: () => controls.filter((control) => control.value.trim() !== "").map((control) => [control.name, control.value.trim()]),
    wrong: () => controls.find((control) => !control.checkValidity()),
  };
}

function controlFor(name, value, own) {
  const id = newId(name);
  if (value.enum || value.type === "boolean") {
    const choices = value.enum ?? ["true", "false"];
    return element("select", { id, name },
      element("option", { value: "" }, own === undefined ? "As the workflow has it" : `${own} (default)`),
      ...choices.filter((choice) => String(choice) !== String(own) && !ALIASES.includes(choice)).map((choice) => element("option", { value: choice }, choice)));
  }
  if (name === "seed") {
    return element("input", { id, name, inputMode: "numeric", pattern: "-1|[0-9]{1,20}", placeholder: "random", autocomplete: "off" });
  }
  const number = value.type === "integer" || value.type === "number";
  return element("input", {
    id, name, type: number ? "number" : "text", placeholder: own ?? "", autocomplete: "off",
    ...(number ? { min: value.minimum ?? "", max: value.maximum ?? "", step: value.multipleOf ?? (value.type === "integer" ? 1 : "any") } : {}),
  });
}

export function labelled(text, control, help) {
  const note = help && element("p", { className: "help", id: newId("help") }, help);
  if (note) control.setAttribute("aria-describedby", note.id);
  return element("div", { className: "field" }, element("label", { for: control.id }, text), control, note);
}
