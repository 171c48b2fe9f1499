// Reads the test vectors with the reader of examples/javascript: prints what is not as the vectors say.
// `node vectors.mjs FOLDER`.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { read, write } from "../../examples/javascript/frames.mjs";

const folder = process.argv[2];
const json = (name) => JSON.parse(readFileSync(join(folder, name), "utf8"));
const bytes = (hex) => Buffer.from(hex.replace(/\s/g, ""), "hex");
const plain = (value) => JSON.stringify(value, (_, one) => (typeof one === "bigint" ? Number(one) : one));
const faults = [];
let seen = 0;

for (const vector of json("valid.json")) {
  seen += 1;
  const frame = bytes(readFileSync(join(folder, `${vector.name}.hex`), "utf8"));
  try {
    const { message, tensors } = read(frame);
    if (plain(message) !== plain(vector.message)) faults.push(`${vector.name}: ${plain(message)}`);
    const found = tensors.map((one) => [one.name, one.dtype, one.kind, one.shape, one.bytes.toString("hex")]);
    const told = (vector.tensors ?? []).map((one) => [one.name, one.dtype, one.kind, one.shape, one.bytes.replace(/\s/g, "")]);
    if (plain(found) !== plain(told)) faults.push(`${vector.name}: ${plain(found)} is not ${plain(told)}`);
    const again = tensors.map((one) => ({ ...one, data: Uint8Array.from(one.bytes) }));
    if (vector.exact && vector.tensors?.length && !write(message, again).equals(frame)) faults.push(`${vector.name}: written otherwise`);
  } catch (error) {
    faults.push(`${vector.name}: ${error.stack}`);
  }
}
for (const vector of json("malformed.json")) {
  seen += 1;
  let taken = true;
  try {
    read(bytes(vector.hex));
  } catch {
    taken = false;
  }
  if (taken) faults.push(`${vector.name} was taken: ${vector.about}`);
}
console.log(faults.join("\n"));
console.log(`${seen} vectors, ${faults.length} faults`);
