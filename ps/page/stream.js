// The connection to /v1/events: read with fetch, so that a refusal can be told from silence; opened again whenever it
// ends. Who looks on is known by a cookie.
//
// The one rule: it never gives up and never asks more often than the pauses below allow. What it tells is where it
// stands: `{name: "connecting" | "live" | "lost" | "token", ...}`, the last one where nobody has logged in.

import { refusal } from "./requests.js";
import { Parser } from "./sse.js";

/** Pauses between attempts, in seconds; the last one is repeated. */
const PAUSES = [0.5, 1, 2, 4, 8, 10];

/** The server says something every two seconds. Silence this long means that it or the way to it is gone. */
const SILENCE_SECONDS = 10;

class TokenNeeded extends Error {}

export class Stream {
  #url;
  #onMessage;
  #onState;
  #attempt = 0;
  #lastId = null;
  #lostSince = null;
  #abort = null;
  #live = false;
  /** Whether anything was told since the last login. */
  #admitted = false;
  #wake = null;

  /** `onMessage(event, data)`: the name of the message and its JSON. */
  constructor(url, onMessage, onState) {
    this.#url = url;
    this.#onMessage = onMessage;
    this.#onState = onState;
  }

  /** Never ends. */
  async run() {
    this.#onState({ name: "connecting" });
    for (;;) {
      let failure = null;
      try {
        await this.#read();
      } catch (error) {
        failure = error;
      }
      if (failure instanceof TokenNeeded) await this.#untilToken();
      else await this.#pause(failure);
    }
  }

  /** Try at once instead of at the end of the pause. */
  now() {
    this.#wake?.();
  }

  /** End the connection, as if it were lost. */
  leave() {
    this.#abort?.abort(new TypeError("left"));
  }

  async #read() {
    const abort = new AbortController();
    this.#abort = abort;
    let silence = null;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(new Error("nothing was heard")), SILENCE_SECONDS * 1000);
    };
    try {
      heard();
      const response = await fetch(this.#url, { headers: this.#headers(), cache: "no-store", signal: abort.signal });
      if (response.status === 401) throw new TokenNeeded();
      if (!response.ok) throw new Error(await refusal(response));
      const parser = new Parser();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        heard();
        parser.feed(value).forEach((message) => this.#take(message));
      }
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  }

  #take({ event, data, id }) {
    if (!this.#live) {
      this.#live = true;
      this.#admitted = true;
      this.#attempt = 0;
      this.#lostSince = null;
      this.#onState({ name: "live" });
    }
    // Ids only rise, over a restart too: the next server knows what is new to us.
    if (id !== null) this.#lastId = id;
    this.#onMessage(event, JSON.parse(data));
  }

  #headers() {
    const headers = { Accept: "text/event-stream" };
    if (this.#lastId !== null) headers["Last-Event-ID"] = this.#lastId;
    return headers;
  }

  async #untilToken() {
    this.#live = false;
    this.#onState({ name: "token", ended: this.#admitted });
    this.#admitted = false;
    await new Promise((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = null;
    this.#onState({ name: "connecting" });
  }

  async #pause(failure) {
    this.#live = false;
    this.#lostSince ??= new Date();
    const seconds = PAUSES[Math.min(this.#attempt, PAUSES.length - 1)];
    this.#attempt += 1;
    // Many pages on one server: they must not come back in the same moment.
    const pause = seconds * (0.8 + 0.4 * Math.random()) * 1000;
    const detail = failure === null || failure instanceof TypeError ? "" : failure.message;
    this.#onState({ name: "lost", since: this.#lostSince, retryAt: new Date(Date.now() + pause), detail });
    await new Promise((resolve) => {
      this.#wake = resolve;
      setTimeout(resolve, pause);
    });
    this.#wake = null;
  }
}
