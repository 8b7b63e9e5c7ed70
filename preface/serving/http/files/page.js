"use strict";
// The page of a Preface server. It only asks the server that it came from; texts are never put in as HTML.

const $ = (id) => document.getElementById(id);
const SHOWN = 200; // prompts in a list; the filter finds the others
const CARDS = 24;
const ROWS = 64; // of a file that go together
const state = { names: [], mayWrite: false, chosen: new Set(), rows: null, timer: 0, run: null };

// elements

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
}

const percent = (value) => `${(100 * value).toFixed(1)}\u00a0%`;
const score = (value) => (value == null ? "–" : (100 * value).toFixed(1));

// asking the server

async function call(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response.status === 204 ? null : response.json();
  const { error } = await response.json().catch(() => ({ error: { message: response.statusText } }));
  if (response.status === 401) $("access").hidden = false;
  throw new Error(error.message);
}

const post = (path, body) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

async function attempt(work) {
  $("problem").hidden = true;
  try {
    return await work();
  } catch (error) {
    $("problem").textContent = error.message;
    $("problem").hidden = false;
    return null;
  }
}

// tabs

function open(name) {
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    const mine = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", String(mine));
    tab.tabIndex = mine ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !mine;
  }
  if (location.hash.slice(1) !== name) history.replaceState(null, "", `#${name}`);
  clearTimeout(state.timer);
  if (name === "prompts") attempt(showCards);
  if (name === "runs") attempt(showRuns);
}

function moveTab(event) {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
  next.focus();
  open(next.getAttribute("aria-controls"));
}

// the prompts there are

async function load() {
  const found = await call("v1/prompts");
  Object.assign(state, { names: found.data, mayWrite: found.may_write });
  $("access").hidden = true;
  $("sending").hidden = !found.may_write;
  $("about").textContent = `${found.data.length.toLocaleString()} prompts, answered by one frozen ${found.backbone}`;
  for (const name of state.chosen) if (!found.data.includes(name)) state.chosen.delete(name);
  if (!state.chosen.size && found.data.length) state.chosen.add(found.data[0]);
  showChoices();
}

const matching = (part) => state.names.filter((name) => name.toLowerCase().includes(part.toLowerCase()));

function showChoices() {
  const names = matching($("filter").value);
  $("choices").replaceChildren(
    ...names.slice(0, SHOWN).map((name) => {
      const box = make("input", { type: "checkbox", checked: state.chosen.has(name) });
      box.addEventListener("change", () => {
        if (box.checked) state.chosen.add(name);
        else state.chosen.delete(name);
        sayChosen();
      });
      return make("label", {}, box, name);
    }),
  );
  sayChosen(names.length - SHOWN);
}

function sayChosen(hidden = 0) {
  const more = hidden > 0 ? `; ${hidden.toLocaleString()} more match` : "";
  $("chosen").textContent = `${state.chosen.size.toLocaleString()} chosen${more}`;
}

// texts under prompts

async function ask(event) {
  event.preventDefault();
  const models = [...state.chosen];
  const rows = state.rows ?? [$("text").value.trim()];
  if (!models.length || !rows[0]) {
    $("told").textContent = models.length ? "Type a text first." : "Choose a prompt first.";
    return;
  }
  $("go").disabled = true;
  await attempt(() => (state.rows ? askRows(models, rows) : askOne(models, rows[0])));
  $("go").disabled = false;
}

async function askOne(models, text) {
  const began = performance.now();
  const answered = await post("classify", { models, input: text, zero_shot: $("zero").checked });
  const took = performance.now() - began;
  const before = answered.data.filter((answer) => answer.read_before).length;
  const read = before === answered.data.length ? "had been read before" : "was read once";
  $("told").textContent =
    `${answered.data.length} answers in ${took.toFixed(0)} ms (${(1000 * answered.seconds).toFixed(0)} ms of them in the ` +
    `engine); the text of ${answered.usage.prompt_tokens} pieces ${read} for all prompts that leave reading alone` +
    (answered.data.some((answer) => answer.cut) ? "; some prompts read only its beginning" : "");
  $("answers").replaceChildren(
    table(["Prompt", "Answer"], answered.data.map((answer) => make("tr", {}, make("th", { scope: "row" }, answer.model), shown(answer)))),
  );
}

function shown(answer) {
  const pairs = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
  const lines = pairs.slice(0, 5).flatMap(([label, value], place) => [
    make("span", { className: place ? "" : "first" }, label),
    make("meter", { min: 0, max: 1, value, title: percent(value), "aria-label": `${label}: ${percent(value)}` }),
    make("span", { className: "share" }, percent(value)),
  ]);
  return make("td", {}, make("div", { className: "answer" }, ...lines));
}

