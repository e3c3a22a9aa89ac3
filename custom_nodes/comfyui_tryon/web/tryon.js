// In ComfyUI's web page: publishes the open graph as a try-on workflow; widths and colours of the pack's nodes.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const WIDTHS = {
  LoadCatVTONPipeline: 420,
  LoadAutoMasker: 360,
  CatVTON: 300,
  AutoMasker: 300,
  TryOnPersonImage: 280,
  TryOnGarmentImage: 280,
  TryOnMaskImage: 280,
  TryOnRepaint: 260,
  TryOnOutput: 360,
};
const COLOURS = {
  TryOnPersonImage: "green",
  TryOnGarmentImage: "green",
  TryOnMaskImage: "green",
  TryOnOutput: "purple",
};

function say(severity, detail) {
  app.extensionManager.toast.add({
    severity,
    summary: "Try-on",
    detail,
    life: severity === "error" ? undefined : 8000,
  });
}

function proposedName() {
  const opened = app.extensionManager.workflow?.activeWorkflow?.filename ?? "";
  return opened.replace(/[^A-Za-z0-9._-]+/g, "_").replace(/^[^A-Za-z0-9]+|_+$/g, "").slice(0, 64) || "my_workflow";
}

function verdict(workflow) {
  const masks = { required: ["mask_image (required)"], optional: ["mask_image"], none: [] };
  const taken = [...Object.keys(workflow.parameters), ...masks[workflow.mask]].join(", ");
  return `"${workflow.name}" is published, version ${workflow.version}. Besides the images, it takes ${taken || "nothing"}.`;
}

async function publish() {
  const { workflow, output } = await app.graphToPrompt();
  const given = await app.extensionManager.dialog.prompt({
    title: "Publish as try-on workflow",
    message: "Requests name it in their field workflow:",
    defaultValue: proposedName(),
  });
  const name = given?.trim();
  if (!name) return;
  if (!NAME.test(name)) {
    say("error", `"${name}" cannot be a name: use up to 64 of A-Z a-z 0-9 . _ -, a letter or digit first.`);
    return;
  }
  try {
    const reply = await api.fetchApi(`/v1/workflows/${name}`, {
      method: "PUT",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ workflow, prompt: output }),
    });
    const content = await reply.json();
    if (reply.ok) say("success", verdict(content));
    else say("error", content.error?.message ?? `The server answered ${reply.status}.`);
  } catch (error) {
    say("error", `The server did not answer: ${error.message}`);
  }
}

app.registerExtension({
  name: "tryon",
  commands: [
    { id: "tryon.publish", label: "Publish as try-on workflow", icon: "pi pi-cloud-upload", function: publish },
  ],
  menuCommands: [{ path: ["Try-on"], commands: ["tryon.publish"] }],
  nodeCreated(node) {
    const width = WIDTHS[node.comfyClass];
    if (!width) return;
    node.setSize([Math.max(node.size[0], width), node.size[1]]);
    const colour = window.LGraphCanvas?.node_colors?.[COLOURS[node.comfyClass]];
    if (colour) {
      node.color = colour.color;
      node.bgcolor = colour.bgcolor;
    }
  },
});
