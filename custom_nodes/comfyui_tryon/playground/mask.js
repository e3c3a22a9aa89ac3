// Painting a mask over the person: white where the garment may go.

import { button, dialog, element, newId } from "./dom.js";

const LONGEST_SIDE = 1536;
const COLOUR = "#e0457b";

// Lets the user paint, beginning with `strokes`; resolves with the strokes, or with null if they are to stay as they are.
export function paint(person, strokes) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(person.width, person.height));
  const width = Math.round(person.width * scale);
  const height = Math.round(person.height * scale);
  return dialog("Paint where the garment goes", (close, shown) => {
    const painting = [...strokes];
    const canvas = element("canvas", { width, height, tabIndex: 0, role: "application", "aria-label": "Mask. The arrow keys move the brush, the space bar paints, and shift with an arrow key paints a line." });
    const ring = element("div", { className: "brush" });
    const announce = element("p", { className: "visually-hidden", role: "status" });
    const size = element("input", { type: "range", id: newId("size"), min: 2, max: 40, value: 10 });
    const brush = () => (size.value / 100) * Math.min(width, height);
    let erasing = false;
    let current = null;
    let place = [width / 2, height / 2];

    const redraw = () => {
      draw(canvas, painting, COLOUR);
      undo.disabled = clear.disabled = painting.length === 0;
    };
    const showRing = () => {
      ring.style.left = `${(place[0] / width) * 100}%`;
      ring.style.top = `${(place[1] / height) * 100}%`;
      ring.style.width = `${(brush() / width) * 100}%`;
    };
    const dab = (points) => {
      painting.push({ erasing, size: brush() / width, points: points.map(([x, y]) => [x / width, y / height]) });
      redraw();
    };
    const modes = [["Paint", false], ["Erase", true]].map(([text, value]) =>
      button(text, () => {
        erasing = value;
        modes.forEach((mode, index) => mode.setAttribute("aria-pressed", String(Boolean(index) === erasing)));
      }, { "aria-pressed": String(!value) }));
    const undo = button("Undo", () => {
      painting.pop();
      redraw();
    });
    const clear = button("Clear", () => {
      painting.length = 0;
      redraw();
    });

    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      canvas.focus();
      canvas.setPointerCapture(event.pointerId);
      place = at(event);
      dab([place]);
      current = painting.at(-1);
      showRing();
    });
    canvas.addEventListener("pointermove", (event) => {
      place = at(event);
      showRing();
      if (!current) return;
      current.points.push([place[0] / width, place[1] / height]);
      redraw();
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (current = null));
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === " ") {
        dab([place]);
        announce.textContent = `${erasing ? "Erased" : "Painted"} at ${percent(place[0], width)} across, ${percent(place[1], height)} down.`;
      } else if (move) {
        const from = place;
        const step = brush() / 2;
        place = [clamp(place[0] + move[0] * step, width), clamp(place[1] + move[1] * step, height)];
        if (event.shiftKey) dab([from, place]);
      } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
        undo.click();
      } else return;
      event.preventDefault();
      showRing();
    });
    size.addEventListener("input", showRing);
    shown.addEventListener("keydown", (event) => {
      if (event.key === "[" || event.key === "]") {
        size.value = Number(size.value) + (event.key === "]" ? 2 : -2);
        showRing();
      }
    });

    const board = element("div", { className: "board" }, element("img", { src: person.url, alt: "", draggable: false }), canvas, ring);
    board.style.setProperty("--ratio", width / height);
    redraw();
    showRing();
    return element("div", { className: "column" },
      element("div", { className: "row tools" },
        element("div", { className: "segmented", role: "group", "aria-label": "Brush" }, ...modes),
        element("label", { for: size.id }, "Size"), size, undo, clear),
      board, announce,
      element("div", { className: "row end" }, button("Cancel", () => close()), button("Use this mask", () => close(painting), { className: "primary" })));
  }, "painting");
}

const clamp = (value, most) => Math.min(Math.max(value, 0), most);
const percent = (value, most) => `${Math.round((value / most) * 100)} %`;

// Draws strokes, whose measures are shares of the width and height, in one colour on a transparent canvas.
function draw(canvas, strokes, colour) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = colour;
  for (const { erasing, size, points } of strokes) {
    context.globalCompositeOperation = erasing ? "destination-out" : "source-over";
    context.lineWidth = size * width;
    context.beginPath();
    points.forEach(([x, y]) => context.lineTo(x * width, y * height));
    if (points.length === 1) context.lineTo(points[0][0] * width + 0.01, points[0][1] * height);
    context.stroke();
  }
  context.globalCompositeOperation = "source-over";
}

// Returns the strokes as a white and black PNG in the person's frame; null if nothing is painted.
export async function maskFile(person, strokes) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(person.width, person.height));
  const canvas = element("canvas", { width: Math.round(person.width * scale), height: Math.round(person.height * scale) });
  draw(canvas, strokes, "white");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  if (!data.some((value, index) => index % 4 === 3 && value > 127)) return null;
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "black";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], "mask.png", { type: "image/png" });
}
