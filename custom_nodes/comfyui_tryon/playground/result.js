// What becomes of a request: progress, the images beside the person, or the error.

import { button, copy, element, fill, find, newId, still } from "./dom.js";

const ZOOMS = [1, 1.5, 2, 3, 4, 6];

export class ResultView {
  #stage;
  #announcement;
  #urls = [];

  constructor(stage, announcement) {
    this.#stage = stage;
    this.#announcement = announcement;
    this.empty();
  }

  #show(...children) {
    this.#urls.forEach((url) => URL.revokeObjectURL(url));
    this.#urls = [];
    fill(this.#stage, ...children);
  }

  announce(text) {
    this.#announcement.textContent = text;
  }

  empty() {
    this.#show(element("div", { className: "empty" },
      element("p", {}, "The result appears here, beside the person."),
      element("p", { className: "soft" }, "You need one image of a person and one of a garment. The samples do for a first try.")));
  }

  // Shows a running request; returns what its events are to be told.
  running(person, cancel) {
    const text = element("p", { className: "state" }, "Sending the images…");
    const bar = element("progress", { "aria-label": "Progress", max: 1 });
    const preview = element("img", { className: "preview", alt: "", src: person.url });
    if (!person.width) preview.hidden = true;
    const stop = button("Cancel", () => {
      stop.disabled = true;
      text.textContent = "Canceling…";
      cancel();
    }, { id: "cancel" });
    this.#show(element("div", { className: "working" }, element("div", { className: "screen" }, preview), text, bar, stop));
    this.announce("Sending the images");
    stop.focus({ preventScroll: true });
    const say = (said) => {
      if (stop.disabled) return;
      text.textContent = said;
    };
    return {
      status: ({ status, position }) => {
        const said = status === "queued" ? (position ? `Waiting, ${position} ahead` : "Waiting") : "Working";
        say(`${said}…`);
        this.announce(said);
      },
      progress: ({ value, max }) => {
        bar.max = max;
        bar.value = value;
        say(`Working, step ${value} of ${max}`);
      },
      preview: ({ format, image }) => {
        preview.hidden = false;
        preview.classList.add("live");
        preview.src = `data:image/${format};base64,${image}`;
      },
    };
  }

  canceled() {
    this.#show(element("div", { className: "empty" }, element("p", {}, "Canceled. Nothing was kept.")));
    this.announce("Canceled");
    find("#result").focus({ preventScroll: true }); // it was on the button that is gone
  }

  failed(error) {
    const { field, ...others } = error.details ?? {};
    const rows = [["Field", field], ["Code", error.code], ["Request", error.requestId], ...Object.entries(others).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)])];
    this.#show(element("div", { className: "error", role: "alert" },
      element("h3", {}, "This did not work"),
      element("p", {}, error.message),
      element("dl", { className: "facts" }, ...rows.filter(([, value]) => value).flatMap(([name, value]) => fact(name, value)))));
    this.announce("");
  }

  async done(person, reply, framing, useSeed) {
    const before = await comparable(person, reply, framing);
    const images = reply.output.images.map((image) => {
      const bytes = Uint8Array.from(atob(image.image), (letter) => letter.charCodeAt(0));
      return { ...image, url: URL.createObjectURL(new Blob([bytes], { type: `image/${image.format}` })) };
    });
    const place = element("div");
    const thumbs = images.length > 1 && element("div", { className: "thumbs", role: "group", "aria-label": "Images" },
      ...images.map((image, number) => button("", () => choose(number), { "aria-label": `Image ${number + 1}` })));
    if (thumbs) [...thumbs.children].forEach((thumb, number) => thumb.append(element("img", { src: images[number].url, alt: "" })));
    const choose = (number) => {
      if (thumbs) [...thumbs.children].forEach((thumb, index) => thumb.setAttribute("aria-pressed", String(index === number)));
      const image = images[number];
      place.replaceChildren(compared(before, image), facts(image, reply, useSeed));
    };
    choose(0);
    this.#show(thumbs, place);
    this.#urls = images.map((image) => image.url);
    if (before) this.#urls.push(before.url);
    this.announce("Done");
    const heading = find("#result");
    heading.focus({ preventScroll: true });
    heading.scrollIntoView({ block: "nearest", behavior: still() ? "auto" : "smooth" });
  }
}

// Returns the part of the person image that the result can be laid over; null where that is not known.
async function comparable(person, reply, framing) {
  const [image] = reply.output.images;
  if (!person.width) return null;
  const alike = Math.abs((person.width * image.height) / (person.height * image.width) - 1) < 0.01;
  if (framing !== "model") return alike ? { url: URL.createObjectURL(person.file) } : null;
  if (!image.report) return null;
  const [x, y, width, height] = image.report.window;
  const [across, down] = [image.width / width, image.height / height];
  const source = new Image();
  const url = URL.createObjectURL(person.file); // another person may have been chosen, whose page forgot this one's
  source.src = url;
  await source.decode().finally(() => URL.revokeObjectURL(url));
  const canvas = element("canvas", { width: image.width, height: image.height });
  canvas.getContext("2d").drawImage(source, -x * across, -y * down, person.width * across, person.height * down);
  return { url: URL.createObjectURL(await new Promise((resolve) => canvas.toBlob(resolve))) };
}

