// Hashes a safetensors file in the browser and asks which models hold what it holds.
"use strict";
(() => {
  const [SAMPLES, SAMPLE_BYTES] = [16, 64 << 10]; // as megasim takes them of a file
  const PIECE = 4 << 20;
  const MOST_HEADER = 100e6;
  const drop = document.getElementById("drop");
  const input = document.getElementById("file");
  const answer = document.getElementById("answer");
  const button = document.getElementById("tensors");
  const progress = document.getElementById("progress");
  const dtypes = JSON.parse(drop.dataset.dtypes);
  let current = 0; // a file that is chosen later stops the work on an earlier one

  async function bytes(file, from, count) {
    return new Uint8Array(await file.slice(from, from + count).arrayBuffer());
  }

  function little(value) {
    const out = new Uint8Array(8);
    new DataView(out.buffer).setBigUint64(0, BigInt(value), true);
    return out;
  }

  // Return the header of a safetensors file: its bytes, and its tensors in their order.
  async function headerOf(file) {
    const start = await bytes(file, 0, 8);
    if (start.length < 8) throw new Error("it is too short for a .safetensors file");
    const size = Number(new DataView(start.buffer).getBigUint64(0, true));
    if (size > MOST_HEADER || size > file.size) throw new Error("it is not a .safetensors file");
    const raw = await bytes(file, 0, 8 + size);
    const found = JSON.parse(new TextDecoder().decode(raw.subarray(8)));
    delete found.__metadata__;
    return { raw, at: 8 + size, tensors: Object.values(found) };
  }

  async function identityOf(file, header) {
    const hash = new Blake3().update(little(header.length)).update(header);
    hash.update(little(file.size));
    const span = Math.min(SAMPLE_BYTES, file.size);
    for (let i = 0; i < SAMPLES; i++) {
      const from = Number((BigInt(file.size - span) * BigInt(i)) / BigInt(SAMPLES - 1));
      hash.update(await bytes(file, from, span));
    }
    return hash.hex();
  }

  // Return the content hash of each tensor: BLAKE3 over the name of its dtype and its bytes.
  async function contentsOf(file, header, mine) {
    const found = [];
    const total = file.size - header.at;
    let done = 0;
    for (const tensor of header.tensors) {
      const dtype = dtypes[tensor.dtype];
      const [from, to] = tensor.data_offsets;
      if (dtype === undefined || !(to >= from)) continue;
      const hash = new Blake3().update(new TextEncoder().encode(`${dtype}:`));
      for (let at = from; at < to; at += PIECE) {
        const count = Math.min(PIECE, to - at);
        hash.update(await bytes(file, header.at + at, count));
        if (mine !== current) return null;
        done += count;
        progress.value = done / Math.max(total, 1);
      }
      found.push(hash.hex());
    }
    return found;
  }

  async function ask(path, body, type) {
    const headers = { "Content-Type": type, Accept: "application/json" };
    const response = await fetch(path, { method: "POST", body, headers });
    const told = await response.json();
    if (!response.ok) throw new Error(told.detail ?? told.title ?? `status ${response.status}`);
    return told;
  }

  function element(name, text) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function show(told, title) {
    if (title) answer.append(element("h2", title));
    const list = element("ul");
    for (const sentence of told.sentences) list.append(element("li", sentence));
    answer.append(list);
    if (!told.rows.length) return;
    const table = element("table");
    const head = table.createTHead().insertRow();
    for (const name of ["model", "component", "tensors held", "of"]) {
      const cell = element("th", name);
      cell.scope = "col";
      head.append(cell);
    }
    const body = table.createTBody();
    for (const row of told.rows) {
      const line = body.insertRow();
      const link = element("a", row.model);
      link.href = row.href;
      line.insertCell().append(link);
      line.insertCell().textContent = row.title;
      for (const value of [row.held, row.keys]) {
        const cell = line.insertCell();
        cell.className = "number";
        cell.textContent = value.toLocaleString("en");
      }
    }
    const scroll = element("div");
    scroll.className = "scroll";
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "Who holds its tensors");
    scroll.append(table);
    answer.append(scroll);
  }

  async function look(file) {
    const mine = ++current;
    answer.replaceChildren();
    button.hidden = true;
    progress.hidden = true;
    try {
      if (file.name.endsWith(".parquet")) {
        const told = await ask("/identify/fingerprints", file, "application/octet-stream");
        if (mine === current) for (const model of told.models) show(model, model.title);
        return;
      }
      const header = await headerOf(file);
      const identity = await identityOf(file, header.raw);
      const told = await ask("/identify/contents", JSON.stringify({ identity }), "application/json");
      if (mine !== current) return;
      if (!told.sentences.length) told.sentences = ["No model of the store is this very file."];
      show(told);
      button.hidden = false;
      button.onclick = async () => {
        button.hidden = true;
        progress.hidden = false;
        progress.value = 0;
        try {
          const contents = await contentsOf(file, header, mine);
          if (contents === null) return;
          const asked = JSON.stringify({ contents });
          const held = await ask("/identify/contents", asked, "application/json");
          if (mine === current) show(held);
        } catch (error) {
          answer.append(element("p", `It cannot be told: ${error.message}.`));
        } finally {
          progress.hidden = true;
        }
      };
    } catch (error) {
      if (mine === current) answer.append(element("p", `It cannot be told: ${error.message}.`));
    }
  }

  input.addEventListener("change", () => { if (input.files.length) look(input.files[0]); });
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) look(event.dataTransfer.files[0]);
  });
})();
