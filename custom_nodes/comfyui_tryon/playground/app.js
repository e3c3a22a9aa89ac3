// The page to try the API with: what is chosen, sent and shown. It uses nothing but the public API.

import { ApiError, addressOf, askForKey, call, cancel, hasKey, newRequestId, tryOn, watchHealth } from "./api.js";
import { button, element, fill, find, newId, still } from "./dom.js";
import { clothName, clothTypes, fields, labelled } from "./fields.js";
import { maskFile, paint } from "./mask.js";
import { ResultView } from "./result.js";
import { snippets } from "./snippets.js";
import { catchAll, forget, loaded, picker } from "./sources.js";

const MOST_GARMENTS = 4;
const ONE_GARMENT = "This workflow takes one garment.";
const PARTS = { person_image: "#person", garment_image: "#garment-picker", mask_image: "#mask" };

const chosen = { person: null, garments: [], strokes: [], mask: null };
let server = { schema: { properties: {} }, workflows: [] };
let workflow = { name: "", parameters: {}, mask: "none" };
let controls = { read: () => [], wrong: () => undefined };

const result = new ResultView(find("#stage"), find("#announcement"));
const showCode = snippets(find("#snippets"));
const personPicker = picker({ what: "person", sample: addressOf("playground/person.png"), take: setPerson, problem: find("#person-problem") });
const garmentPicker = picker({ what: "garment", sample: addressOf("playground/garment.png"), several: true, take: addGarments, problem: find("#garment-problem") });

let latestPerson = 0; // a large file may be read more slowly than the one that was chosen after it

async function setPerson([file, ...others]) {
  const number = ++latestPerson;
  const image = await loaded(file);
  if (number !== latestPerson) {
    forget(image);
    return "";
  }
  replacePerson(image);
  result.announce(`Person: ${file.name}`);
  return others.length && `Images left out: ${others.length}, as there is one person.`;
}

function replacePerson(image) {
  forget(chosen.person);
  forget(chosen.mask);
  Object.assign(chosen, { person: image, strokes: [], mask: null });
  keepingFocus("#person", showPerson);
  changed();
}

// Shows a part of the page again; if the focus was in it, it goes to the part's first control.
function keepingFocus(selector, show) {
  const place = find(selector);
  const within = place.contains(document.activeElement);
  show();
  if (within) find("button, input, select", place)?.focus();
}

function announceGarments() {
  result.announce(`Garments: ${chosen.garments.map(({ name }) => name).join(", ")}`);
}

async function addGarments(files) {
  const images = await Promise.all(files.map((file) => loaded(file)));
  const leftOut = images.splice(MOST_GARMENTS - chosen.garments.length);
  leftOut.forEach(forget);
  chosen.garments.push(...images.map((image) => ({ ...image, clothType: "" })));
  keepingFocus("#garment-picker", showGarments);
  announceGarments();
  changed();
  return leftOut.length && `Images left out: ${leftOut.length}, as there is room for ${MOST_GARMENTS} garments.`;
}

function thumbnail(image, alt) {
  if (image.width) return element("img", { src: image.url, alt });
  return element("p", { className: "unseen" }, `${image.name}: this browser cannot show its format. It is sent as it is.`);
}

function showPerson() {
  const { person } = chosen;
  if (!person) return find("#person").replaceChildren(personPicker);
  find("#person").replaceChildren(element("div", { className: "chosen" },
    thumbnail(person, "The chosen person"),
    element("div", { className: "column" },
      element("p", { className: "name" }, person.name),
      button("Choose another", () => {
        find("#person-problem").textContent = "";
        replacePerson(null);
      }))));
}