// The result over the person with a slider, or side by side; zoomed by buttons, moved by dragging or the arrow keys.
function compared(before, image) {
  const after = element("img", { src: image.url, alt: "Result: the person wearing the garment", className: "after", draggable: false });
  const under = before && element("img", { src: before.url, alt: "The person as photographed", className: "before", draggable: false });
  const split = element("input", { type: "range", min: 0, max: 100, value: 50, id: newId("split"), className: "split" });
  const line = element("div", { className: "line" });
  const frame = element("div", { className: "frame" }, after, under, line);
  const view = element("div", { className: "view", tabIndex: 0, role: "region", "aria-label": "Image, scrollable when zoomed" }, frame);
  const shown = element("output", {}, "100 %");
  frame.style.setProperty("--ratio", image.width / image.height);
  let zoom = 0;
  const setSplit = (value) => {
    split.value = value;
    frame.style.setProperty("--split", `${split.value}%`);
    split.setAttribute("aria-valuetext", `${split.value} % person, ${100 - split.value} % result`);
  };
  const setZoom = (index) => {
    const middle = [(view.scrollLeft + view.clientWidth / 2) / view.scrollWidth, (view.scrollTop + view.clientHeight / 2) / view.scrollHeight];
    zoom = Math.min(Math.max(index, 0), ZOOMS.length - 1);
    frame.style.setProperty("--zoom", ZOOMS[zoom]);
    view.classList.toggle("zoomed", zoom > 0);
    view.scrollTo(middle[0] * view.scrollWidth - view.clientWidth / 2, middle[1] * view.scrollHeight - view.clientHeight / 2);
    shown.textContent = `${ZOOMS[zoom] * 100} %`;
    out.disabled = zoom === 0;
    closer.disabled = zoom === ZOOMS.length - 1;
  };
  const out = button("−", () => setZoom(zoom - 1), { "aria-label": "Zoom out" });
  const closer = button("+", () => setZoom(zoom + 1), { "aria-label": "Zoom in" });
  const modes = ["Slider", "Side by side", "Result"].map((name) => button(name, () => setMode(name)));
  const setMode = (name) => {
    frame.dataset.mode = name;
    modes.forEach((mode) => mode.setAttribute("aria-pressed", String(mode.textContent === name)));
    slider.hidden = name !== "Slider";
  };
  const slider = element("div", { className: "slider" },
    element("label", { for: split.id }, "Before / after"), split);
  split.addEventListener("input", () => setSplit(split.value));
  view.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType === "touch" && zoom > 0) return; // a finger scrolls by itself
    const moves = zoom > 0 || frame.dataset.mode !== "Slider";
    const from = [event.clientX + view.scrollLeft, event.clientY + view.scrollTop];
    const move = (now) => {
      const box = frame.getBoundingClientRect();
      if (moves) view.scrollTo(from[0] - now.clientX, from[1] - now.clientY);
      else setSplit(Math.round(((now.clientX - box.left) / box.width) * 100));
    };
    if (!moves) move(event);
    view.setPointerCapture(event.pointerId);
    view.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) view.addEventListener(name, () => view.removeEventListener("pointermove", move), { once: true });
  });
  setSplit(50);
  setMode(before ? "Slider" : "Result");
  setZoom(0);
  return element("div", { className: "compared" },
    element("div", { className: "row tools" },
      before && element("div", { className: "segmented", role: "group", "aria-label": "View" }, ...modes),
      element("div", { className: "zoom", role: "group", "aria-label": "Zoom" }, out, shown, closer),
      element("a", { className: "button primary", href: image.url, download: `tryon-${image.seed ?? "result"}.${image.format}` }, "Download")),
    view, slider);
}

const seconds = (value) => `${value.toFixed(value < 10 ? 2 : 1)} s`;
const fact = (name, value) => [element("dt", {}, name), element("dd", {}, value)];

function facts(image, reply, useSeed) {
  const { timings, warnings = [], workflow, id } = reply;
  const { report } = image;
  const seed = image.seed !== null && element("span", { className: "row" }, String(image.seed),
    button("Use again", () => useSeed(String(image.seed)), { className: "small" }),
    button("Copy", () => copy(String(image.seed)), { className: "small", "aria-label": "Copy the seed" }));
  const rows = [
    ["Seed", seed],
    ["Time", `${seconds(timings.total_s)} in all: ${seconds(timings.queue_s)} waiting, ${seconds(timings.execute_s)} working`],
    ["Image", `${image.width} × ${image.height}, ${image.format.toUpperCase()}`],
    ["Changed", report && `${(report.changed * 100).toFixed(1)} % of the pixels`],
    ["Colour", report && report.colour_difference !== null && `${report.colour_difference.toFixed(1)} from the garment's (CIEDE2000; below 3 is hard to see)`],
    ["Sampler saw", report && `${report.window[2]} × ${report.window[3]} pixels, from ${report.window[0]}, ${report.window[1]}`],
    ["Workflow", `${workflow.name}, version ${workflow.version}`],
    ["Request", id],
  ];
  return element("div", {},
    warnings.length > 0 && element("ul", { className: "warnings" }, ...warnings.map(({ code, message }) => element("li", { title: code }, message))),
    element("dl", { className: "facts" }, ...rows.filter(([, value]) => value).flatMap(([name, value]) => fact(name, value))));
}
