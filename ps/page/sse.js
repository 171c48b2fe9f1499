// The text of a stream of server-sent events, taken apart (WHATWG HTML, section 9.2.6 "Interpreting an event stream").
//
// The one rule: it knows the format alone. A piece may end anywhere, between CR and LF too; what is not complete waits.

export class Parser {
  #rest = "";
  #event = "";
  #data = [];
  #id = null;

  /** The messages that this piece of text completes: `{event, data, id}`, `id` null where none was given. */
  feed(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines.map((line) => this.#line(line)).filter((message) => message !== null);
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return null; // a comment: a sign of life, nothing else
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#event = value;
    else if (field === "data") this.#data.push(value);
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }

  #dispatch() {
    const message = { event: this.#event || "message", data: this.#data.join("\n"), id: this.#id };
    const complete = this.#data.length > 0;
    this.#event = "";
    this.#data = [];
    this.#id = null;
    return complete ? message : null;
  }
}
