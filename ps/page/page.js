// The live page: the stream fills the run, and once in each frame of the screen what changed is drawn.
//
// The one rule: this file only connects. What is known stands in run.js, what it means in glance.js, how it looks in
// race.js, chart.js, bars.js, log.js and head.js.

import { drawHeld, drawStaleness } from "./bars.js";
import { LineChart } from "./chart.js";
import { Control } from "./control.js";
import { byId, el, keyed, setText, show } from "./dom.js";
import { figureNames, rates, series, timeUnit } from "./figures.js";
import { glance } from "./glance.js";
import { Announcer, drawConnection, drawHead, drawWelcome, title } from "./head.js";
import { listen } from "./keys.js";
import { Log } from "./log.js";
import { Race } from "./race.js";
import { Run } from "./run.js";
import { Session } from "./session.js";
import { Stream } from "./stream.js";
import * as theme from "./theme.js";
import { duration, figure, keptOut, rate, shortName, whole } from "./words.js";

/** A newest point older than this is said to be old: points come once a second while somebody trains. */
const OLD_SECONDS = 5;

const run = new Run();
const announcer = new Announcer();
let connection = { name: "connecting" };
let group = null;
/** Whether it was chosen, or has had workers: then it stays. */
let settled = false;
let chosenFigure = null;
let due = false;

// The page may stand below a prefix, behind a proxy.
const stream = new Stream(new URL("v1/events", document.baseURI), take, connected);

const session = new Session(new URL("v1/session", document.baseURI));
const control = new Control(document.baseURI);

const race = new Race(
  {
    lanes: byId("lanes"),
    rows: byId("lane-rows"),
    axis: byId("axis"),
    field: byId("field"),
    note: byId("race-note"),
    showAll: byId("show-all"),
    figureHead: byId("figure-head"),
    forming: byId("forming"),
  },
  (rank) => {
    log.rank = rank;
  },
  soon,
);
const log = new Log(
  { rows: byId("log"), kind: byId("log-kind"), rank: byId("log-rank"), note: byId("log-note"), ranks: byId("ranks") },
  soon,
);
const curve = new LineChart(byId("curve-chart"), "Learning curve", "Nothing was measured yet.");
const speed = new LineChart(byId("speed-chart"), "Steps and updates a second", "Nothing was measured yet.");

function take(event, data) {
  run.take(event, data);
  soon();
}

function connected(state) {
  connection = state;
  if (state.name === "live") session.learn().then(soon);
  soon();
}

function soon() {
  if (due) return;
  due = true;
  // A hidden tab has no frames; its title is to be right all the same.
  if (document.hidden) setTimeout(draw, 500);
  else requestAnimationFrame(draw);
}

function draw() {
  due = false;
  if (!settled || !run.groups.includes(group)) ({ name: group, found: settled } = run.firstGroup);
  const words = drawConnection(connection, run);
  drawLogin();
  const view = run.view(group);
  const seen = view ? glance(view, run.ending) : null;
  document.title = title(connection, words, seen?.short ?? "connecting");
  if (connection.name === "lost") announcer.say(byId("banner-text").textContent.replace(/;$/, ""), true);
  else if (seen) announcer.say(`${seen.headline}.`);
  control.draw(run, view, session.may("admin") && connection.name === "live");
  if (!view || document.hidden) return;
  show(byId("insecure"), run.status.insecure ?? false);
  drawKeptOut();
  drawHead(run, view);
  drawGroups();
  byId("glance").dataset.kind = seen.kind;
  setText(byId("headline"), seen.headline);
  setText(byId("detail"), seen.detail);
  const here = view.workers.length > 0 || view.forming.length > 0;
  const begun = here || run.points.length > 0;
  show(byId("welcome"), !begun && !run.ending);
  show(byId("race"), here);
  show(byId("panels"), view.workers.length > 0 || run.points.length > 0 || run.decisions.length > 0);
  race.mark(log.rank);
  race.draw(view);
  drawCurves(view);
  drawStaleness(byId("staleness-bars"), byId("staleness-mean"), view.staleness);
  drawHeld(byId("held-bars"), byId("held-note"), view);
  log.draw(run, group, view.workers.map((worker) => worker.rank));
}

/** Everybody sees it; who may let them in again does so in the dialog. */
function drawKeptOut() {
  const rows = run.status.quarantine ?? [];
  show(byId("kept-out"), rows.length > 0);
  setText(byId("kept-out"), keptOut(rows, run.status.quarantined));
}

function drawGroups() {
  show(byId("group-choice"), run.groups.length > 1);
  keyed(byId("group"), run.groups, (name) => name, (name) => el("option", { value: name }, name), (node, name) => {
    node.selected = name === group;
  });
}

