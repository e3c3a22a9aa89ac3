// The request as code: curl, Python, JavaScript, each complete.

import { addressOf, hasKey } from "./api.js";
import { button, copy, element } from "./dom.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const literal = (text) => JSON.stringify(text); // the same in Python and JavaScript
// Whether the reply may be the image itself.
const single = (request) => !request.fields.some(([name, value]) => name === "num_images" && value !== "1");

// curl takes commas, semicolons and quotes in a file's name for its own.
function fileOfCurl(name, file) {
  const path = /[,;"\\]/.test(file) ? `"${file.replace(/["\\]/g, "\\$&")}"` : file;
  return `  -F ${quoted(`${name}=@${path}`)}`;
}

function curl(request) {
  const format = request.fields.find(([name]) => name === "output_format")?.[1] ?? "png";
  return [
    `curl --fail-with-body ${addressOf("api/v1/tryon")}`,
    ...(request.key ? ['  -H "X-API-Key: $TRYON_API_KEY"'] : []),
    ...(single(request) ? [`  -H ${quoted(`Accept: image/${format}`)}`] : []),
    ...request.files.map(([name, file]) => fileOfCurl(name, file)),
    ...request.fields.map(([name, value]) => `  -F ${quoted(`${name}=${value}`)}`),
    single(request) ? `  -o result.${format}` : "  -o result.json",
  ].join(" \\\n");
}

function python(request) {
  return `import base64
${request.key ? "import os\n" : ""}
import requests  # pip install requests

reply = requests.post(
    ${literal(addressOf("api/v1/tryon"))},${request.key ? '\n    headers={"X-API-Key": os.environ["TRYON_API_KEY"]},' : ""}
    files=[
${request.files.map(([name, file]) => `        (${literal(name)}, open(${literal(file)}, "rb")),`).join("\n")}
    ],${request.fields.length ? `
    data=[
${request.fields.map(([name, value]) => `        (${literal(name)}, ${literal(value)}),`).join("\n")}
    ],` : ""}
    timeout=300,
)
if not reply.ok:
    raise SystemExit(reply.text)
for number, image in enumerate(reply.json()["output"]["images"]):
    with open(f"result-{number}.{image['format']}", "wb") as file:
        file.write(base64.b64decode(image["image"]))
    print(file.name, "seed", image["seed"])
`;
}

function javascript(request) {
  return `// Node 20 or later: save as tryon.mjs and run node tryon.mjs
import { readFile, writeFile } from "node:fs/promises";

const form = new FormData();
${request.files.map(([name, file]) => `form.append(${literal(name)}, new Blob([await readFile(${literal(file)})]), ${literal(file)});`).join("\n")}
${request.fields.map(([name, value]) => `form.append(${literal(name)}, ${literal(value)});\n`).join("")}
const reply = await fetch(${literal(addressOf("api/v1/tryon"))}, {
  method: "POST",${request.key ? '\n  headers: { "X-API-Key": process.env.TRYON_API_KEY },' : ""}
  body: form,
});
if (!reply.ok) throw new Error(await reply.text());
const text = (await reply.text()).replace(/"seed":\\s*(\\d{16,})/g, '"seed":"$1"'); // too long for a number
const { output } = JSON.parse(text);
for (const [number, image] of output.images.entries()) {
  const name = \`result-\${number}.\${image.format}\`;
  await writeFile(name, Buffer.from(image.image, "base64"));
  console.log(name, "seed", image.seed);
}
`;
}

const LANGUAGES = { curl, Python: python, JavaScript: javascript };

// Puts the code into `place`; returns a function that shows it for another request.
export function snippets(place) {
  let request = { files: [], fields: [] };
  let language = "curl";
  const code = element("code");
  const said = element("span", { role: "status", className: "said" });
  const choices = Object.keys(LANGUAGES).map((name) => button(name, () => {
    language = name;
    show();
  }));
  const show = () => {
    choices.forEach((choice) => choice.setAttribute("aria-pressed", String(choice.textContent === language)));
    code.textContent = LANGUAGES[language]({ ...request, key: hasKey() });
    said.textContent = "";
  };
  place.append(
    element("div", { className: "row tools" },
      element("div", { className: "segmented", role: "group", "aria-label": "Language" }, ...choices),
      button("Copy", async () => {
        await copy(code.textContent);
        said.textContent = `Copied as ${language}`;
      }, { id: "copy" }), said),
    element("pre", { tabIndex: 0, role: "region", "aria-label": "Code of this request" }, code));
  show();
  return (changed) => {
    request = changed;
    show();
  };
}
