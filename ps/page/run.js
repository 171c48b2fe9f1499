// What the page knows of the run: the newest status, the half minute before it, the curve, the decisions.
//
// The one rule: it holds what the server said and what follows from it by counting. It draws nothing and waits for
// nothing. A new epoch is a new run: nothing of the old one stays.

import { extended } from "./figures.js";
import { APART_SECONDS, Trail } from "./trail.js";

/** Decisions that are kept. */
const MOST_DECISIONS = 1000;

/** A worker that was not heard of for this share of its lease is in trouble: heartbeats come three times a lease. */
const SILENT_SHARE = 0.5;

/** Over how long it is measured who holds the others up, in seconds; and who has just come to a stand. */
const HELD_SECONDS = 10;
const STALL_SECONDS = 2;

/** Ranks that have gone and of which it is known for how long they were waited for. */
const MOST_GONE = 200;

const RANKS = new Intl.Collator("en", { numeric: true });

export class Run {
  status = null;
  points = [];
  decisions = [];
  /** Grows with every decision; says whether the log has to be drawn. */
  news = 0;
  #trail = new Trail();
  #leaseSeconds = 0;
  /** By group: its policy as text, and the uptime at which it came into force (null: before the page was opened). */
  #policies = new Map();
  /** By group: for how long the ranks held the others that are here no more. */
  #gone = new Map();

  /** Take a message of the stream. */
  take(event, data) {
    if (event === "status") this.#status(data);
    else if (event === "curve") this.points = data.points;
    else if (event === "point") this.points = extended(this.points, data);
    else if (event === "decision") this.#decision(data);
  }

  get groups() {
    return Object.keys(this.status?.groups ?? {});
  }

  /** The server says that it ends: on purpose, or because the run has reached its end. */
  get ending() {
    if (this.status?.finished || this.#said("finished")) return "finished";
    return this.status?.stopping || this.#said("stopping") ? "stopping" : null;
  }

  /** The group to show of one who has not chosen: `{name, found}`. Found is one that has workers. */
  get firstGroup() {
    const joined = new Set((this.status?.workers ?? []).flatMap((worker) => Object.keys(worker.groups)));
    const found = ["default", ...this.groups].find((name) => joined.has(name));
    const other = this.groups.includes("default") ? "default" : (this.groups[0] ?? null);
    return { name: found ?? other, found: found !== undefined };
  }

  /** Null before the first status, or where there is no such group. */
  view(name) {
    const group = this.status?.groups[name];
    if (!group) return null;
    const members = this.status.workers.filter((worker) => worker.groups[name]);
    // What was measured under another policy says nothing of this one.
    const since = this.#policies.get(name)?.since ?? null;
    const heldOver = since === null ? HELD_SECONDS : Math.min(HELD_SECONDS, this.status.uptime_seconds - since);
    const workers = members.map((worker) => this.#worker(worker, name, heldOver));
    workers.sort((one, other) => RANKS.compare(one.rank, other.rank));
    const awaitedBy = new Map();
    for (const worker of workers) {
      if (worker.state !== "waiting") continue;
      for (const rank of worker.why?.waiting_for ?? []) awaitedBy.set(rank, (awaitedBy.get(rank) ?? 0) + 1);
    }
    for (const worker of workers) worker.awaitedBy = awaitedBy.get(worker.rank) ?? 0;
    return {
      ...group,
      name,
      workers,
      forming: this.status.forming ?? [],
      heldOver,
      gone: [...(this.#gone.get(name) ?? [])].map(([rank, heldSeconds]) => ({ rank, heldSeconds })),
      uptime: this.status.uptime_seconds,
      until: this.status.until,
      over: this.status.over,
      stepsRate: this.#trail.rate(`steps ${name}`, 5),
      updatesRate: this.#trail.rate(`updates ${name}`, 5),
    };
  }

  #status(status) {
    const before = this.status;
    if (before !== null && before.epoch !== status.epoch) {
      this.decisions = [];
      this.news += 1;
    }
    // A server that was stopped in good order and resumed goes on with its epoch, and counts its uptime from zero.
    if (before !== null && (before.epoch !== status.epoch || before.uptime_seconds > status.uptime_seconds)) {
      this.points = [];
      this.#trail = new Trail();
      this.#leaseSeconds = 0;
      this.#policies = new Map();
      this.#gone = new Map();
    } else if (before !== null) this.#remember(before, status);
    this.status = status;
    for (const [name, { policy }] of Object.entries(status.groups)) {
      const words = JSON.stringify(policy);
      const known = this.#policies.get(name);
      if (known?.words === words) continue;
      this.#policies.set(name, { words, since: known ? status.uptime_seconds : null });
    }
    const totals = new Map();
    for (const [name, group] of Object.entries(status.groups)) {
      totals.set(`steps ${name}`, group.steps ?? group.version);
      totals.set(`updates ${name}`, group.updates);
    }
    for (const worker of status.workers) {
      this.#leaseSeconds = Math.max(this.#leaseSeconds, worker.lease_left_seconds);
      for (const [name, progress] of Object.entries(worker.groups)) {
        totals.set(life("waiting", name, worker), progress.waiting_seconds);
        totals.set(life("held", name, worker), progress.held_seconds);
      }
    }
    this.#trail.add(status.uptime_seconds, totals);
  }

  /** What the lives that have ended between two states were waited for. */
  #remember(before, after) {
    const here = new Set(after.workers.map(({ rank, incarnation }) => `${incarnation} ${rank}`));
    for (const { rank, incarnation, groups } of before.workers) {
      if (here.has(`${incarnation} ${rank}`)) continue;
      for (const [name, { held_seconds: held }] of Object.entries(groups)) {
        if (!(held > 0)) continue;
        const gone = this.#gone.get(name) ?? new Map();
        this.#gone.set(name, gone);
        gone.set(rank, (gone.get(rank) ?? 0) + held);
        if (gone.size > MOST_GONE) gone.delete([...gone].reduce((least, one) => (one[1] < least[1] ? one : least))[0]);
      }
    }
  }

  #worker(worker, name, heldOver) {
    const progress = worker.groups[name];
    const left = worker.lease_left_seconds;
    const held = (over) => (over < APART_SECONDS ? null : this.#trail.share(life("held", name, worker), over));
    return {
      rank: worker.rank,
      incarnation: worker.incarnation,
      reported: worker.reported ?? {},
      clock: progress.clock,
      lag: progress.lag,
      state: progress.state,
      why: progress.why ?? null,
      lateUpdates: progress.late_updates ?? 0,
      newestLate: progress.newest_late ?? false,
      heldSeconds: progress.held_seconds ?? 0,
      waitingShare: this.#trail.share(life("waiting", name, worker)),
      heldShare: held(heldOver),
      stallShare: held(Math.min(STALL_SECONDS, heldOver)),
      leaseLeft: left,
      replica: worker.stages ? { stages: worker.stages, holding: worker.holding ?? null } : null,
      silentSeconds: left < this.#leaseSeconds * SILENT_SHARE ? this.#leaseSeconds - left : null,
    };
  }

  #decision(decision) {
    const last = this.decisions.at(-1);
    if (last && decision.id <= last.id) return; // told again after a new connection
    this.decisions.push(decision);
    if (this.decisions.length > MOST_DECISIONS) this.decisions.shift();
    this.news += 1;
  }

  #said(kind) {
    return this.decisions.at(-1)?.kind === kind;
  }
}

function life(what, group, worker) {
  return `${what} ${group} ${worker.incarnation} ${worker.rank}`;
}
