// Sends dropped, pasted or chosen images to the server and shows what it answers. Everything that
// comes from a file is set as text, never as markup.

const AT_ONCE = 4;
const ROUTES = {
  read: "stated in the file",
  "embed+bank": "predicted: nearest known prompt",
  "embed+decode": "predicted: written by the decoder",
  caption: "written by a captioner",
  interrogate: "composed by CLIP",
  ensemble: "predicted by several models",
};

const $ = (selector, place = document) => place.querySelector(selector);
const waiting = [];
let token = sessionStorage.getItem("token");
let running = 0;
let answered = 0;
let failed = 0;

function add(files) {
  for (const file of files) waiting.push([file, card(file)]);
  while (running < AT_ONCE && waiting.length) next();
  summarise();
}

async function next() {
  running += 1;
  const [file, item] = waiting.shift();
  try {
    show(item, await ask(file));
    answered += 1;
  } catch (error) {
    refuse(item, error.message);
    failed += 1;
  }
  running -= 1;
  if (waiting.length) next();
  summarise();
}

function call(path, options = {}) {
  return fetch(path, { ...options, headers: token ? { Authorization: `Bearer ${token}` } : {} });
}

async function connect() {
  const response = await call("health");
  $("#login").hidden = response.status !== 401;
  $("#drop").hidden = response.status === 401;
  if (response.status === 401 && token) $("#model").textContent = "The token is wrong.";
  if (response.ok) $("#model").textContent = `Model: ${(await response.json()).model}.`;
}

async function ask(file) {
  const form = new FormData();
  form.append("images", file);
  let response;
  do {
    if (response) await new Promise((resolve) => setTimeout(resolve, 1000));
    response = await call("predict", { method: "POST", body: form }).catch(() => {
      throw new Error("The server does not answer.");
    });
  } while (response.status === 503);
  if (response.status === 401) throw new Error("The server needs its token.");
  if (response.status === 413) throw new Error("The file is too large for this server.");
  if (!response.ok) throw new Error(`The server failed (${response.status}); its log says why.`);
  const [answer] = await response.json();
  if (answer.error) throw new Error(answer.error);
  return answer;
}

function card(file) {
  const item = $("#answer").content.cloneNode(true).firstElementChild;
  const picture = $("img", item);
  picture.src = URL.createObjectURL(file);
  picture.onerror = () => picture.remove();
  $(".file", item).textContent = file.name;
  $(".prompt", item).textContent = "…";
  item.className = "waiting";
  $("#answers").prepend(item);
  return item;
}

function show(item, answer) {
  item.className = "";
  $(".prompt", item).textContent = answer.prompt;
  const facts = [ROUTES[answer.route] ?? answer.route];
  if (answer.generator) facts.push(answer.generator);
  if (answer.score !== null) facts.push(`estimated likeness ${answer.score.toFixed(2)} of 1`);
  $(".facts", item).textContent = facts.join(" · ");
  const copy = $(".copy", item);
  copy.hidden = !navigator.clipboard;
  copy.onclick = async () => {
    await navigator.clipboard.writeText(answer.prompt);
    copy.textContent = "Copied";
  };
  describe(item, [
    ["Negative prompt", answer.negative_prompt],
    ...(answer.alternatives ?? []).map(({ prompt, score }, place) => [
      `Alternative ${place + 1}${score === null ? "" : ` (${score.toFixed(2)})`}`,
      prompt,
    ]),
    ...Object.entries(answer.settings ?? {}),
  ]);
}

function describe(item, facts) {
  for (const [name, value] of facts) {
    if (value === null) continue;
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name.replaceAll("_", " ");
    text.textContent = typeof value === "object" ? JSON.stringify(value) : value;
    text.dir = "auto";
    $("dl", item).append(term, text);
    $(".more", item).hidden = false;
  }
}

function refuse(item, reason) {
  item.className = "failed";
  $(".prompt", item).textContent = reason;
}

function summarise() {
  const left = running + waiting.length;
  const parts = [];
  if (left) parts.push(`${left} to go`);
  if (answered) parts.push(`${answered} answered`);
  if (failed) parts.push(`${failed} failed`);
  $("#summary").textContent = parts.join(", ");
}

const drop = $("#drop");
const chosen = $("#files");
chosen.addEventListener("change", () => {
  add(chosen.files);
  chosen.value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));

$("#login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("#token").value;
  sessionStorage.setItem("token", token);
  connect();
});

await connect();
