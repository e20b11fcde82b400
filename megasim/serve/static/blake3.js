// BLAKE3, as its specification has it: https://github.com/BLAKE3-team/BLAKE3-specs
// The hash that megasim's fingerprints are made with, so that a file need not leave the browser.
"use strict";
const Blake3 = (() => {
  const IV = [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
    0x5be0cd19];
  const ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
  const [CHUNK_START, CHUNK_END, PARENT, ROOT] = [1, 2, 4, 8];
  const [BLOCK, CHUNK] = [64, 1024];
  // the words that each of the seven rounds takes, in its order
  const ROUNDS = [[...Array(16).keys()]];
  for (let r = 1; r < 7; r++) ROUNDS.push(ORDER.map((i) => ROUNDS[r - 1][i]));
  const SCHEDULE = Uint8Array.from(ROUNDS.flat());
  const s = new Int32Array(16);

  function mix(a, b, c, d, x, y) {
    let sa = s[a];
    let sb = s[b];
    let sc = s[c];
    let sd = s[d];
    sa = (sa + sb + x) | 0;
    sd ^= sa;
    sd = (sd >>> 16) | (sd << 16);
    sc = (sc + sd) | 0;
    sb ^= sc;
    sb = (sb >>> 12) | (sb << 20);
    sa = (sa + sb + y) | 0;
    sd ^= sa;
    sd = (sd >>> 8) | (sd << 24);
    sc = (sc + sd) | 0;
    sb ^= sc;
    sb = (sb >>> 7) | (sb << 25);
    s[a] = sa;
    s[b] = sb;
    s[c] = sc;
    s[d] = sd;
  }

  // Return the chaining value of a block of 16 words, of which `at` is the first.
  function compress(cv, words, at, counter, length, flags) {
    for (let i = 0; i < 8; i++) s[i] = cv[i];
    for (let i = 0; i < 4; i++) s[8 + i] = IV[i];
    s[12] = counter;
    s[13] = Math.floor(counter / 4294967296);
    s[14] = length;
    s[15] = flags;
    for (let k = 0; k < 112; k += 16) {
      mix(0, 4, 8, 12, words[at + SCHEDULE[k]], words[at + SCHEDULE[k + 1]]);
      mix(1, 5, 9, 13, words[at + SCHEDULE[k + 2]], words[at + SCHEDULE[k + 3]]);
      mix(2, 6, 10, 14, words[at + SCHEDULE[k + 4]], words[at + SCHEDULE[k + 5]]);
      mix(3, 7, 11, 15, words[at + SCHEDULE[k + 6]], words[at + SCHEDULE[k + 7]]);
      mix(0, 5, 10, 15, words[at + SCHEDULE[k + 8]], words[at + SCHEDULE[k + 9]]);
      mix(1, 6, 11, 12, words[at + SCHEDULE[k + 10]], words[at + SCHEDULE[k + 11]]);
      mix(2, 7, 8, 13, words[at + SCHEDULE[k + 12]], words[at + SCHEDULE[k + 13]]);
      mix(3, 4, 9, 14, words[at + SCHEDULE[k + 14]], words[at + SCHEDULE[k + 15]]);
    }
    const out = new Int32Array(8);
    for (let i = 0; i < 8; i++) out[i] = s[i] ^ s[8 + i];
    return out;
  }

  return class {
    constructor() {
      this.stack = []; // chaining values of whole subtrees, the largest first
      this.chunks = 0;
      this.buffer = new Uint8Array(CHUNK); // the chunk that is not complete
      this.filled = 0;
      this.words = new Int32Array(this.buffer.buffer);
    }

    update(bytes) {
      let at = 0;
      while (at < bytes.length) {
        // a chunk is closed only when more follows it: the last one may be the root
        if (this.filled === CHUNK) this.close();
        const take = Math.min(CHUNK - this.filled, bytes.length - at);
        this.buffer.set(bytes.subarray(at, at + take), this.filled);
        this.filled += take;
        at += take;
      }
      return this;
    }

    // Return the last block of the chunk, to be compressed with the flags of its place.
    last() {
      this.buffer.fill(0, this.filled);
      let cv = IV;
      const blocks = Math.max(Math.ceil(this.filled / BLOCK), 1);
      for (let i = 0; i < blocks - 1; i++) {
        cv = compress(cv, this.words, 16 * i, this.chunks, BLOCK, i === 0 ? CHUNK_START : 0);
      }
      const length = this.filled - BLOCK * (blocks - 1);
      const flags = CHUNK_END | (blocks === 1 ? CHUNK_START : 0);
      const at = 16 * (blocks - 1);
      return (more) => compress(cv, this.words, at, this.chunks, length, flags | more);
    }

    close() {
      let cv = this.last()(0);
      this.chunks += 1;
      this.filled = 0;
      for (let n = this.chunks; n % 2 === 0; n /= 2) cv = parent(this.stack.pop(), cv, 0);
      this.stack.push(cv);
    }

    hex() {
      let output = this.last();
      const counter = this.chunks;
      if (this.stack.length) {
        let cv = output(0);
        for (let i = this.stack.length - 1; i > 0; i--) cv = parent(this.stack[i], cv, 0);
        output = (more) => parent(this.stack[0], cv, more);
      } else if (counter) {
        throw new Error("a chunk without its tree");
      }
      const bytes = new Uint8Array(output(ROOT).buffer);
      return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    }
  };

  function parent(left, right, flags) {
    const words = new Int32Array(16);
    words.set(left);
    words.set(right, 8);
    return compress(IV, words, 0, 0, BLOCK, PARENT | flags);
  }
})();