function drawCurves(view) {
  const names = figureNames(run.points, group);
  if (!names.includes(chosenFigure)) chosenFigure = names[0] ?? null;
  keyed(byId("figures"), names, (name) => name, makeFigure, (node, name) => {
    node.firstElementChild.checked = name === chosenFigure;
  });
  const over = byId("over").value;
  const overTime = over === "seconds";
  const unit = timeUnit(view.uptime);
  const timeAxis = { xLabel: `${unit.name} since the start`, xSize: unit.size, sayX: duration };
  const clockAxis = { xLabel: "clock of the slowest worker", xSize: 1, sayX: (clock) => `clock ${whole(clock)}` };
  const marks = run.decisions
    .filter((one) => one.kind === "switched" && (one.group ?? group) === group)
    .map((one) => ({ x: one.seconds, text: one.mode }));
  const points = chosenFigure ? series(run.points, group, chosenFigure, over) : [];
  const last = run.points.at(-1);
  const old = last !== undefined && view.uptime - last.seconds > OLD_SECONDS;
  const newest = old ? "last, at" : "";
  // A loss that has diverged has no place on a scale: it is said.
  const lost = chosenFigure !== null && last?.groups[group]?.figures?.[chosenFigure] === null;
  setText(byId("curve-note"), lost ? `${chosenFigure} is not finite (NaN or infinity)` : "");
  show(byId("curve-note"), lost);
  curve.draw({
    ...(overTime ? timeAxis : clockAxis),
    newest: old || lost ? "last, at" : "",
    lines: [{ name: shortName(chosenFigure ?? ""), kind: "figure", points }],
    marks: overTime ? marks : [],
    fromZero: false,
    yLabel: shortName(chosenFigure ?? ""),
    sayY: figure,
  });
  setText(byId("steps-rate"), rate(view.stepsRate));
  setText(byId("updates-rate"), rate(view.updatesRate));
  speed.draw({
    ...timeAxis,
    newest,
    lines: [
      { name: "updates/s", kind: "updates", points: rates(run.points, group, "updates") },
      { name: "steps/s", kind: "steps", points: rates(run.points, group, "version") },
    ],
    marks,
    fromZero: true,
    yLabel: "a second",
    sayY: rate,
  });
}

function makeFigure(name) {
  const input = el("input", { type: "radio", name: "figure", value: name });
  input.addEventListener("change", () => {
    chosenFigure = name;
    soon();
  });
  return el("label", { title: name }, input, el("span", {}, name));
}

function drawLogin() {
  const needed = connection.name === "token";
  const name = needed ? null : session.name;
  show(byId("log-out"), name !== null);
  setText(byId("log-out"), `Log out ${shortName(name ?? "")}`);
  if (needed && byId("login").hidden) {
    const why = "Your session has ended: its time was up, its token is not taken any more, or the server was started anew.";
    setText(byId("login-why"), connection.ended ? why : "");
    refuseLogin("");
    show(byId("login"), true);
    for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
    byId("token").focus();
  } else if (!needed) show(byId("login"), false);
}

function refuseLogin(words) {
  setText(byId("login-refused"), words);
  show(byId("login-refused"), words !== "");
}

async function logIn(event) {
  event.preventDefault();
  const token = byId("token").value;
  byId("token").value = "";
  byId("login-submit").disabled = true;
  try {
    await session.begin(token);
    stream.now();
  } catch (error) {
    refuseLogin(`Not logged in: ${error.message}.`);
    byId("token").focus();
  }
  byId("login-submit").disabled = false;
}

/** Nothing of the run stays in the page. */
async function logOut() {
  await session.end().catch(() => {});
  location.reload();
}

function showTheme() {
  setText(byId("theme-name"), theme.chosen());
}

function nextTheme() {
  theme.next();
  showTheme();
}

byId("theme").addEventListener("click", nextTheme);
byId("retry").addEventListener("click", () => stream.now());
byId("over").addEventListener("change", soon);
byId("group").addEventListener("change", (event) => {
  choose(event.target.value);
});
byId("login-form").addEventListener("submit", logIn);
byId("log-out").addEventListener("click", logOut);
if (navigator.clipboard) {
  show(byId("copy"), true);
  byId("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId("command").textContent);
    setText(byId("copy"), "Copied");
  });
}
document.addEventListener("visibilitychange", soon);
window.addEventListener("online", () => stream.now());
// A browser keeps a page that was left for coming back, with its connection, and has six of them for a server.
window.addEventListener("pagehide", () => stream.leave());
window.addEventListener("pageshow", (event) => event.persisted && stream.now());

listen([
  ["r", "go to the race", () => race.focus()],
  ["a", "all lanes, or the field", () => race.toggleAll()],
  ["c", "go to the learning curve", () => byId("curve-chart").focus()],
  ["d", "go to the decisions", () => byId("log").focus()],
  ["/", "filter the decisions by rank", () => byId("log-rank").focus()],
  ["g", "next group", nextGroup],
  ["e", "change the policy or the learning rate, as an admin", () => control.open()],
  ["t", "next theme", nextTheme],
  ["Escape", "close this, or show the decisions of all ranks", () => {
    log.rank = "";
  }],
]);

function choose(name) {
  group = name;
  settled = true;
  soon();
}

function nextGroup() {
  choose(run.groups[(run.groups.indexOf(group) + 1) % run.groups.length] ?? null);
}

// The countdown to the next attempt goes on when nothing else does.
setInterval(() => connection.name === "lost" && soon(), 500);

drawWelcome(new URL(".", document.baseURI).href.replace(/\/$/, ""));
showTheme();
stream.run();
