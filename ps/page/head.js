// The head of the page, the connection's lamp and banner, the window's title, and what is read aloud.
//
// The one rule: it is always said how old the picture is: live, or since when not.

import { byId, setAttribute, setText, show } from "./dom.js";
import { clockTime, count, duration, policy, setting, whole } from "./words.js";

/** What is read aloud comes no more often than this. */
const QUIET_SECONDS = 10;

export function drawHead(run, view) {
  const { status } = run;
  setText(byId("program"), status.program?.version ?? "");
  setText(byId("fact-uptime"), duration(status.uptime_seconds));
  setText(byId("fact-epoch"), String(status.epoch));
  setText(byId("policy"), policy(view.policy, view.aggregation));
  // A state has room for many workers, not for all of a very large run.
  const untold = (status.live_workers ?? 0) - status.workers.length;
  const here = whole(view.workers.length);
  setText(byId("fact-workers"), untold > 0 ? `${here}, ${whole(untold)} more not shown` : here);
  setText(byId("fact-version"), number(view.version));
  setText(byId("fact-clock"), number(view.min_clock) + (view.until === null ? "" : ` of ${number(view.until)}`));
  setText(byId("fact-rate"), setting(view.learning_rate));
}

/** As it is, unless it has more digits than anybody reads. */
function number(value) {
  return value < 1e9 ? whole(value) : count(value);
}

/** `connection`: what the stream said last. Answers the connection in two or three words. */
export function drawConnection(connection, run) {
  const { name } = connection;
  const lost = name === "lost";
  const ended = lost ? run.ending : null;
  const lostName = ended ? "server ended" : "no answer";
  const words = { connecting: "connecting", live: "live", token: "not logged in", lost: lostName }[name];
  document.documentElement.dataset.connection = name;
  setAttribute(byId("connection"), "data-state", ended ? "ended" : name);
  setText(byId("connection-text"), words);
  show(byId("banner"), lost);
  document.body.classList.toggle("stale", lost && run.status !== null);
  if (lost) {
    setText(byId("banner-text"), lostWords(connection, ended));
    setText(byId("banner-more"), retryWords(connection));
  }
  return words;
}

function lostWords({ since, detail }, ended) {
  const time = clockTime(since);
  const last = "What is shown is its last state.";
  if (ended === "finished") return `The run has finished, and the server ended at ${time}. ${last}`;
  if (ended === "stopping") return `The server was stopped at ${time}. ${last}`;
  if (detail && detail !== "nothing was heard") return `The server refuses since ${time}: ${detail};`;
  return `The server does not answer since ${time};`;
}

function retryWords({ retryAt }) {
  const seconds = Math.ceil((retryAt.getTime() - Date.now()) / 1000);
  return seconds > 0 ? `trying again in ${seconds} s` : "trying again now";
}

export class Announcer {
  #said = "";
  #next = 0;
  #timer = null;

  /** Read this aloud, unless it was the last thing; not at once if something was just said. `urgent`: at once. */
  say(text, urgent = false) {
    clearTimeout(this.#timer);
    if (text === this.#said) return;
    const wait = urgent ? 0 : this.#next - Date.now();
    this.#timer = setTimeout(() => {
      this.#said = text;
      this.#next = Date.now() + QUIET_SECONDS * 1000;
      setText(byId("announcer"), text);
    }, Math.max(0, wait));
  }
}

export function title(connection, words, short) {
  return connection.name === "live" ? `${short} · Leeway` : `${words} · Leeway`;
}

/** The commands that start a worker of this server. */
export function drawWelcome(origin) {
  setText(byId("command"), `ps-worker digits --server ${origin} --rank w0`);
  setText(byId("connect"), `leeway.connect("${origin}")`);
}

