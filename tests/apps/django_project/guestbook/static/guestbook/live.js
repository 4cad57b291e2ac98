// The dashboard: shows what the WebSocket tells, and comes back when it is closed (a reload of the server does so, with 1012).
"use strict";

const KEPT = 12, POINTS = 120;
const $ = id => document.getElementById(id);
const points = [];
let last = 0, failures = 0;

function show(state) {
  $("state").dataset.state = state;
  $("state").querySelector("b").textContent = state;
}

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live/`);
  socket.onopen = () => { failures = 0; show("connected"); };
  socket.onmessage = event => update(JSON.parse(event.data));
  socket.onclose = () => {
    show("connecting");
    // Not all browsers at once, and ever more slowly while nobody answers.
    setTimeout(connect, Math.min(200 * 2 ** failures++, 10000) * (0.5 + Math.random()));
  };
}

function update({rate, requests, watchers, count, entries}) {
  $("rate").textContent = rate >= 100 ? Math.round(rate) : rate;
  $("watchers").textContent = watchers;
  $("count").textContent = count;
  $("requests").textContent = requests.toLocaleString();
  draw(rate);
  for (const entry of entries)
    if (entry.id > last) {  // after a reconnect the latest come again
      last = entry.id;
      $("entries").prepend(item(entry));
    }
  while ($("entries").children.length > KEPT)
    $("entries").lastChild.remove();
}

function item({name, text, created}) {
  const li = document.createElement("li"), time = new Date(created);
  const part = (tag, content) => li.appendChild(Object.assign(document.createElement(tag), {textContent: content}));
  part("i", [...name.trim()][0]?.toUpperCase() ?? "?");
  part("b", name);
  part("p", text);
  part("time", time.toLocaleTimeString([], {hour: "2-digit", minute: "2-digit", second: "2-digit"})).dateTime = created;
  return li;
}

function draw(rate) {
  points.push(rate);
  if (points.length > POINTS)
    points.shift();
  const most = Math.max(1, ...points), from = POINTS - points.length;
  const line = points.map((p, i) => `${from + i},${(38 - 36 * p / most).toFixed(1)}`).join(" L");
  $("chart").querySelector(".line").setAttribute("d", `M${line}`);
  $("chart").querySelector(".area").setAttribute("d", `M${from},40 L${line} L${POINTS - 1},40 Z`);
}

document.querySelector("form").addEventListener("submit", async event => {
  event.preventDefault();
  const form = event.target, button = form.querySelector("button");
  button.disabled = true;
  try {
    const answer = await fetch(form.action, {method: "POST", body: new FormData(form)});
    if (answer.ok) {
      form.text.value = "";
      form.text.focus();
    }
  } finally {
    button.disabled = false;
  }
});

connect();