async function askRows(models, rows) {
  const labels = [];
  const began = performance.now();
  for (let start = 0; start < rows.length; start += ROWS) {
    const answered = await post("classify", { models, input: rows.slice(start, start + ROWS) });
    for (const answer of answered.data) (labels[start + answer.index] ??= []).push(answer);
    const seconds = (performance.now() - began) / 1000;
    $("told").textContent = `${labels.length.toLocaleString()} of ${rows.length.toLocaleString()} rows, ${(labels.length / seconds).toFixed(0)} a second`;
  }
  const body = labels.slice(0, SHOWN).map((answers, row) =>
    make("tr", {}, make("td", {}, rows[row]), ...answers.map((answer) => make("td", {}, `${answer.label} ${percent(Math.max(...answer.probs))}`))),
  );
  const csv = [["text", ...models], ...labels.map((answers, row) => [rows[row], ...answers.map((answer) => answer.label)])];
  const link = make("a", { href: URL.createObjectURL(new Blob([written(csv)], { type: "text/csv" })), download: "labels.csv" }, "all labels as CSV");
  $("answers").replaceChildren(make("p", {}, link), table(["Text", ...models], body));
}

// files

const written = (rows) => rows.map((row) => row.map((cell) => `"${String(cell).replaceAll('"', '""')}"`).join(",")).join("\r\n");

function parsed(text) {
  const separator = (text.match(/^[^\n]*/)[0].includes("\t") && "\t") || ",";
  const rows = [[""]];
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const row = rows.at(-1);
    const sign = text[at];
    if (quoted && sign === '"' && text[at + 1] === '"') row[row.length - 1] += text[at++];
    else if (sign === '"' && (quoted || row.at(-1) === "")) quoted = !quoted;
    else if (!quoted && sign === separator) row.push("");
    else if (!quoted && sign === "\n") rows.push([""]);
    else if (quoted || sign !== "\r") row[row.length - 1] += sign;
  }
  return rows.filter((row) => row.some((cell) => cell.trim()));
}

async function take(file) {
  const rows = parsed(await file.text());
  const head = (rows[0] ?? []).map((cell) => cell.trim().toLowerCase());
  const named = head.findIndex((cell) => ["text", "sentence", "review", "content"].includes(cell));
  const texts = (named < 0 ? rows : rows.slice(1)).map((row) => (row[Math.max(named, 0)] ?? "").trim()).filter(Boolean);
  state.rows = texts.length ? texts : null;
  $("dropped").hidden = false;
  const forget = make("button", { type: "button" }, "forget it");
  forget.addEventListener("click", () => {
    state.rows = null;
    $("dropped").hidden = true;
    $("file").value = "";
  });
  $("dropped").replaceChildren(texts.length ? `${file.name}: ${texts.length.toLocaleString()} texts, as “${texts[0].slice(0, 60)}” ` : `${file.name}: no texts found `, forget);
}

// cards

async function showCards() {
  const names = matching($("find").value);
  const cards = await Promise.all(names.slice(0, CARDS).map((name) => call(`v1/prompts/${encodeURIComponent(name)}`).catch((error) => ({ name, problem: error.message }))));
  $("cards").replaceChildren(...cards.map(card));
  const hidden = names.length - cards.length;
  $("more").textContent = hidden > 0 ? `${hidden.toLocaleString()} more match; type a part of the name` : "";
}

function card(about) {
  const heading = make("h2", {}, about.name);
  if (about.problem) return make("article", { className: "card" }, heading, make("p", {}, about.problem));
  const lines = [
    ["task", about.description ? `${about.task}: ${about.description}` : about.task],
    ["method", about.method + (about.members > 1 ? `, ${about.members} together` : "")],
    ["labels", about.labels.length ? about.labels.slice(0, 12).join(", ") : "writes its answers"],
    ["reads", about.read_once ? "nothing of its own: a text is read once for all" : "each text in its own way"],
    ["size", `${(about.bytes / 1024).toFixed(0)} KiB`],
    ["development", `${score(about.development_score)} (${about.metric})`],
    ...about.scores.map((cell) => [cell.task, `${score(cell.value)} (${cell.metric}, ${cell.rows.toLocaleString()} rows)`]),
  ];
  const list = make("dl", {}, ...lines.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
  const parts = [heading, list];
  if (about.words.length) parts.push(make("p", { className: "quiet" }, `Nearest words: ${about.words.join(" · ")}`));
  if (about.command) parts.push(make("details", {}, make("summary", {}, "The command that made it"), make("pre", {}, about.command)));
  if (state.mayWrite) {
    const remove = make("button", { type: "button", "aria-label": `Remove ${about.name}` }, "Remove");
    remove.addEventListener("click", () => confirm(`Remove ${about.name}?`) && attempt(() => removed(about.name)));
    parts.push(remove);
  }
  return make("article", { className: "card" }, ...parts);
}

async function removed(name) {
  await call(`v1/prompts/${encodeURIComponent(name)}`, { method: "DELETE" });
  $("sent").textContent = `${name} is removed.`;
  await load();
  await showCards();
}

async function send(event) {
  event.preventDefault();
  const form = new FormData();
  form.append("name", $("name").value);
  form.append("card", $("card").files[0]);
  form.append("tensors", $("tensors").files[0]);
  const added = await call("v1/prompts", { method: "POST", body: form });
  $("sent").textContent = `${added.name} is there: ${added.task}, ${added.method}.`;
  await load();
  await showCards();
}

// runs

async function showRuns() {
  const found = await call("v1/runs");
  const rows = found.data.map((run) => {
    const name = make("button", { type: "button", className: "link" }, run.name);
    name.addEventListener("click", () => attempt(() => showRun(run.name)));
    const how = run.problem ? "damaged" : run.finished ? score(run.score) : "training";
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, run.task ?? ""), make("td", {}, run.method ?? ""), make("td", {}, run.backbone ?? ""), make("td", { className: "number" }, how), make("td", {}, (run.started ?? "").slice(0, 16).replace("T", " ")));
  });
  // a link sends no key: where one is needed, reports are only named
  const open = !sessionStorage.getItem("key");
  const pages = found.pages.map((page) => make("li", {}, open ? make("a", { href: pageAt(page), target: "_blank", rel: "noopener" }, page) : page));
  $("listed").replaceChildren(table(["Run", "Task", "Method", "Backbone", "Development score", "Started"], rows), ...(pages.length ? [make("h2", {}, "Reports"), make("ul", {}, ...pages)] : []));
}

