// Who looks on, and what that one may do.
//
// The one rule: a token is sent once, in the body of the login, and kept nowhere. What stays is a cookie that no script
// can read.

import { ask } from "./requests.js";

export class Session {
  #url;
  #known = null;

  constructor(url) {
    this.#url = url;
  }

  /** Of the token; null: not known yet, or nobody has logged in. */
  get name() {
    return this.#known?.token_asked_for && this.#known.rights.length ? this.#known.name : null;
  }

  may(right) {
    return this.#known?.rights.includes(right) ?? false;
  }

  /** Find out. What cannot be found out stays as it was. */
  async learn() {
    try {
      this.#known = await ask(this.#url);
    } catch {
      // The stream says what is wrong.
    }
  }

  /** Throws an error with the words of a refusal. */
  async begin(token) {
    this.#known = await ask(this.#url, "POST", { token });
  }

  async end() {
    await ask(this.#url, "DELETE");
    this.#known = null;
  }
}
