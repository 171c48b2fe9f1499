// What a change will do, in plain words, before it is made.
//
// The one rule: what is said of workers and rounds is what the server has worked out for this moment
// (/v1/policy/preview); nothing is guessed here. What a setting means in general is said as that.

import { counted, duration, names, setting, whole } from "./words.js";

const MEANING = {
  sync: "Workers go in rounds: one step is made of all their updates, and nobody is ahead.",
  quorum: "A round closes when enough updates are there and the grace has passed; who comes later has its update dropped.",
  async: "Each update makes a step when it comes; nobody waits for anybody.",
  ssp: "Each update makes a step when it comes; who is further ahead of the slowest than the bound waits.",
};

const IN_ROUNDS = (mode) => mode === "sync";

/**
 * The sentences about a switch. `preview`: the server's. `now`: `{mode, learningRate, workers}` of the group.
 */
export function ofPolicy(preview, now) {
  const { policy, changes } = preview;
  if (!changes) {
    const at = policy.switching_at;
    return [at === null ? "This is the policy in force." : `This is on its way: it begins at clock ${whole(at)}.`];
  }
  const meaning = MEANING[policy.quorum ? "quorum" : policy.mode];
  return [meaning, ...ofRounds(preview), ...ofWorkers(preview), ...ofRate(policy.mode, now)];
}

function ofRounds({ policy, round, held, needed, late }) {
  const said = [];
  if (policy.switching_at !== null) {
    const until = "Until then all run without a bound, and who gets there waits.";
    said.push(`The first round opens at clock ${whole(policy.switching_at)}. ${until}`);
    if (policy.quorum) said.push(`It opens with ${whole(policy.quorum)}; who is not there then loses the update in hand.`);
  }
  if (round === null) return said;
  if (!IN_ROUNDS(policy.mode)) {
    const made = held ? `as one step with ${counted(held, "update")}` : "without a step: it has no update yet";
    said.push(`Round ${whole(round)} closes at once, ${made}. Who still computes for it has its update applied on arrival.`);
  } else if (needed) said.push(`Round ${whole(round)} goes on: it closes with ${whole(needed)} more.`);
  else {
    const when = policy.grace_seconds === 0 ? "at once" : "when the grace has passed";
    said.push(`Round ${whole(round)} has ${counted(held, "update")}, which is enough: it closes ${when}.`);
  }
  if (late.count) said.push(`${some(late)} still ${verb(late, "computes", "compute")} for it: an update that comes too late is dropped.`);
  return said;
}

function ofWorkers({ policy, let_go: letGo, will_wait: willWait, waiting_for: awaited }) {
  const said = [];
  if (letGo.count) said.push(`${some(letGo)} ${verb(letGo, "waits now and goes", "wait now and go")} on at once.`);
  if (willWait.count && awaited.count) {
    const must = verb(willWait, "has to wait", "have to wait");
    said.push(`As things stand ${some(willWait)} ${must} for ${some(awaited)}, now or at the next pull.`);
  } else if (awaited.count) said.push(`The next round waits for ${some(awaited)}, whom the quorum has left behind.`);
  if (!said.length && !IN_ROUNDS(policy.mode)) said.push("As things stand nobody has to wait because of it.");
  return said;
}

/** Between rounds and none, steps change their number: the rate that was good for one is not for the other. */
function ofRate(mode, { mode: before, learningRate, workers }) {
  if (IN_ROUNDS(mode) === IN_ROUNDS(before) || workers < 2) return [];
  const stays = `The learning rate stays ${setting(learningRate)}.`;
  return IN_ROUNDS(mode)
    ? [`${stays} One step will be made of ${whole(workers)} updates, where there were as many steps: it may be larger.`]
    : [`${stays} There will be ${whole(workers)} steps where there was one: start from a rate ${whole(workers)} times smaller.`];
}

/** The sentences about another learning rate. `optimizer`: what `/v1/optimizer` says; `lr`: the rate wished for. */
export function ofLearningRate(optimizer, lr) {
  if (lr === optimizer.lr) return ["This is the rate in force."];
  const said = [`From the next step on the rate is ${setting(lr)}${compared(lr, optimizer.lr)}.`];
  if (lr === 0) return [...said, "No step moves a trained parameter while it is 0."];
  if (optimizer.lr_schedule !== "constant" || optimizer.warmup_steps > optimizer.steps) {
    const factor = optimizer.lr > 0 && !optimizer.min_lr ? lr / optimizer.lr : null;
    const next = factor === null ? "" : `: the next step is made with ${setting(optimizer.learning_rate * factor)}`;
    said.push(`The schedule (${optimizer.lr_schedule}) goes on from step ${whole(optimizer.steps)}${next}.`);
  }
  const momentum = momentumOf(optimizer);
  if (momentum > 0) {
    const times = setting(1 / (1 - momentum));
    const kept = `Its momentum of ${setting(momentum)} stays, with all it has gathered`;
    said.push(`${kept}: the new rate scales that too, and in the long run a gradient counts ${times} times.`);
  } else if (/^ada|rmsprop/.test(optimizer.kind)) {
    said.push(`What ${optimizer.kind} has gathered of earlier gradients stays.`);
  }
  return said;
}

function momentumOf({ kind, momentum }) {
  if (kind === "momentum" || kind === "nesterov") return momentum ?? 0.9;
  return kind === "rmsprop" ? (momentum ?? 0) : 0;
}

function compared(lr, before) {
  if (!(before > 0) || lr === 0) return ` instead of ${setting(before)}`;
  const larger = lr > before;
  const times = setting(larger ? lr / before : before / lr);
  return ` instead of ${setting(before)}, ${times} times ${larger ? "larger" : "smaller"}`;
}

/** As the button says it: `ssp, at most 2 ahead`. */
export function inShort({ mode, staleness, quorum, grace_seconds: grace }) {
  if (mode === "ssp") return `ssp, at most ${whole(staleness)} ahead`;
  if (mode === "async") return "async, without a bound";
  if (!quorum) return "sync, all in rounds";
  const waits = grace === null || grace === undefined ? "auto" : duration(grace);
  return `sync, rounds of ${whole(quorum)}, grace ${waits}`;
}

function some({ ranks, count }) {
  const most = 3;
  if (count <= most) return names(ranks, most);
  return `${names(ranks.slice(0, most), most).replace(" and ", ", ")} and ${whole(count - most)} more`;
}

function verb({ count }, one, many) {
  return count === 1 ? one : many;
}
