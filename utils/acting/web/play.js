"use strict";

// The page of utils/acting/server.py, which describes the messages.

const KEYS = { ArrowUp: "UP", ArrowDown: "DOWN", ArrowLeft: "LEFT", ArrowRight: "RIGHT", " ": "FIRE" };
for (let digit = 0; digit < 10; digit++) KEYS[digit] = String(digit); // where actions are numbered
const COMMANDS = { p: "pause", n: "single", r: "resync", b: "new", m: "switch", s: "save", a: "planner" };
const PLOTTED = 300; // steps

const find = (id) => document.getElementById(id);
const held = new Set();
const errors = []; // of each step: [imagined frame, last seen frame repeated]
let socket;
let hello;
let shownStep;

function connect() {
  socket = new WebSocket(`ws://${location.host}/socket`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => (typeof data === "string" ? onText(JSON.parse(data)) : onFrame(data));
  socket.onclose = () => {
    if (hello) notice("The server has stopped. Start it again and reload this page.");
  };
}

function send(message) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function notice(text) {
  find("notice").textContent = text;
}

function onText(message) {
  if (message.type === "hello") {
    hello = message;
    const [height, width] = message.shape;
    for (const id of ["imagined", "real", "difference"]) {
      find(id).width = width;
      find(id).height = height;
    }
    find("actions").textContent = message.actions.join(", ");
    find("switch").hidden = message.variants < 2;
  } else if (message.type === "saved") {
    notice(`Saved ${message.files.join(" and ")}`);
  } else if (message.type === "error") {
    notice(message.message);
  }
}

function onFrame(data) {
  const length = new DataView(data).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const [height, width, channels] = hello.shape;
  const size = height * width * channels;
  const imagined = new Uint8Array(data, 4 + length, size);
  const real = new Uint8Array(data, 4 + length + size, size);
  draw("imagined", (i) => imagined[i]);
  draw("real", (i) => real[i]);
  draw("difference", (i) => 128 + 4 * (imagined[i] - real[i]));
  showFigures(header);
  if (header.step === 0) errors.length = 0;
  // A paused game, one that is over, or another player's sends the same step again.
  else if (header.step !== shownStep) errors.push([header.error, header.error_repeat_last]);
  shownStep = header.step;
  if (errors.length > PLOTTED) errors.shift();
  plot();
}

function draw(id, level) {
  const [height, width, channels] = hello.shape;
  const context = find(id).getContext("2d");
  const image = context.createImageData(width, height);
  for (let pixel = 0; pixel < height * width; pixel++) {
    for (let colour = 0; colour < 3; colour++) {
      image.data[4 * pixel + colour] = level(channels === 3 ? 3 * pixel + colour : pixel);
    }
    image.data[4 * pixel + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function showFigures(header) {
  find("about").textContent = `${hello.game}, the ${header.variant} variant`;
  find("step").textContent = header.step;
  find("action").textContent = (header.action ?? "\u2013") + (header.planner ? " (planner)" : "");
  find("planner").setAttribute("aria-pressed", header.planner);
  // Null before the last stage, which learns to predict them, and where the model has diverged.
  const rounded = (number) => number?.toFixed(2) ?? "\u2013";
  find("reward").textContent = `${header.reward}, ${rounded(header.predicted_reward)}`;
  find("total").textContent =
    `${header.total_reward}, ${rounded(header.total_predicted_reward)}`;
  find("termination").textContent =
    header.termination === null ? "\u2013" : `${(100 * header.termination).toFixed(1)} %`;
  if (header.over) {
    find("fps").textContent = "over";
    notice("The real game is over. B starts a new one.");
  } else if (header.paused) {
    find("fps").textContent = "paused";
  } else if (header.fps !== null) {
    const slow = header.fps < 0.9 * hello.fps;
    find("fps").textContent =
      header.fps.toFixed(1) + (slow ? ` (this machine is too slow for ${hello.fps})` : "");
  }
}

function plot() {
  const canvas = find("plot");
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = 130;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name);
  const [low, high] = [-1, 3.5]; // powers of ten
  const y = (error) => {
    const power = Math.min(Math.max(Math.log10(Math.max(error, 1e-9)), low), high);
    return height - 4 - ((power - low) / (high - low)) * (height - 8);
  };
  context.font = "11px system-ui, sans-serif";
  for (const error of [1, 10, 100, 1000]) {
    context.strokeStyle = colour("--line");
    context.beginPath();
    context.moveTo(32, y(error));
    context.lineTo(width, y(error));
    context.stroke();
    context.fillStyle = colour("--quiet");
    context.fillText(error, 3, y(error) + 4);
  }
  const step = (width - 36) / PLOTTED;
  ["--ours", "--baseline"].forEach((name, kind) => {
    context.strokeStyle = colour(name);
    context.lineWidth = 1.6;
    context.beginPath();
    errors.forEach((pair, i) => context.lineTo(34 + i * step, y(pair[kind])));
    context.stroke();
  });
}

function press(key, down) {
  if (held.has(key) === down) return;
  if (down) held.add(key);
  else held.delete(key);
  send({ type: "keys", keys: [...held] });
  document.querySelector(`[data-key="${key}"]`)?.classList.toggle("held", down);
}

function command(type) {
  notice(type === "save" ? "Saving\u2026" : "");
  send({ type });
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in KEYS) {
    event.preventDefault(); // the key would scroll, or press the focused button
    press(KEYS[event.key], true);
  } else if (!event.repeat && event.key.toLowerCase() in COMMANDS) {
    command(COMMANDS[event.key.toLowerCase()]);
  }
});
addEventListener("keyup", (event) => event.key in KEYS && press(KEYS[event.key], false));
addEventListener("blur", () => [...held].forEach((key) => press(key, false)));

for (const button of document.querySelectorAll("[data-key]")) {
  const key = button.dataset.key;
  button.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    press(key, true);
  });
  for (const end of ["pointerup", "pointerleave", "pointercancel"]) {
    button.addEventListener(end, () => press(key, false));
  }
}
for (const button of document.querySelectorAll("[data-command]")) {
  button.addEventListener("click", () => {
    command(button.dataset.command);
    button.blur(); // because space would press the focused button again
  });
}

connect();
