// The page: follows /live and updates the sky, the list, the event display and the status lamps.

import { EventDisplay } from "./event.js";
import { Sky } from "./sky.js";

const FOLLOW_S = 6; // an event is shown at least so long before a more confident one replaces it

const find = (selector) => document.querySelector(selector);
const degrees = (angle) => `${((angle * 180) / Math.PI).toFixed(1)}°`;
const number = (value, unit = "", digits = 0) => (value === null ? "–" : `${value.toFixed(digits)}${unit}`);

const sky = new Sky(find("#sky"), (id) => choose(id));
const display = new EventDisplay(find("#event"));
let rows = []; // events with pulses, the latest first
let selected = null; // id
let following = !new URLSearchParams(location.search).has("event");
let changed = 0;

async function choose(id, byHand = true) {
  if (byHand) {
    follow(false);
    history.replaceState(null, "", `?event=${id}`);
  }
  selected = id;
  changed = Date.now();
  const answer = await fetch(`live/event/${id}`);
  if (selected !== id) return; // another was chosen meanwhile
  if (!answer.ok) {
    find("#facts").textContent = `Event ${id} is not among the latest any more.`;
    return;
  }
  const found = await answer.json();
  if (selected !== id) return;
  sky.mark({ ...found, half: found.radius_50_deg, most: found.radius_90_deg });
  display.show(found);
  showFacts(found);
  mark();
}

function escaped(text) {
  const element = document.createElement("span");
  element.textContent = text;
  return element.innerHTML;
}

function showFacts(found) {
  const parts = [
    `Event <b>${found.id}</b>, ${found.n_pulses} pulses, κ <b>${number(found.kappa, "", found.kappa < 100 ? 1 : 0)}</b>, radii ${found.radius_50_deg.toFixed(1)}° (50 %), ${found.radius_90_deg.toFixed(1)}° (90 %)`,
    `<span class="found">▲ reconstructed: zenith ${degrees(found.zenith)}, azimuth ${degrees(found.azimuth)}</span>; right ascension ${degrees(found.ascension)}, declination ${degrees(found.declination)}`,
  ];
  if (found.opening_angle_deg !== null)
    parts.push(`<span class="truth">▲ truth: zenith ${degrees(found.true_zenith)}, azimuth ${degrees(found.true_azimuth)}; opening angle <b>${found.opening_angle_deg.toFixed(2)}°</b></span>`);
  if (found.challenger) {
    const { model, zenith, azimuth, opening_angle_deg: angle } = found.challenger;
    parts.push(`<span class="challenger">▲ challenger ${escaped(model)}: zenith ${degrees(zenith)}, azimuth ${degrees(azimuth)}${angle === null ? "" : `; opening angle <b>${angle.toFixed(2)}°</b>`}</span>`);
  }
  if (!found.pulses) parts.push("Its pulses were not kept.");
  find("#facts").innerHTML = parts.join("<br>");
}