function showGarments() {
  const { garments } = chosen;
  const types = "cloth_type" in workflow.parameters ? clothTypes(server.schema) : [];
  find("#garments").replaceChildren(...garments.map((garment, index) => {
    const select = element("select", { id: newId("cloth") }, ...types.map((type) => element("option", { value: type }, clothName(type))));
    select.value = garment.clothType || workflow.parameters.cloth_type || types[0];
    select.addEventListener("change", () => {
      garment.clothType = select.value;
      changed();
    });
    return element("li", { className: "chosen" },
      thumbnail(garment, `Garment ${index + 1}`),
      element("div", { className: "column" },
        element("p", { className: "name" }, garments.length > 1 ? `${index + 1}. ${garment.name}` : garment.name),
        types.length > 0 && labelled("Worn as", select),
        element("div", { className: "row" },
          index > 0 && button("Put on earlier", () => {
            garments.splice(index - 1, 2, garment, garments[index - 1]);
            showGarments();
            changed();
            find(`#garments li:nth-child(${index}) select, #garments li:nth-child(${index}) button`)?.focus();
            announceGarments();
          }),
          button("Remove", () => {
            garments.splice(index, 1);
            forget(garment);
            find("#garment-problem").textContent = "";
            showGarments();
            changed();
            find(garments.length ? "#garments button" : "#garment-picker input").focus();
          }, { "aria-label": `Remove garment ${index + 1}` }))));
  }));
  const place = find("#garment-picker");
  place.hidden = garments.length === MOST_GARMENTS;
  place.replaceChildren(garments.length ? element("details", { className: "another" }, element("summary", {}, "Add another garment, put on over this"), garmentPicker) : garmentPicker);
}

function showMask() {
  const place = find("#mask");
  const { person, strokes, mask } = chosen;
  if (workflow.mask === "none") return place.replaceChildren();
  const required = workflow.mask === "required";
  const reason = !person ? "Choose a person first."
    : !person.width ? "This browser cannot show the person, so nothing can be painted over it."
    : chosen.garments.length > 1 ? (required ? ONE_GARMENT : "A painted mask goes with one garment.") : "";
  const help = element("p", { className: "help", id: newId("help") },
    reason || (mask ? "Your mask is sent." : required ? "This workflow needs a mask: paint where the garment goes." : "Made automatically, unless you paint it."));
  const open = button(mask ? "Change the mask" : "Paint a mask", async () => {
    const painted = await paint(person, strokes);
    if (painted) {
      const file = await maskFile(person, painted);
      forget(mask);
      Object.assign(chosen, { strokes: painted, mask: file && { file, name: file.name, url: URL.createObjectURL(file) } });
    }
    changed();
    find("#mask button").focus();
  }, { disabled: Boolean(reason), "aria-describedby": help.id });
  fill(place, open,
    mask && button("Remove it", () => {
      forget(mask);
      Object.assign(chosen, { strokes: [], mask: null });
      changed();
      find("#mask button").focus();
    }),
    mask && element("a", { className: "button", href: mask.url, download: mask.name }, "Save it"),
    help);
}

// What is sent, as [field, file] and [field, value] pairs.
function request() {
  const { person, garments, mask } = chosen;
  const files = [person && ["person_image", person], ...garments.map((garment) => ["garment_image", garment]),
    mask && garments.length < 2 && workflow.mask !== "none" && ["mask_image", mask]].filter(Boolean);
  const types = "cloth_type" in workflow.parameters ? garments.map((garment) => garment.clothType || workflow.parameters.cloth_type) : [];
  const pairs = controls.read();
  if (types.some((type) => type !== server.schema.properties.cloth_type?.default)) types.forEach((type) => pairs.push(["cloth_type", type]));
  if (workflow.name && !workflow.default) pairs.push(["workflow", workflow.name]);
  return { files, pairs };
}

function changed() {
  find("#missing").textContent = "";
  for (const place of document.querySelectorAll(".wrong")) {
    place.classList.remove("wrong");
    place.removeAttribute("aria-invalid");
  }
  showMask();
  const { files, pairs } = request();
  const names = files.map(([name, { name: file }]) => [name, file]);
  if (!chosen.person) names.unshift(["person_image", "person.jpg"]);
  if (!chosen.garments.length) names.push(["garment_image", "garment.jpg"]);
  showCode({ files: names, fields: pairs });
}

function missing() {
  if (!chosen.person) return ["Choose an image of a person.", find("#person input")];
  if (!chosen.garments.length) return ["Choose an image of a garment.", find("#garment-picker input")];
  if (workflow.mask === "required" && chosen.garments.length > 1) return [ONE_GARMENT, find("#garments li:last-child button:last-child")];
  if (workflow.mask === "required" && !chosen.mask) return ["Paint a mask: this workflow needs one.", find("#mask button")];
  const wrong = controls.wrong();
  if (!wrong) return null;
  if (wrong.closest("details")) wrong.closest("details").open = true;
  return [`${find(`label[for="${wrong.id}"]`).textContent}: ${wrong.validationMessage}`, wrong];
}

