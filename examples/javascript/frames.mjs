// The frame format (docs/reference/frame-format.md) in JavaScript, with no package: a writer, and a reader that refuses
// whatever the page says a reader must refuse.

const HEADER = 32;
const ALIGN = 64;
const MAX = { metadata: 4_194_304, items: 65_536, values: 1_048_576, depth: 16, name: 512, dimensions: 16 };

const SIZE = { float32: 4, float64: 8, float16: 2, bfloat16: 2, int64: 8, int32: 4, int16: 2, int8: 1, uint8: 1, bool: 1 };
const FLOATING = new Set(["float32", "float64", "float16", "bfloat16"]);
const KINDS = { trainable: true, "float-buffer": true, "integer-buffer": false };

const REFUSED =
  /[\0-\x1f\x7f-\xa0\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ud800-\uf8ff\ufeff\ufff9-\ufffb\u{110bd}\u{110cd}\u{13430}-\u{1343f}\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e007f}\u{f0000}-\u{10ffff}]/u;

const padded = (length) => Math.ceil(length / ALIGN) * ALIGN;

function refuse(words) {
  throw new Error(words);
}

/** A frame: `tensors` is `[{name, dtype, kind, shape, data}]`, `data` a typed array of little-endian values. */
export function write(message, tensors = []) {
  let end = 0;
  const rows = tensors.map(({ name, dtype, kind = "trainable", shape, data }) => {
    const row = [name, dtype, kind, shape, end];
    end += padded(data.byteLength);
    return row;
  });
  const metadata = Buffer.from(pack(tensors.length ? { ...message, tensors: rows } : message));
  const begin = padded(HEADER + metadata.length);
  const frame = Buffer.alloc(begin + end);
  frame.write("LWAY", 0, "latin1");
  frame.writeUInt16LE(1, 4);
  frame.writeUInt32LE(metadata.length, 8);
  frame.writeBigUInt64LE(BigInt(end), 16);
  metadata.copy(frame, HEADER);
  tensors.forEach(({ data }, index) => {
    Buffer.from(data.buffer, data.byteOffset, data.byteLength).copy(frame, begin + rows[index][4]);
  });
  return frame;
}

/** `{message, tensors}` of a frame in a Buffer; a tensor is `{name, dtype, kind, shape, bytes}`. */
export function read(frame, maxBody = 2 ** 32) {
  if (frame.length < HEADER) refuse("truncated header");
  if (frame.toString("latin1", 0, 4) !== "LWAY") refuse("no frame");
  if (frame.readUInt16LE(4) !== 1 || frame.readUInt16LE(6) !== 0) refuse("another version, or flags");
  if (frame.readUInt32LE(12) !== 0 || frame.readBigUInt64LE(24) !== 0n) refuse("reserved fields are in use");
  const length = frame.readUInt32LE(8);
  if (length < 1 || length > MAX.metadata) refuse("length of the metadata");
  if (frame.readBigUInt64LE(16) > BigInt(maxBody)) refuse("the body is too large");
  const bodyLength = Number(frame.readBigUInt64LE(16));
  const begin = padded(HEADER + length);
  if (frame.length !== begin + bodyLength) refuse("truncated, or bytes behind the frame");
  const zeros = (from, to) => frame.subarray(from, to).every((byte) => byte === 0) || refuse("padding is not zero");
  zeros(HEADER + length, begin);
  const message = unpack(frame.subarray(HEADER, HEADER + length));
  if (!isMap(message)) refuse("the metadata is no map");
  const rows = Object.hasOwn(message, "tensors") ? message.tensors : [];
  delete message.tensors;
  if (!Array.isArray(rows)) refuse("the tensor table is no array");
  const known = new Set();
  let end = 0;
  const tensors = rows.map((row) => {
    const { name, dtype, kind, shape, offset, bytes } = readRow(row);
    if (known.has(name)) refuse("a name twice");
    known.add(name);
    if (offset !== end) refuse("another offset than the shapes say");
    end = padded(offset + bytes);
    if (end > bodyLength) refuse("the body is too short");
    zeros(begin + offset + bytes, begin + end);
    return { name, dtype, kind, shape, bytes: frame.subarray(begin + offset, begin + offset + bytes) };
  });
  if (end !== bodyLength) refuse("the body is too long");
  return { message, tensors };
}

function readRow(row) {
  if (!Array.isArray(row) || row.length !== 5) refuse("a row is not [name, dtype, kind, shape, offset]");
  const [name, dtype, kind, shape, offset] = row;
  if (typeof name !== "string" || REFUSED.test(name) || ![...name].length || [...name].length > MAX.name) refuse("a name");
  if (typeof dtype !== "string" || !Object.hasOwn(SIZE, dtype)) refuse("a dtype");
  if (typeof kind !== "string" || !Object.hasOwn(KINDS, kind) || KINDS[kind] !== FLOATING.has(dtype)) refuse("a kind");
  if (!Array.isArray(shape) || shape.length > MAX.dimensions || !shape.every(isCount) || !isCount(offset)) refuse("a shape");
  const size = BigInt(SIZE[dtype]);
  const full = shape.reduce((product, length) => product * (BigInt(length) || 1n), size);
  if (full > 2n ** 63n - 1n) refuse("a tensor is too large");
  return { name, dtype, kind, shape: shape.map(Number), offset: Number(offset), bytes: Number(shape.reduce((product, length) => product * BigInt(length), size)) };
}