function list() {
  const body = find("#list tbody");
  const wanted = new Set(rows.map(([id]) => id));
  for (const row of [...body.children]) if (!wanted.has(row.dataset.id)) row.remove();
  const had = new Map([...body.children].map((row) => [row.dataset.id, row]));
  // Rows that stay are left where they are: one may have the focus, or the mouse upon it.
  let place = body.firstChild;
  for (const [id, kappa, radius, pulses, zenith, azimuth, when] of rows) {
    let row = had.get(id);
    if (!row) {
      row = document.createElement("tr");
      row.dataset.id = id;
      row.tabIndex = 0;
      const texts = [kappa.toFixed(0), `${radius.toFixed(1)}°`, pulses, degrees(zenith), degrees(azimuth), ""];
      row.append(...texts.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    }
    if (row === place) place = place.nextSibling;
    else body.insertBefore(row, place);
    row.lastChild.textContent = age(when);
  }
  mark();
}

function age(when) {
  const seconds = Math.max(0, Date.now() / 1000 - when);
  return seconds < 90 ? `${seconds.toFixed(0)} s` : `${(seconds / 60).toFixed(0)} min`;
}

function mark() {
  for (const row of find("#list tbody").children) row.setAttribute("aria-current", row.dataset.id === selected);
}

function follow(on) {
  following = on;
  find("#follow").setAttribute("aria-pressed", on);
}

/** Choose the most confident of the events of the last seconds. */
function followMostConfident() {
  if (!following || !rows.length || Date.now() - changed < FOLLOW_S * 1000) return;
  const since = rows[0][6] - FOLLOW_S;
  const best = rows.filter((row) => row[6] >= since).reduce((one, other) => (other[1] > one[1] ? other : one));
  if (best[0] !== selected) choose(best[0], false);
}

function step(by) {
  const place = rows.findIndex((row) => row[0] === selected);
  const next = rows[Math.min(Math.max((place < 0 ? 0 : place) + by, 0), rows.length - 1)];
  if (next) choose(next[0]);
}

function lamp(name, on, text) {
  const element = find(`#lamp-${name}`);
  element.className = on ? "on" : "off";
  element.textContent = text;
}

function state(now, troubles) {
  lamp("emitter", now.emitter, now.emitter ? "Emitter" : "Emitter: no events");
  lamp("bridges", now.bridges > 0, now.bridges === 1 ? "Bridge" : now.bridges ? `${now.bridges} bridges` : "No bridge");
  lamp("triton", now.triton, now.triton ? "Triton" : "Triton down");
  lamp("recorder", now.recorder, now.recorder ? "Recorder" : "Recorder down");
  find("#in").textContent = number(now.emitted_per_s, "/s");
  find("#out").textContent = number(now.stored_per_s, "/s");
  find("#backlog").textContent = number(now.backlog);
  find("#rejected").textContent = number(now.rejected);
  find("#latency").textContent = now.latency_p99_s === null ? "–" : number(now.latency_p99_s * 1000, " ms");
  find("#angle").textContent = number(now.opening_angle_mean_deg, "°", 1);
  find("#linefit").textContent = number(now.linefit_opening_angle_mean_deg, "°", 1);
  const source = now.source ? `Events are ${now.source}.` : "";
  find("#about").textContent = `${source}${now.model ? ` Reconstructed by ${now.model}.` : ""}`.trim();
  find("#help-source").textContent = source;
  trouble(troubles.map(({ words, since }) => `${words} (since ${new Date(since * 1000).toLocaleTimeString()})`).join(" "));
}

/** What is known of the challenge under way: words, and the paired difference as it converges. */
function challenge(now) {
  find("#challenge").hidden = !now;
  if (!now) return;
  const answered = `Version ${now.challenger} answers ${(100 * now.share).toFixed(0)} % of the events as well; ${now.pairs} of at least ${now.needed} are answered by both.`;
  const mean = now.difference_deg;
  const difference =
    mean === null
      ? "No truth is known yet."
      : `Opening angle against version ${now.champion}: ${mean < 0 ? "−" : "+"}${Math.abs(mean).toFixed(2)}° ± ${now.half_interval_deg.toFixed(2)}° (95 %).`;
  find("#challenge span").textContent = `${answered} ${difference}`;
  const points = now.history;
  const most = Math.max(0.1, ...points.slice(Math.floor(points.length / 8)).map(([, value, half]) => Math.abs(value) + half));
  const across = (count) => (100 * count) / points.at(-1)[0];
  const down = (value) => 15 - (14 * Math.max(-most, Math.min(most, value))) / most;
  const line = (edge) => points.map(([count, value, half]) => `${across(count).toFixed(1)},${down(value + edge * half).toFixed(1)}`);
  const draw = (name, corners) => find(`#challenge .${name}`).setAttribute("points", corners.join(" "));
  draw("band", [...line(1), ...line(-1).reverse()]);
  draw("mean", line(0));
}

function trouble(words) {
  const line = find("#trouble");
  if (line.textContent !== words) line.textContent = words;
  line.hidden = !words;
}

function listRejected(entries) {
  const cells = (entry) => [age(entry.rejected_ns / 1e9), entry.event ?? "–", entry.bytes, entry.reason, entry.detail];
  const rows = entries.map((entry) => {
    const row = document.createElement("tr");
    row.append(...cells(entry).map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    return row;
  });
  find("#rejected-entries tbody").replaceChildren(...rows);
}

function connect() {
  const live = new EventSource("live");
  let lost = 0;
  live.addEventListener("past", (message) => {
    sky.stars = [];
    sky.add(JSON.parse(message.data));
    sky.draw();
  });
  live.addEventListener("tick", (message) => {
    lost = 0;
    const tick = JSON.parse(message.data);
    sky.add(tick.results);
    sky.draw();
    rows = tick.shown;
    list();
    state(tick.state, tick.troubles);
    challenge(tick.challenge);
    if (find("#rejected-entries").open) listRejected(tick.rejected);
    followMostConfident();
  });
  live.onerror = () => {
    lost ||= Date.now();
    trouble(`The connection to the stream was lost at ${new Date(lost).toLocaleTimeString()}; trying again.`);
    for (const name of ["emitter", "bridges", "triton", "recorder"]) find(`#lamp-${name}`).className = "";
    if (live.readyState === EventSource.CLOSED) setTimeout(connect, 3000); // it gave up: too many pages, or no server
  };
}

find("#list tbody").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row) choose(row.dataset.id);
});
find("#previous").addEventListener("click", () => step(1));
find("#next").addEventListener("click", () => step(-1));
find("#play").addEventListener("click", () => display.play());
find("#reset").addEventListener("click", () => display.reset());
find("#rejected").addEventListener("click", () => find("#rejected-entries").showModal());
find("#help-open").addEventListener("click", () => find("#help").showModal());
find("#follow").addEventListener("click", () => follow(!following));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const row = event.target.closest?.("tr[data-id]");
  if (event.key === "Enter" && row) choose(row.dataset.id);
  const keys = { ArrowLeft: () => step(1), ArrowRight: () => step(-1), r: () => display.reset(), f: () => follow(!following), "?": () => find("#help").showModal() };
  if (event.key === " " && event.target.tagName !== "BUTTON") keys[" "] = () => display.play();
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
});

follow(following);
const wanted = new URLSearchParams(location.search).get("event");
display.detector(await (await fetch("live/doms")).json());
if (wanted) choose(wanted, false);
connect();