async function send(event) {
  event.preventDefault();
  const problem = missing();
  if (problem) {
    find("#missing").textContent = problem[0];
    return problem[1].focus();
  }
  if (find("#submit").disabled) return;
  const { files, pairs } = request();
  const person = { ...chosen.person };
  const framing = pairs.find(([name]) => name === "framing")?.[1] ?? workflow.parameters.framing;
  const form = new FormData();
  for (const [name, { file, name: fileName }] of files) form.append(name, file, fileName);
  for (const [name, value] of pairs) form.append(name, value);

  const id = newRequestId();
  const sending = new AbortController();
  let queued = false;
  const shown = result.running(person, async () => {
    if (!queued || !(await cancel(id))) sending.abort();
  });
  find("#submit").disabled = true;
  find("#result").scrollIntoView({ block: "nearest", behavior: still() ? "auto" : "smooth" });
  try {
    const events = { ...shown, status: (data) => {
      queued = true;
      shown.status(data);
    } };
    const reply = await tryOn(form, id, events, sending.signal);
    await result.done(person, reply, framing, useSeed);
  } catch (error) {
    if (error.name === "AbortError" || error.code === "canceled") result.canceled();
    else failed(error);
  } finally {
    find("#submit").disabled = false;
  }
}

function failed(error) {
  if (!(error instanceof ApiError)) console.error(error);
  result.failed(error instanceof ApiError ? error : { message: "This page could not show the reply. Reload it and try again.", details: {} });
  const field = error.details?.field;
  const control = document.querySelector(`#request [name="${CSS.escape(String(field))}"]`) ?? find(PARTS[field] ?? "#none");
  control?.classList.add("wrong");
  control?.setAttribute("aria-invalid", "true");
  find("#result").focus({ preventScroll: true });
  watch();
}

function useSeed(seed) {
  const control = find('#request [name="seed"]');
  if (!control) return;
  control.closest("details").open = true;
  control.value = seed;
  control.focus();
  changed();
}

function chooseWorkflow(name) {
  workflow = server.workflows.find((listed) => listed.name === name) ?? workflow;
  controls = fields(server.schema, workflow, find("#main-fields"), find("#more-fields"), changed);
  const listed = server.workflows.filter(({ version }) => version);
  if (listed.length > 1) {
    const select = element("select", { id: newId("workflow") }, ...listed.map((one) => element("option", { value: one.name }, one.default ? `${one.name} (default)` : one.name)));
    select.value = workflow.name;
    select.addEventListener("change", () => {
      chooseWorkflow(select.value);
      find("#main-fields select").focus();
    });
    find("#main-fields").prepend(labelled("Workflow", select, licenceOf(workflow)));
  }
  showGarments();
  changed();
}

function licenceOf({ licence, commercial_use: commercial }) {
  if (typeof licence !== "string") return "";
  return `Licence of its weights: ${licence}${commercial === false ? ". Not for commercial use." : ""}`;
}

function watch() {
  watchHealth((text, state) => {
    find("#health").textContent = text;
    find("#health").dataset.state = state;
  });
}

async function load() {
  try {
    const description = await (await call("api/v1/openapi.json")).json();
    const { workflows } = await (await call("api/v1/workflows")).json();
    server = { schema: description.components.schemas.TryonRequest, workflows };
    find("#key").hidden = !hasKey();
    const served = workflows.filter(({ version }) => version);
    if (!served.length) {
      const reason = workflows.find(({ problem }) => problem)?.problem ?? "there is no workflow file";
      throw new ApiError({ code: "workflow_invalid", message: `This server has no workflow to run: ${reason}` });
    }
    chooseWorkflow((served.find((one) => one.default) ?? served[0]).name);
  } catch (error) {
    find("#key").hidden = error.code !== "unauthorized";
    failed(error);
  }
}

catchAll((files, target) => {
  const toGarments = chosen.person && !find("#person").contains(target) || target instanceof Element && target.closest("[aria-labelledby=garments-title]");
  (toGarments ? garmentPicker : personPicker).give(files);
});
find("#request").addEventListener("submit", send);
find("#key").addEventListener("click", async () => {
  await askForKey();
  find("#key").hidden = !hasKey() && server.workflows.length > 0;
  if (!server.workflows.length) {
    result.empty();
    load();
  }
  changed();
});
watch();
showPerson();
showGarments();
changed();
load();
