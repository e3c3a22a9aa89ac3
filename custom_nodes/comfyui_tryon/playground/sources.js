// Where images come from: files, drops, the clipboard, the camera, and the samples.

import { button, dialog, element, newId } from "./dom.js";

const IMAGE_NAME = /\.(png|jpe?g|webp|avif|heic|heif|jxl|bmp|tiff?|gif)$/i;

const isImage = (file) => file.type.startsWith("image/") || IMAGE_NAME.test(file.name);

// Returns what the page knows about an image; width and height, turned upright, only if the browser can show it.
export async function loaded(file, name = file.name) {
  const url = URL.createObjectURL(file);
  const image = new Image();
  image.src = url;
  const shown = await image.decode().then(() => true, () => false);
  return { file, name: name || "image.png", url, ...(shown ? { width: image.naturalWidth, height: image.naturalHeight } : {}) };
}

export function forget(image) {
  if (image) URL.revokeObjectURL(image.url);
}

const filesOf = (transfer) => [...(transfer?.files ?? [])];

// Returns an element by which one image, or several if `several`, can be chosen; they go to `take(files)`, which returns
// what to say of those that it left out. What cannot be used is said in `problem`, which stays when the picker goes.
export function picker({ what, sample, several = false, take, problem }) {
  const give = async (files) => {
    problem.textContent = "";
    const images = files.filter(isImage);
    const others = files.filter((file) => !isImage(file)).map(({ name }) => name).join(", ");
    const leftOut = images.length > 0 && (await take(images));
    const said = [others && `${others}: not an image. Choose PNG, JPEG, WebP, AVIF, HEIC or JPEG XL files.`, leftOut];
    if (said.some(Boolean)) problem.textContent = said.filter(Boolean).join(" ");
  };
  const input = element("input", { type: "file", accept: "image/*,.heic,.heif,.avif,.jxl", multiple: several, className: "visually-hidden", id: newId("file") });
  input.addEventListener("change", async () => {
    await give([...input.files]);
    input.value = "";
  });
  const zone = element("div", { className: "picker", role: "group", "aria-label": `Choose the ${what} image` },
    element("p", { className: "hint" }, "Drop an image here, paste one, or"),
    element("div", { className: "row center" },
      element("span", { className: "file" }, input, element("label", { for: input.id, className: "button" }, "Choose a file", element("span", { className: "visually-hidden" }, ` for the ${what}`))),
      button("Camera", async () => {
        const file = await photograph(what);
        if (file) await give([file]);
      }, { "aria-label": `Camera, for the ${what}` })),
    sample && sampleButton(what, sample, give));
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    zone.classList.remove("over");
    const files = filesOf(event.dataTransfer);
    if (files.length) give(files);
  });
  zone.give = give;
  return zone;
}

function sampleButton(what, sample, give) {
  const picture = element("img", { src: sample, alt: "", width: 36, height: 48 });
  return element("button", {
    type: "button", className: "sample",
    onclick: async () => {
      const response = await fetch(sample);
      if (!response.ok) return;
      await give([new File([await response.blob()], sample.split("/").pop(), { type: "image/png" })]);
    },
  }, picture, `Use the sample ${what}`);
}

// Sends what is pasted anywhere, or dropped beside the pickers, to `take(files, target)`.
export function catchAll(take) {
  document.addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if (!files.length || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    take(files, event.target);
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    const files = filesOf(event.dataTransfer);
    if (files.length && !document.querySelector("dialog[open]")) take(files, event.target);
  });
}

const CAMERA_PROBLEMS = {
  NotAllowedError: "The browser does not let this page use the camera. Allow it in the browser's settings for this site, or choose a file.",
  NotFoundError: "No camera was found. Choose a file instead.",
  NotReadableError: "Another program is using the camera. Close it and try again, or choose a file.",
};

// Resolves with a photograph from the camera, or null.
async function photograph(what) {
  if (!navigator.mediaDevices?.getUserMedia) {
    await dialog("Camera", (close) => element("div", { className: "column" },
      element("p", {}, "Browsers open the camera on https:// and on localhost only. Choose a file instead; a phone offers its camera there too."),
      element("div", { className: "row end" }, button("Close", () => close(), { className: "primary", autofocus: true }))));
    return null;
  }
  let stream = null;
  let facing = "environment";
  const stop = () => stream?.getTracks().forEach((track) => track.stop());
  const file = await dialog(`Photograph the ${what}`, (close) => {
    const video = element("video", { autoplay: true, playsInline: true, muted: true, "aria-label": "What the camera sees" });
    const message = element("p", { role: "status" }, "Opening the camera…");
    const shoot = button("Take the photograph", () => {
      const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.toBlob((blob) => close(new File([blob], `${what}.jpg`, { type: "image/jpeg" })), "image/jpeg", 0.95);
    }, { className: "primary", disabled: true });
    let latest = 0; // the camera may be changed before the one before has opened
    const open = async () => {
      const number = ++latest;
      stop();
      try {
        const opened = await navigator.mediaDevices.getUserMedia({
          video: { facingMode: facing, width: { ideal: 1920 }, height: { ideal: 1920 } },
        });
        if (!video.isConnected || number !== latest) return opened.getTracks().forEach((track) => track.stop());
        stream = opened;
        video.srcObject = stream;
        await video.play();
        message.textContent = "";
        shoot.disabled = false;
      } catch (error) {
        message.textContent = CAMERA_PROBLEMS[error.name] ?? "The camera cannot be opened. Choose a file instead.";
      }
    };
    open();
    const turn = () => {
      facing = facing === "user" ? "environment" : "user";
      open();
    };
    return element("div", { className: "column" }, video, message,
      element("div", { className: "row end" }, button("Other camera", turn), button("Cancel", () => close()), shoot));
  }, "camera");
  stop();
  return file;
}
