// Ask the model: draw what it takes, give it a file, or write JSON.

import { Refused, ask, send, tell } from "./api.js";
import { make, title } from "./format.js";

const PIXELS = 280;

export function open(main) {
  const body = make("div");
  main.append(title("Try it"), body);
  let asked = null;
  return {
    async update() {
      if (asked) return;
      asked = await ask("predict").catch((error) => {
        if (error instanceof Refused) return { able: false }; // a model in somebody's own loop
        throw error;
      });
      body.replaceChildren(...(asked.able ? page(asked) : [make("p", {}, "Nobody answers here: the learner has no predict, or the model trains in a loop of its own.")]));
    },
  };
}

function page(asked) {
  const answer = make("div", { "aria-live": "polite" });
  const show = async (asking) => {
    try {
      answer.replaceChildren(...told(await asking));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      answer.replaceChildren(make("p", { class: "warn" }, error.message));
    }
  };
  const predict = (input) => show(tell("predict", "POST", { inputs: [input] }));
  const file = upload((chosen) => show(send("predict", chosen)));
  // A learner that takes numbers says of what shape; of the others most take files.
  const first = asked.side ? pad(asked, predict) : asked.shape ? json(asked, predict) : file;
  return [
    make("div", { class: "try" }, first, answer),
    ...(first === file ? [] : [make("details", {}, make("summary", {}, "Or give a file"), file)]),
    ...(asked.shape && !asked.side ? [] : [make("details", {}, make("summary", {}, "Or write the input"), json(asked, predict))]),
  ];
}

function told(found) {
  const [prediction] = found.predictions;
  const after = make("p", { class: "faint" },
    `The model had seen ${found.samples.toLocaleString("en")} samples; it took ${(1000 * found.seconds).toFixed(1)} ms.`);
  if (!prediction?.probabilities) return [make("pre", {}, JSON.stringify(prediction, null, 1)), after];
  const likeliest = Object.entries(prediction.probabilities).sort(([, one], [, other]) => other - one);
  const rows = likeliest.map(([label, share]) =>
    make("div", { class: "share" }, make("span", {}, label),
      make("meter", { min: 0, max: 1, value: share, "aria-label": `probability of ${label}` }),
      make("span", {}, `${(100 * share).toFixed(1)} %`)));
  return [make("p", { class: "answer", id: "answer" }, prediction.label), ...rows, after];
}

function upload(predict) {
  const chosen = make("input", { id: "file", type: "file" });
  const ask = () => { if (chosen.files.length) predict(chosen.files[0]); };
  chosen.addEventListener("change", ask);
  return make("form", { onsubmit: (event) => { event.preventDefault(); ask(); } },
    make("p", {}, make("label", { for: "file" }, "One input, as a file: a picture, a sound, a text")), make("p", {}, chosen),
    make("button", { class: "main" }, "Predict"));
}

function json(asked, predict) {
  const zeros = (shape) => (shape.length ? Array.from({ length: shape[0] }, () => zeros(shape.slice(1))) : 0);
  const text = make("textarea", { id: "input", spellcheck: "false" });
  text.value = asked.shape && asked.shape.reduce((a, b) => a * b, 1) <= 100 ? JSON.stringify(zeros(asked.shape)) : '"…"';
  const wrong = make("p", { class: "warn", role: "alert" });
  const send = (event) => {
    event.preventDefault();
    let input;
    try { input = JSON.parse(text.value); wrong.textContent = ""; } catch (error) { wrong.textContent = `This is not JSON: ${error.message}`; return; }
    predict(input);
  };
  return make("form", { onsubmit: send }, make("p", {}, make("label", { for: "input" }, "One input, in JSON")), text, wrong,
    make("button", { class: "main" }, "Predict"));
}

function pad(asked, predict) {
  const canvas = make("canvas", { id: "pad", width: PIXELS, height: PIXELS, role: "img", "aria-label": "Draw here; below, the input can be written instead" });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const clear = () => { context.fillStyle = "#000"; context.fillRect(0, 0, PIXELS, PIXELS); };
  let last = null;
  let asking = false;
  clear();
  const at = (event) => [(event.offsetX * PIXELS) / canvas.clientWidth, (event.offsetY * PIXELS) / canvas.clientHeight];
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); last = at(event); stroke(last); });
  canvas.addEventListener("pointermove", (event) => { if (last) { const next = at(event); stroke(next); last = next; } });
  canvas.addEventListener("pointerup", () => { last = null; ready(); });
  canvas.addEventListener("pointercancel", () => { last = null; });

  function stroke(next) {
    Object.assign(context, { strokeStyle: "#fff", lineWidth: PIXELS / 6, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...next);
    context.stroke();
  }

  async function ready() {
    if (asking) return;
    asking = true;
    try { await predict(input(context, asked)); } finally { asking = false; }
  }

  return make("div", {}, canvas, make("div", { class: "bar" },
    make("button", { class: "main", onclick: ready }, "Predict"), make("button", { onclick: clear }, "Clear")));
}

// The drawing, as large as the images that the model knows: cut out, centred, means of squares.
function input(context, asked) {
  const pixels = context.getImageData(0, 0, PIXELS, PIXELS).data;
  let [left, top, right, bottom] = [PIXELS, PIXELS, 0, 0];
  for (let y = 0; y < PIXELS; y++) {
    for (let x = 0; x < PIXELS; x++) {
      if (pixels[4 * (y * PIXELS + x)] > 64) { left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y); }
    }
  }
  const square = document.createElement("canvas");
  square.width = square.height = PIXELS;
  const inside = square.getContext("2d", { willReadFrequently: true });
  inside.fillRect(0, 0, PIXELS, PIXELS);
  if (right > left && bottom > top) {
    const size = PIXELS / Math.max(right - left, bottom - top);
    const [width, height] = [(right - left) * size, (bottom - top) * size];
    inside.drawImage(context.canvas, left, top, right - left, bottom - top, (PIXELS - width) / 2, (PIXELS - height) / 2, width, height);
  }
  const data = inside.getImageData(0, 0, PIXELS, PIXELS).data;
  const values = Array.from({ length: asked.side * asked.side }, (_, index) => mean(data, asked.side, index % asked.side, Math.floor(index / asked.side)) * asked.highest);
  return shaped(values, asked);
}

function mean(data, side, column, row) {
  const [size, edge] = [PIXELS / side, (index) => Math.round((index * PIXELS) / side)];
  let sum = 0;
  for (let y = edge(row); y < edge(row + 1); y++) for (let x = edge(column); x < edge(column + 1); x++) sum += data[4 * (y * PIXELS + x)];
  return Number((sum / 255 / (size * size)).toFixed(4));
}

function shaped(values, asked) {
  if (asked.shape.length === 1) return values;
  const rows = Array.from({ length: asked.side }, (_, row) => values.slice(row * asked.side, (row + 1) * asked.side));
  return asked.shape.length === 2 ? rows : Array.from({ length: asked.shape[0] }, () => rows);
}