const isMap = (value) => value !== null && typeof value === "object" && !Array.isArray(value) && !(value instanceof Float);

/** An integer is a number, or beyond 2^53 a BigInt; a float is told apart: msgpack's 1.0 is no count. */
const isCount = (value) => (Number.isInteger(value) || typeof value === "bigint") && value >= 0;

/** A msgpack float. JavaScript has one type for both; the format has two. */
export class Float extends Number {}

/** The msgpack of plain data: null, booleans, text, arrays, maps; integers as such, other numbers as 64-bit floats. */
function pack(value) {
  if (value === null) return [0xc0];
  if (typeof value === "boolean") return [value ? 0xc3 : 0xc2];
  if (typeof value === "string") {
    const text = Buffer.from(value);
    return [...head(text.length, 0xa0, 32, [0xd9, 0xda, 0xdb]), ...text];
  }
  if (Number.isSafeInteger(value)) return packInteger(value);
  if (typeof value === "number" || value instanceof Float) {
    const data = Buffer.alloc(9, 0xcb);
    data.writeDoubleBE(Number(value), 1);
    return [...data];
  }
  if (Array.isArray(value)) return [...head(value.length, 0x90, 16, [null, 0xdc, 0xdd]), ...value.flatMap(pack)];
  const entries = Object.entries(value);
  return [...head(entries.length, 0x80, 16, [null, 0xde, 0xdf]), ...entries.flatMap(([key, one]) => [...pack(key), ...pack(one)])];
}

function head(length, fixed, below, [code1, code2, code4]) {
  if (length < below) return [fixed | length];
  if (code1 !== null && length < 0x100) return [code1, length];
  if (length < 0x10000) return [code2, length >> 8, length & 255];
  return [code4, ...bigEndian(length, 4)];
}

function packInteger(value) {
  if (value >= 0) {
    if (value < 0x80) return [value];
    for (const [bytes, code] of [[1, 0xcc], [2, 0xcd], [4, 0xce]]) if (value < 256 ** bytes) return [code, ...bigEndian(value, bytes)];
    return [0xcf, ...bigEndian(value, 8)];
  }
  if (value >= -32) return [value & 255];
  for (const [bytes, code] of [[1, 0xd0], [2, 0xd1], [4, 0xd2]]) if (value >= -(256 ** bytes) / 2) return [code, ...bigEndian(value, bytes)];
  return [0xd3, ...bigEndian(value, 8)];
}

function bigEndian(value, bytes) {
  const all = Buffer.alloc(8);
  all.writeBigInt64BE(BigInt(value));
  return all.subarray(8 - bytes);
}

/** Plain data of msgpack. What a stock library lets pass and this format does not is refused here. */
function unpack(data) {
  const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let at = 0;
  let values = 0;
  const take = (count) => {
    if (at + count > data.length) refuse("the msgpack is incomplete");
    at += count;
    return data.subarray(at - count, at);
  };
  const unsigned = (bytes) => {
    let number = 0n;
    for (const byte of take(bytes)) number = number * 256n + BigInt(byte);
    return number;
  };
  const exact = (number) => (number >= -(2n ** 53n) && number <= 2n ** 53n ? Number(number) : number);
  const items = (count) => {
    values += 1 + count;
    if (count > MAX.items || values > MAX.values) refuse("too many values");
    return Array.from({ length: count });
  };
  const value = (depth) => {
    const [code] = take(1);
    if (code < 0x80) return code;
    if (code >= 0xe0) return code - 256;
    if (code < 0x90) return map(code & 15, depth);
    if (code < 0xa0) return array(code & 15, depth);
    if (code < 0xc0) return text.decode(take(code & 31));
    if (code === 0xc0) return null;
    if (code === 0xc2 || code === 0xc3) return code === 0xc3;
    if (code === 0xca) return new Float(take(4).readFloatBE());
    if (code === 0xcb) return new Float(take(8).readDoubleBE());
    if (code >= 0xcc && code <= 0xcf) return exact(unsigned(2 ** (code - 0xcc)));
    if (code >= 0xd0 && code <= 0xd3) return exact(BigInt.asIntN(8 * 2 ** (code - 0xd0), unsigned(2 ** (code - 0xd0))));
    if (code >= 0xd9 && code <= 0xdb) return text.decode(take(Number(unsigned(2 ** (code - 0xd9)))));
    if (code === 0xdc || code === 0xdd) return array(Number(unsigned(code === 0xdc ? 2 : 4)), depth);
    if (code === 0xde || code === 0xdf) return map(Number(unsigned(code === 0xde ? 2 : 4)), depth);
    return refuse("binary, an extension, or a byte that msgpack never uses");
  };
  const array = (count, depth) => {
    if (depth > MAX.depth) refuse("nested too deep");
    return items(count).map(() => value(depth + 1));
  };
  const map = (count, depth) => {
    if (depth > MAX.depth) refuse("nested too deep");
    const found = Object.create(null);
    for (const _ of items(count)) {
      const key = value(depth + 1);
      if (typeof key !== "string") refuse("a key is no text");
      if (Object.hasOwn(found, key)) refuse("a key twice");
      found[key] = value(depth + 1);
    }
    return found;
  };
  const found = value(1);
  if (at !== data.length) refuse("bytes behind the msgpack");
  return found;
}