function pageAt(path) {
  const at = path.lastIndexOf("/");
  return `v1/runs/${path.slice(0, at).split("/").map(encodeURIComponent).join("/")}/page/${encodeURIComponent(path.slice(at + 1))}`;
}

async function showRun(name) {
  clearTimeout(state.timer);
  const run = await call(`v1/runs/${name.split("/").map(encodeURIComponent).join("/")}`);
  const members = run.members.map((member) => make("tr", {}, ...[member.rate, member.seed, score(member.score), member.step].map((value) => make("td", { className: "number" }, String(value)))));
  $("run").replaceChildren(
    make("h2", {}, run.name),
    make("p", { className: "quiet" }, run.problem ? run.problem : run.finished ? `finished, best development score ${score(run.score)}` : "in training; this page asks for news every two seconds"),
    curves("Loss", run.losses),
    curves("Development score", run.scores),
    ...(members.length ? [make("div", { className: "wide" }, table(["Learning rate", "Seed", "Score", "At step"], members))] : []),
  );
  if (!run.finished && !run.problem && !$("runs").hidden) state.timer = setTimeout(() => attempt(() => showRun(name)), 2000);
}

function curves(title, several) {
  const points = several.flat();
  if (!points.length) return make("p", { className: "quiet" }, `${title}: nothing yet`);
  const [width, height, left, bottom] = [640, 240, 56, 30];
  const steps = points.map((point) => point[0]);
  const values = points.map((point) => point[1]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const last = Math.max(...steps, 1);
  const x = (step) => left + ((width - left - 8) * step) / last;
  const y = (value) => 10 + (height - bottom - 10) * (high > low ? (high - value) / (high - low) : 0.5);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}: ${several.length} curves, from ${low.toPrecision(3)} to ${high.toPrecision(3)}, to step ${last}`);
  const add = (tag, attributes, text = "") => {
    const element = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    svg.append(element);
  };
  add("path", { d: `M${left},10V${height - bottom}H${width - 8}`, fill: "none", class: "axis" });
  add("text", { x: left - 6, y: y(high) + 4, "text-anchor": "end" }, high.toPrecision(3));
  add("text", { x: left - 6, y: y(low) + 4, "text-anchor": "end" }, low.toPrecision(3));
  add("text", { x: width - 8, y: height - 8, "text-anchor": "end" }, `step ${last}`);
  several.forEach((curve, number) => {
    const hue = (205 + (137.5 * number)) % 360;
    const colour = `hsl(${hue} 65% 50%)`;
    add("polyline", { points: curve.map(([step, value]) => `${x(step)},${y(value)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 1.8 });
    for (const [step, value] of curve.length < 40 ? curve : []) add("circle", { cx: x(step), cy: y(value), r: 2.5, fill: colour });
  });
  return make("figure", {}, make("figcaption", { className: "quiet" }, title), svg);
}

// what happens when

$("ask").addEventListener("submit", ask);
$("filter").addEventListener("input", showChoices);
$("all").addEventListener("click", () => {
  for (const name of matching($("filter").value).slice(0, SHOWN)) state.chosen.add(name);
  showChoices();
});
$("none").addEventListener("click", () => {
  state.chosen.clear();
  showChoices();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("text").addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    $("text").classList.toggle("over", kind === "dragover");
    if (kind === "drop") attempt(() => take(event.dataTransfer.files[0]));
  });
}
$("file").addEventListener("change", () => $("file").files[0] && attempt(() => take($("file").files[0])));
$("find").addEventListener("input", () => {
  clearTimeout(state.timer);
  state.timer = setTimeout(() => attempt(showCards), 200);
});
$("send").addEventListener("submit", (event) => attempt(() => send(event)));
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  attempt(load);
});
document.querySelector("nav").addEventListener("keydown", moveTab);
for (const tab of document.querySelectorAll('[role="tab"]')) tab.addEventListener("click", () => open(tab.getAttribute("aria-controls")));
attempt(load).then(() => open(["try", "prompts", "runs"].find((name) => `#${name}` === location.hash) ?? "try"));
