"use strict";
const AT_A_TIME = 4;
const element = (id) => document.getElementById(id);
const model = element("model"), results = element("results");
const rows = [];
const waiting = []; // files that were given before a model was chosen
let generation = 0; // of results; a new one begins when they are cleared
let server = { models: [], grpc_port: 0, tls: false };
let queue = Promise.resolve();

const made = (tag, text = "", className = "") => {
  const node = document.createElement(tag);
  node.textContent = text;
  node.className = className;
  return node;
};

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (element("token").value) headers.authorization = `Bearer ${element("token").value}`;
  const response = await fetch(path, { ...options, headers });
  element("token-field").hidden &&= response.status !== 401;
  const text = await response.text();
  let body;
  try { body = JSON.parse(text); } catch { body = { error: text || response.statusText }; }
  if (!response.ok) throw new Error(body.error ?? response.statusText);
  return body;
}

function show(problem) {
  element("problem").textContent = problem;
  element("problem").hidden = !problem;
}

async function start() {
  try {
    server = await call("/v1/models");
    const ready = server.models.filter((one) => one.state === "READY");
    model.replaceChildren(...ready.map((one) => {
      const option = made("option", `${one.name}, version ${one.version}`);
      option.value = `${encodeURIComponent(one.name)}/versions/${encodeURIComponent(one.version)}`;
      return option;
    }));
    show(ready.length ? "" : "No model is ready.");
    await describe();
    if (model.value) add(waiting.splice(0));
  } catch (error) {
    show(error.message);
  }
}

async function describe() {
  const chosen = model.value;
  if (!chosen) return;
  const about = await call(`/v1/models/${chosen}`);
  if (chosen !== model.value) return;
  const accuracy = about.metrics.val_accuracy;
  element("about").textContent = `${about.labels.length} classes; images of ${about.input_height} x ${about.input_width} pixels; ${about.precision}`
    + (accuracy === undefined ? "" : `; ${(100 * accuracy).toFixed(1)} % of the validation images correct`);
  const secret = element("token-field").hidden ? "" : " -H 'Authorization: Bearer TOKEN'";
  element("curl").textContent = `curl${secret} --data-binary @image.jpg '${location.origin}/v1/models/${model.value}:classify'`;
  element("grpcurl").parentElement.hidden = !server.grpc_port; // 0: only on a Unix socket
  const plain = server.tls ? "" : " -plaintext";
  const target = `${location.hostname}:${server.grpc_port}`;
  const version = about.version ? `, "version": "${about.version}"` : "";
  element("grpcurl").textContent = `echo '{"model": "${about.name}"${version}, "images": ["'$(base64 -w0 image.jpg)'"]}' | `
    + `grpcurl${plain}${secret} -d @ ${target} unfreeze.v1.Classifier/Predict`;
}

function add(files) {
  if (!model.value) {
    waiting.push(...files);
    return;
  }
  const list = [...files], started = generation;
  const next = () => {
    const file = list.shift();
    return file === undefined || generation !== started ? undefined : classify(file).then(next);
  };
  queue = queue.then(() => Promise.all(Array.from({ length: AT_A_TIME }, next)));
}

async function classify(file) {
  const began = generation;
  const item = made("li"), image = made("img"), text = made("div");
  image.alt = "";
  image.src = URL.createObjectURL(file);
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  image.addEventListener("error", () => { image.hidden = true; });
  text.append(made("h3", file.name || "pasted image"));
  item.append(image, text);
  results.prepend(item);
  const row = { file: file.name };
  rows.push(row);
  const started = performance.now();
  try {
    const answer = await call(`/v1/models/${model.value}:classify?top_k=${Number(element("top").value) || 5}`, {
      method: "POST", body: file, headers: { "content-type": "application/octet-stream" },
    });
    const whole = performance.now() - started;
    const [{ labels, unsure, out_of_distribution, ood_score }] = answer.predictions;
    Object.assign(row, { label: labels[0].label, score: labels[0].score, unsure, out_of_distribution, ood_score, model: answer.model, version: answer.version });
    text.append(bars(labels));
    text.append(made("p", `${out_of_distribution ? "unlike the training images; " : ""}${unsure ? "unsure; " : ""}${answer.model}, version ${answer.version}, answered in `
      + `${answer.milliseconds.toFixed(1)} ms; ${whole.toFixed(0)} ms with the way there and back`, "soft"));
  } catch (error) {
    row.error = error.message;
    text.append(made("p", error.message, "refused"));
  }
  if (began !== generation) return;
  const failed = rows.filter((one) => one.error !== undefined).length, done = rows.filter((one) => one.label !== undefined).length;
  element("count").textContent = `${done} classified${failed ? `, ${failed} refused` : ""}`;
  element("summary").hidden = false;
}

function bars(labels) {
  const list = made("ol");
  for (const { label, score } of labels) {
    const line = made("li"), name = made("span", label), bar = made("meter"), value = made("data", `${(100 * score).toFixed(1)} %`);
    bar.value = score;
    bar.setAttribute("aria-label", label);
    value.value = score;
    name.append(bar);
    line.append(name, value);
    list.append(line);
  }
  return list;
}

function cell(value) {
  const text = String(value ?? "");
  const safe = /^[=+@\t\r-]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text; // no formula in a spreadsheet
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

element("csv").addEventListener("click", () => {
  const columns = ["file", "label", "score", "unsure", "out_of_distribution", "ood_score", "model", "version", "error"];
  const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))];
  const link = made("a");
  link.download = "predictions.csv";
  link.href = URL.createObjectURL(new Blob([lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n"], { type: "text/csv" }));
  link.click();
  URL.revokeObjectURL(link.href);
});
element("clear").addEventListener("click", () => {
  generation += 1;
  rows.length = 0;
  results.replaceChildren();
  element("summary").hidden = true;
});
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = element(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch { // without HTTPS, browsers allow it on this machine only
      getSelection().selectAllChildren(text);
    }
  });
}
for (const id of ["files", "camera"]) {
  element(id).addEventListener("change", (event) => { add(event.target.files); event.target.value = ""; });
}
model.addEventListener("change", () => describe().catch((error) => show(error.message)));
element("token").addEventListener("change", start);
element("options").addEventListener("submit", (event) => event.preventDefault());
addEventListener("paste", (event) => add(event.clipboardData.files));
addEventListener("dragover", (event) => { event.preventDefault(); element("drop").classList.add("over"); });
addEventListener("dragleave", () => element("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
start();
