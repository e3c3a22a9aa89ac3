// In ComfyUI's web page: publishes the open graph as a try-on workflow and lists what is published; widths and colours
// of the pack's nodes.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const KEY = "tryon.key"; // in the tab's own storage only
const WIDTHS = {
  TryOnLoadCatVTON: 420,
  TryOnLoadAutoMasker: 360,
  TryOnCatVTON: 300,
  TryOnAutoMasker: 300,
  TryOnPersonImage: 280,
  TryOnGarmentImage: 280,
  TryOnMaskImage: 280,
  TryOnCrop: 280,
  TryOnPaste: 260,
  TryOnRepaint: 260,
  TryOnOutput: 360,
};
const COLOURS = {
  TryOnPersonImage: "green",
  TryOnGarmentImage: "green",
  TryOnMaskImage: "green",
  TryOnOutput: "purple",
};
const STYLE = `
  .tryon { padding: 1rem; display: flex; flex-direction: column; gap: 0.75rem; height: 100%; overflow-y: auto; }
  .tryon h3 { margin: 0; font-size: 1rem; }
  .tryon p { margin: 0.25rem 0; font-size: 0.85rem; overflow-wrap: anywhere; }
  .tryon article { border: 1px solid var(--border-color); border-radius: 6px; padding: 0.6rem; }
  .tryon .problem { color: var(--error-text); }
  .tryon button { border: 1px solid var(--border-color); border-radius: 4px; background: var(--comfy-input-bg);
    color: var(--input-text); padding: 0.3rem 0.7rem; margin-right: 0.4rem; cursor: pointer; }
`;

let shown; // the sidebar's element, once it has been opened

function say(severity, detail) {
  app.extensionManager.toast.add({
    severity,
    summary: "Try-on",
    detail,
    life: severity === "error" ? undefined : 8000,
  });
}

// Returns the reply's JSON, or null for an empty one; asks for the server's key if it wants one.
async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  const reply = await api.fetchApi(`/v1/workflows${path}`, { ...options, headers }).catch((error) => {
    throw new Error(`The server did not answer: ${error.message}`);
  });
  const content = await reply.json().catch(() => null);
  if (reply.ok) return content;
  if (reply.status === 401 && /X-API-Key/.test(content?.error?.message)) {
    const given = await app.extensionManager.dialog.prompt({
      title: "The try-on API asks for its key",
      message: "TRYON_API_KEY:", // a second line would cover the field
    });
    if (given?.trim()) {
      sessionStorage.setItem(KEY, given.trim());
      return call(path, options);
    }
  }
  throw new Error(content?.error?.message ?? `The server answered ${reply.status}.`);
}

function proposedName() {
  const opened = app.extensionManager.workflow?.activeWorkflow?.filename ?? "";
  return opened.replace(/[^A-Za-z0-9._-]+/g, "_").replace(/^[^A-Za-z0-9]+|_+$/g, "").slice(0, 64) || "my_workflow";
}

function taken(workflow) {
  const masks = { required: ["mask_image (required)"], optional: ["mask_image"], none: [] };
  return [...Object.keys(workflow.parameters ?? {}), ...(masks[workflow.mask] ?? [])].join(", ") || "nothing";
}

function verdict(workflow) {
  return `"${workflow.name}" is published, version ${workflow.version}. Besides the images, it takes ${taken(workflow)}.`;
}

// Shows what went wrong in `action` instead of leaving it to the console.
function shielded(action) {
  return async (...given) => {
    try {
      await action(...given);
    } catch (error) {
      say("error", error.message);
    }
  };
}

const publish = shielded(async () => {
  const { workflow, output } = await app.graphToPrompt();
  const given = await app.extensionManager.dialog.prompt({
    title: "Publish as try-on workflow",
    message: "Requests name it in their field workflow:",
    defaultValue: proposedName(),
  });
  const name = given?.trim();
  if (!name) return;
  if (!NAME.test(name)) {
    throw new Error(`"${name}" cannot be a name: use up to 64 of A-Z a-z 0-9 . _ -, a letter or digit first.`);
  }
  const { workflows } = await call("");
  if (workflows.some((found) => found.name === name)) {
    const agreed = await app.extensionManager.dialog.confirm({
      title: "Replace the published workflow?",
      message: `"${name}" is published already. Requests for it will run the graph that is open here.`,
      type: "overwrite",
    });
    if (!agreed) return;
  }
  const published = await call(`/${name}`, {
    method: "PUT",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ workflow, prompt: output }),
  });
  say("success", verdict(published));
  refresh();
});

const open = shielded(async (name) => {
  const { workflow, prompt } = await call(`/${name}/graph`);
  if (workflow) await app.loadGraphData(workflow, true, true, name);
  else await app.loadApiJson(prompt, name);
});

const withdraw = shielded(async (name) => {
  const agreed = await app.extensionManager.dialog.confirm({
    title: "Withdraw the workflow?",
    message: `Requests for "${name}" will be refused, and its file is deleted.`,
    type: "delete",
  });
  if (!agreed) return;
  await call(`/${name}`, { method: "DELETE" });
  say("success", `"${name}" is withdrawn.`);
  refresh();
});

function element(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...properties });
}

function entry(workflow) {
  const article = element("article", "");
  article.append(element("h3", workflow.name + (workflow.default ? " (default)" : "")));
  if (workflow.version) article.append(element("p", `Version ${workflow.version}. Takes ${taken(workflow)}.`));
  if (workflow.problem) article.append(element("p", workflow.problem, { className: "problem" }));
  for (const [label, action] of [["Open", open], ["Withdraw", withdraw]]) {
    article.append(element("button", label, { onclick: () => action(workflow.name) }));
  }
  return article;
}

const refresh = shielded(async () => {
  if (!shown) return;
  const { workflows } = await call("");
  shown.replaceChildren(
    element("style", STYLE),
    element("button", "Publish the open graph", { onclick: publish }),
    element("p", "POST /api/v1/tryon runs these workflows:"),
    ...workflows.map(entry),
  );
});

app.registerExtension({
  name: "tryon",
  commands: [
    { id: "tryon.publish", label: "Publish as try-on workflow", icon: "pi pi-cloud-upload", function: publish },
  ],
  menuCommands: [{ path: ["Try-on"], commands: ["tryon.publish"] }],
  setup() {
    app.extensionManager.registerSidebarTab({
      id: "tryon",
      icon: "pi pi-cloud-upload",
      title: "Try-on",
      tooltip: "Try-on workflows",
      type: "custom",
      render(parent) {
        shown = element("div", "", { className: "tryon" });
        parent.replaceChildren(shown);
        refresh();
      },
    });
  },
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
