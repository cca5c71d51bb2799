"use strict";
const element = (id) => document.getElementById(id);
const input = element("label"), matches = element("matches");
const MOST_MATCHES = 50;
let state = null; // what the server has said last
let busy = false; // a decision is being stored
let typing = false; // digits belong to a name
let active = -1; // index of the chosen match
let confirming = ""; // a new class that Enter creates when pressed again

const made = (tag, text = "", className = "") => {
  const node = document.createElement(tag);
  node.textContent = text;
  node.className = className;
  return node;
};

const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

function show(problem) {
  element("problem").textContent = problem;
  element("problem").hidden = !problem;
}

async function call(path, document) {
  const options = document === undefined ? {} : {
    method: "POST", body: JSON.stringify(document), headers: { "content-type": "application/json" },
  };
  let response;
  try { response = await fetch(path, options); } catch { throw new Error("the review has ended; start it again with unfreeze review"); }
  const answer = await response.json().catch(() => ({ error: response.statusText }));
  if (!response.ok) throw new Error(answer.error ?? response.statusText);
  return answer;
}

async function change(path, document, said) {
  if (busy) return;
  busy = true;
  try {
    state = await call(path, document);
    show("");
    draw();
    element("status").textContent = `${said}${state.image ? ` Next: probably ${state.image.scores[0].label}.` : ""}`;
  } catch (error) {
    show(error.message);
  } finally {
    busy = false;
  }
}

const decide = (kind, label, said) => state?.image && change("decide", { digest: state.image.digest, kind, label }, said);
const choose = (label) => decide("label", label, `Stored: ${label}.`);
const confirm = () => choose(state.image.scores[0].label);
const none = () => decide("none", "", "Stored: none of these.");
const skip = () => decide("skip", "", "Skipped.");
const undo = () => state?.can_undo && change("undo", {}, "Taken back.");

function draw() {
  const { image, images, left } = state;
  element("progress").max = Math.max(images, 1);
  element("progress").value = images - left;
  element("count").textContent = `${count(images - left, "image")} of ${images.toLocaleString("en")} decided`
    + (state.unusable ? `; ${count(state.unusable, "image")} cannot be decoded` : "");
  element("work").hidden = !image;
  element("finished").hidden = Boolean(image);
  for (const id of ["undo", "undo-last"]) element(id).disabled = !state.can_undo;
  if (!image) {
    element("finished-title").textContent = left ? `${count(left, "image")} skipped` : "All images are decided";
    element("finished-text").textContent = `${count(state.labeled, "image")} labeled, ${state.none.toLocaleString("en")} of no class.`
      + (left ? " Start the review again to see those that were skipped." : "");
    element("finished-title").focus();
    return;
  }
  const [first] = image.scores;
  element("image").src = `images/${image.digest}`;
  element("image").alt = `The image to label; the model says ${first.label}`;
  element("image").dataset.digest = image.digest;
  if (state.next) new Image().src = `images/${state.next}`; // so that it is there at once
  const why = image.reasons.length ? `kept because: ${image.reasons.join(", ")}; ` : "";
  element("about").textContent = `${why}answered ${count(image.seen, "time")}, first at ${image.time} by version ${image.version}`;
  element("predicted").textContent = first.label;
  element("scores").replaceChildren(...image.scores.map(({ label, score }, index) => scored(label, score, index)));
  clear();
  input.focus();
}

function scored(label, score, index) {
  const item = made("li"), button = made("button"), bar = made("meter");
  button.type = "button";
  bar.value = score;
  bar.setAttribute("aria-hidden", "true");
  button.append(made("kbd", String(index + 1)), made("span", label), made("span", `${(100 * score).toFixed(1)} %`), bar);
  button.addEventListener("click", () => choose(label));
  item.append(button);
  return item;
}

function clear() {
  input.value = "";
  typing = false;
  complete();
}

function found() {
  const text = input.value.trim().toLowerCase();
  if (!text) return [];
  const begins = state.labels.filter((label) => label.toLowerCase().startsWith(text));
  const contains = state.labels.filter((label) => !begins.includes(label) && label.toLowerCase().includes(text));
  return [...begins, ...contains].slice(0, MOST_MATCHES);
}

function complete() {
  confirming = "";
  const labels = found();
  active = labels.length ? 0 : -1;
  matches.replaceChildren(...labels.map((label, index) => {
    const item = made("li", label);
    item.id = `match-${index}`;
    item.setAttribute("role", "option");
    item.addEventListener("click", () => choose(label));
    return item;
  }));
  matches.hidden = !labels.length;
  input.setAttribute("aria-expanded", String(labels.length > 0));
  mark();
}

function mark() {
  [...matches.children].forEach((item, index) => item.setAttribute("aria-selected", String(index === active)));
  if (active < 0) input.removeAttribute("aria-activedescendant");
  else {
    input.setAttribute("aria-activedescendant", `match-${active}`);
    matches.children[active].scrollIntoView({ block: "nearest" });
  }
}

function enter() {
  const name = input.value.trim();
  if (!name) return confirm();
  const exact = state.labels.find((label) => label.toLowerCase() === name.toLowerCase());
  if (exact !== undefined && active <= 0) return choose(exact);
  if (active >= 0) return choose(matches.children[active].textContent);
  if (confirming === name) return choose(name);
  confirming = name;
  element("status").textContent = `There is no class ${name} yet. Press Enter again to create it.`;
}

const move = (step) => {
  if (!matches.children.length) return;
  active = (active + step + matches.children.length) % matches.children.length;
  mark();
};

addEventListener("keydown", (event) => {
  if (!state || event.altKey || event.metaKey) return;
  if (event.ctrlKey) {
    if (event.key === "z" && !input.value) { event.preventDefault(); undo(); }
    return;
  }
  const elsewhere = event.target !== input;
  if (elsewhere && event.target.tagName === "BUTTON" && (event.key === "Enter" || event.key === " ")) return; // presses it
  if (!state.image) {
    if (event.key === "Backspace") { event.preventDefault(); undo(); }
    return;
  }
  const empty = !input.value && !typing;
  const commands = { Enter: enter, Escape: clear, ArrowDown: () => move(1), ArrowUp: () => move(-1) };
  const alone = { " ": skip, "-": none, Backspace: undo, Delete: none, "/": () => { typing = true; input.focus(); } };
  const command = commands[event.key] ?? (empty ? alone[event.key] : undefined);
  if (command) {
    event.preventDefault();
    if (!event.repeat || command === commands.ArrowDown || command === commands.ArrowUp) command();
  } else if (empty && /^[1-9]$/.test(event.key)) {
    event.preventDefault();
    const picked = state.image.scores[Number(event.key) - 1];
    if (picked && !event.repeat) choose(picked.label);
  } else if (elsewhere && event.key.length === 1) input.focus(); // the letter goes there
});
input.addEventListener("input", complete);
element("image").addEventListener("error", () => { if (state?.image) show("This image cannot be shown; skip it, or say that it belongs to no class."); });
for (const [id, action] of Object.entries({ confirm, none, skip, undo, "undo-last": undo })) element(id).addEventListener("click", action);
element("done").addEventListener("click", async () => {
  try { await call("done", {}); } catch { /* it has ended already */ }
  element("work").hidden = element("finished").hidden = true;
  element("status").textContent = "The review has ended. This page can be closed.";
  state = null;
});
call("state").then((answer) => { state = answer; draw(); }).catch((error) => show(error.message));
