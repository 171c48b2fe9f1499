// The dialog in which an admin changes a group's policy and learning rate, and lets ranks in that are kept out.
//
// The one rule: nothing is sent before it has been said what will happen, for exactly these values; what the server
// refuses is shown where it was asked for.

import { byId, el, keyed, setText, show, span } from "./dom.js";
import { inShort, ofLearningRate, ofPolicy } from "./foresight.js";
import { ask } from "./requests.js";
import { shortName } from "./words.js";

/** What is said holds for a moment: it is asked for again as often as a state comes. */
const AGAIN_SECONDS = 2;

export class Control {
  #base;
  #view = null;
  #run = null;
  #timer = null;
  /** For which values the words are that stand there. */
  #saidOf = { policy: null, rate: null };

  /** `base`: where the server's addresses begin. */
  constructor(base) {
    this.#base = base;
    byId("control").addEventListener("click", () => this.open());
    byId("control-dialog").addEventListener("close", () => clearInterval(this.#timer));
    byId("policy-form").addEventListener("input", () => this.#foreseePolicy());
    byId("rate-form").addEventListener("input", () => this.#foreseeRate());
    byId("policy-form").addEventListener("submit", (event) => this.#submit(event, "policy", () => this.#policy()));
    byId("rate-form").addEventListener("submit", (event) => this.#submit(event, "rate", () => this.#rate()));
  }

  /** `allowed`: whether who looks on may change anything. */
  draw(run, view, allowed) {
    this.#run = run;
    this.#view = view;
    show(byId("control"), allowed);
    if (!allowed) byId("control-dialog").close();
    else if (byId("control-dialog").open) this.#drawQuarantine();
  }

  open() {
    if (!this.#view || byId("control").hidden || byId("control-dialog").open) return;
    const { policy, learning_rate: rate, name } = this.#view;
    const several = this.#run.groups.length > 1;
    setText(byId("control-title"), several ? `Change group ${name}` : "Change the run");
    byId("control-dialog").dataset.group = name;
    byId("policy-mode").value = policy.mode;
    byId("policy-bound").value = policy.staleness ?? 3;
    byId("policy-quorum").value = policy.quorum ?? "";
    byId("policy-grace").value = policy.grace_seconds ?? "";
    byId("rate").value = rate;
    for (const part of ["policy", "rate"]) this.#result(part, "");
    byId("control-dialog").showModal();
    this.#again();
    this.#timer = setInterval(() => this.#again(), AGAIN_SECONDS * 1000);
    // The rate that is set, not the one that a schedule makes of it.
    ask(this.#url("v1/optimizer")).then(({ lr }) => {
      byId("rate").value = lr;
      this.#foreseeRate();
    }, () => {});
    this.#drawQuarantine();
  }

  #again() {
    this.#foreseePolicy();
    this.#foreseeRate();
  }

  #url(path, query = {}) {
    const url = new URL(path, this.#base);
    url.search = new URLSearchParams({ ...query, group: byId("control-dialog").dataset.group });
    return url;
  }

  /** As the server takes it. */
  #policy() {
    const mode = byId("policy-mode").value;
    if (mode === "ssp") return { mode, staleness: Number(byId("policy-bound").value) };
    const quorum = byId("policy-quorum").value;
    if (mode !== "sync" || !quorum) return { mode };
    const grace = byId("policy-grace").value.trim();
    return { mode, quorum: Number(quorum), grace_seconds: grace === "" || grace === "auto" ? "auto" : Number(grace) };
  }

  #rate() {
    return { lr: Number(byId("rate").value) };
  }

  #foreseePolicy() {
    const mode = byId("policy-mode").value;
    show(byId("bound-field"), mode === "ssp");
    show(byId("quorum-field"), mode === "sync");
    show(byId("grace-field"), mode === "sync" && byId("policy-quorum").value !== "");
    byId("policy-bound").disabled = mode !== "ssp";
    const wanted = this.#policy();
    this.#foresee("policy", wanted, async () => {
      const preview = await ask(this.#url("v1/policy/preview", wanted));
      const { policy, learning_rate: learningRate, workers } = this.#view;
      const now = { mode: policy.mode, learningRate, workers: workers.length };
      return [ofPolicy(preview, now), preview.changes, `Switch to ${inShort(preview.policy)}`];
    });
  }

  #foreseeRate() {
    const wanted = this.#rate();
    this.#foresee("rate", wanted, async () => {
      const optimizer = await ask(this.#url("v1/optimizer"));
      return [ofLearningRate(optimizer, wanted.lr), wanted.lr !== optimizer.lr, `Set the rate to ${wanted.lr}`];
    });
  }

  /** `find`: answers the sentences, whether there is anything to do, and what the button then says. */
  async #foresee(part, wanted, find) {
    const key = JSON.stringify(wanted);
    const button = byId(`${part}-submit`);
    if (this.#saidOf[part] !== key) {
      this.#result(part, "");
      button.disabled = true;
    }
    this.#saidOf[part] = key;
    if (!byId(`${part}-form`).checkValidity()) {
      this.#say(part, ["Fill in a number that is allowed."]);
      button.disabled = true;
      return;
    }
    try {
      const [sentences, changes, words] = await find();
      // Meanwhile something else may have been typed.
      if (this.#saidOf[part] !== key) return;
      this.#say(part, sentences);
      setText(button, words);
      button.disabled = !changes;
    } catch (error) {
      if (this.#saidOf[part] !== key) return;
      this.#say(part, [`The server would refuse it: ${error.message}.`]);
      button.disabled = true;
    }
  }

  #say(part, sentences) {
    keyed(byId(`${part}-foresight`), sentences, (text) => text, (text) => el("li", {}, text), () => {});
  }

  #result(part, words, refused = false) {
    const node = byId(`${part}-result`);
    setText(node, words);
    node.classList.toggle("alarm", refused);
    show(node, words !== "");
  }

  async #submit(event, part, wanted) {
    event.preventDefault();
    const values = wanted();
    if (byId(`${part}-submit`).disabled || JSON.stringify(values) !== this.#saidOf[part]) return;
    byId(`${part}-submit`).disabled = true;
    try {
      const path = part === "policy" ? "v1/policy" : "v1/optimizer";
      await ask(this.#url(path), "PUT", values);
      this.#result(part, "Done.");
    } catch (error) {
      this.#result(part, `Refused: ${error.message}.`, true);
    }
    this.#again();
  }

  #drawQuarantine() {
    const rows = this.#run.status?.quarantine ?? [];
    show(byId("quarantine-part"), rows.length > 0);
    keyed(byId("quarantine-rows"), rows, ({ rank }) => rank, ({ rank }) => {
      const button = el("button", { type: "button" }, "Let in");
      button.addEventListener("click", () => this.#release(rank, button));
      return el("li", {}, span("why"), " ", button);
    }, (node, { rank, why }) => setText(node.firstElementChild, `${shortName(rank)}: ${why}`));
  }

  async #release(rank, button) {
    button.disabled = true;
    try {
      await ask(new URL(`v1/quarantine/${encodeURIComponent(rank)}`, this.#base), "DELETE");
    } catch (error) {
      setText(button, error.message);
    }
  }
}
