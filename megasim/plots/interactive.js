// Makes the pictures of a page answer: the pointer, the keyboard, a frame drawn around some of it.
//
// A picture is <div class="picture" data-item="ID"> for an item that is in the page, packed, or
// <div class="picture" data-source="URL"> for one that is fetched. What a model is called is
// always text, never markup. Links come from the attributes data-pair and data-model, addresses
// with {a} and {b}, and data-set, a JSON list of [words, address] for a set of models.
"use strict";
(() => {
  const NEAR = 14; // pixels from which a point answers
  const NEAR_LINE = 7;
  const ROW = 13; // pixels of a line of labels
  const STYLE = `
.picture { position: relative; outline-offset: 2px; }
.picture:focus-visible { outline: 2px solid var(--picture-link); }
.picture-tip { position: absolute; z-index: 5; pointer-events: none; max-width: min(30rem, 90%);
  padding: .35rem .6rem; border: 1px solid var(--picture-rule); border-radius: 5px; background: var(--picture-paper);
  color: var(--picture-ink); font-size: 13px; line-height: 1.4; box-shadow: 0 1px 6px #0003; }
.picture-tip div, .picture-told div { overflow-wrap: anywhere; }
.picture-tip div:first-child, .picture-told div:first-child { font-weight: 600; }
.picture-told { min-height: 3.2em; margin: .4rem 0; font-size: 14px; color: var(--picture-ink); }
.picture-told a, .picture-set a { color: var(--picture-link); margin-right: .9rem; }
.picture-set { margin: .4rem 0; font-size: 14px; }
.picture-set input { width: min(24rem, 100%); font: inherit; color: inherit; background: transparent;
  border: 1px solid var(--picture-rule); border-radius: 4px; padding: .1rem .4rem; }
.picture-cursor { position: absolute; z-index: 4; pointer-events: none; border: 2px solid #fff;
  outline: 2px solid #000; }
.picture-help { font-size: 13px; color: var(--picture-quiet); margin: .2rem 0; }`;

  const dark = matchMedia("(prefers-color-scheme: dark)");
  let bokeh = null;

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function whenBokeh() {
    // a page loads it as a file; what stands alone has it packed within
    bokeh ??= (async () => {
      if (window.Bokeh) return;
      const packed = document.getElementById("bokeh-packed");
      if (packed === null) throw new Error("BokehJS is not in this page");
      const script = document.createElement("script");
      script.textContent = new TextDecoder().decode(await unpacked(packed.textContent));
      document.head.append(script);
    })();
    return bokeh;
  }

  async function itemOf(box) {
    if (box.dataset.source) {
      const answer = await fetch(box.dataset.source, { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(`the picture is not there (${answer.status})`);
      return answer.json();
    }
    const held = document.getElementById(box.dataset.item);
    return JSON.parse(new TextDecoder().decode(await unpacked(held.textContent)));
  }

  async function planeOf(plane) {
    const bytes = await unpacked(plane.data);
    const values = plane.type === "uint8" ? bytes : new Float32Array(bytes.buffer);
    return plane.same ? () => values[0] : (at) => values[at];
  }

  function element(name, className, ...texts) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...texts);
    return made;
  }

  function lines(into, texts) {
    into.replaceChildren(...texts.map((text) => element("div", "", text)));
  }

  function number(value) {
    if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(4)));
  }

  function address(template, names) {
    return template.replace(/\{(\w)\}/g, (_, key) => encodeURIComponent(names[key]));
  }

  class Picture {
    constructor(box, item, view) {
      Object.assign(this, { box, item, view, plot: view.model, chosen: new Set(), at: null });
      this.tip = element("div", "picture-tip");
      this.tip.hidden = true;
      this.cursor = element("div", "picture-cursor");
      this.cursor.hidden = true;
      this.told = element("div", "picture-told");
      this.told.setAttribute("role", "status");
      this.set = element("div", "picture-set");
      this.home = [this.plot.x_range, this.plot.y_range].map((r) => [r.start, r.end]);
      box.tabIndex = 0;
      box.setAttribute("role", "application");
      box.setAttribute("aria-label", `${item.title}. ${this.help()}`);
      box.append(this.tip, this.cursor);
      box.after(element("p", "picture-help", this.help()), this.told, this.set);
      box.addEventListener("pointermove", (event) => this.over(event));
      box.addEventListener("pointerleave", () => { this.tip.hidden = true; });
      box.addEventListener("click", (event) => this.pin(event));
      box.addEventListener("keydown", (event) => this.key(event));
      for (const range of [this.plot.x_range, this.plot.y_range]) {
        range.change.connect(() => this.later());
      }
      new ResizeObserver(() => this.later()).observe(box);
      dark.addEventListener("change", () => this.recolour());
      this.recolour();
      this.later();
    }

    help() {
      return "Drag to move, Ctrl and wheel or + and \u2212 to zoom, 0 to see all, arrow keys to go "
        + "from one to the next, Enter to open it, S to select it.";
    }

    get names() { return this.item.names; }

    recolour() {
      const theme = this.item.themes[dark.matches ? "dark" : "light"];
      for (const name of ["paper", "ink", "quiet", "rule"]) {
        document.documentElement.style.setProperty(`--picture-${name}`, theme[name]);
      }
      const link = dark.matches ? "#8ab8f0" : "#0b57a8";
      document.documentElement.style.setProperty("--picture-link", link);
      for (const model of this.plot.document.all_models ?? this.plot.document._all_models.values()) {
        for (const tag of model.tags) {
          if (Array.isArray(tag)) model[tag[0]] = theme[tag[1]];
        }
      }
    }

    // Where the frame of the plot stands within the box, in pixels.
    get offset() {
      const outer = this.box.getBoundingClientRect();
      const inner = this.view.canvas_view.el.getBoundingClientRect();
      return [inner.left - outer.left, inner.top - outer.top];
    }

    screen(x, y) {
      return [this.view.frame.x_scale.compute(x), this.view.frame.y_scale.compute(y)];
    }

    place(event) {
      const inner = this.view.canvas_view.el.getBoundingClientRect();
      const at = [event.clientX - inner.left, event.clientY - inner.top];
      const { left, right, top, bottom } = this.view.frame.bbox;
      return at[0] >= left && at[0] <= right && at[1] >= top && at[1] <= bottom ? at : null;
    }

    over(event) {
      const at = this.place(event);
      const found = at && this.find(at);
      this.tip.hidden = !found;
      if (!found) return;
      lines(this.tip, this.tell(found));
      const [dx, dy] = this.offset;
      const right = at[0] > this.box.clientWidth / 2;
      Object.assign(this.tip.style, {
        left: right ? "" : `${at[0] + dx + 16}px`,
        right: right ? `${this.box.clientWidth - at[0] - dx + 12}px` : "",
        top: `${at[1] + dy + 14}px`,
      });
    }

    pin(event) {
      const at = this.place(event);
      const found = at && this.find(at);
      if (found) this.show(found);
    }

    show(found) {
      this.at = found;
      lines(this.told, this.tell(found));
      const links = element("div", "");
      for (const [words, href] of this.links(found)) {
        const link = element("a", "", words);
        link.href = href;
        links.append(link);
      }
      if (links.childNodes.length) this.told.append(links);
      this.mark();
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target !== this.box) return;
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (event.key in moves) this.show(this.step(...moves[event.key]));
      else if (event.key === "+" || event.key === "=") this.zoom(0.7);
      else if (event.key === "-") this.zoom(1 / 0.7);
      else if (event.key === "0" || event.key === "Escape") this.reset();
      else if (event.key === "Enter" && this.at) this.told.querySelector("a")?.click();
      else if (event.key.toLowerCase() === "s" && this.at) this.toggle(this.members(this.at));
      else return;
      event.preventDefault();
    }

    zoom(factor) {
      const at = this.at ? this.centre(this.at) : null;
      [this.plot.x_range, this.plot.y_range].forEach((range, i) => {
        const half = ((range.end - range.start) / 2) * factor;
        const middle = at ? at[i] : (range.start + range.end) / 2;
        range.setv({ start: middle - half, end: middle + half });
      });
    }

    reset() {
      this.view.reset?.();
    }

    toggle(members) {
      const all = members.every((i) => this.chosen.has(i));
      for (const i of members) all ? this.chosen.delete(i) : this.chosen.add(i);
      this.chose([...this.chosen]);
    }

    chose(members) {
      this.chosen = new Set(members);
      const models = [...this.chosen].sort((a, b) => a - b).map((i) => this.item.models[i]);
      this.set.replaceChildren();
      if (!models.length) return;
      this.set.append(element("span", "", `${models.length} selected: `));
      const query = models.map((m) => `models=${encodeURIComponent(m)}`).join("&");
      for (const [words, href] of JSON.parse(this.box.dataset.set ?? "[]")) {
        const link = element("a", "", words);
        link.href = href + (href.includes("?") ? "&" : "?") + query;
        this.set.append(link);
      }
      const names = element("input", "");
      names.readOnly = true;
      names.value = models.join(",");
      names.setAttribute("aria-label", "names of the selected models");
      this.set.append(names);
    }

    later() {
      const now = () => {
        this.waiting = false;
        this.arrange();
        this.mark();
      };
      if (!this.waiting) requestAnimationFrame(now);
      this.waiting = true;
      // once more when the plot has found its new size
      clearTimeout(this.settled);
      this.settled = setTimeout(now, 150);
    }

    mark() {
      const box = this.at && this.outline(this.at);
      this.cursor.hidden = !box;
      if (!box) return;
      const [dx, dy] = this.offset;
      const [left, top, width, height] = box;
      Object.assign(this.cursor.style, {
        left: `${left + dx}px`, top: `${top + dy}px`, width: `${width}px`, height: `${height}px`,
      });
    }
  }

  class Matrix extends Picture {
    constructor(box, item, view, planes) {
      super(box, item, view);
      Object.assign(this, planes);
      this.n = item.models.length;
      this.values = this.source().get("image")[0];
      this.plot.on_event("selectiongeometry", (event) => {
        const g = event.geometry;
        if (!event.final || g.type !== "rect") return;
        const some = new Set();
        for (const [a, b] of [[g.x0, g.x1], [g.y0, g.y1]]) {
          const from = Math.max(Math.floor(Math.min(a, b)), 0);
          for (let i = from; i < Math.min(Math.max(a, b), this.n); i++) some.add(i);
        }
        this.chose([...some]);
      });
    }

    source() {
      const held = this.plot.renderers[0].data_source.data;
      return held instanceof Map ? held : new Map(Object.entries(held));
    }

    find(at) {
      const column = Math.floor(this.view.frame.x_scale.invert(at[0]));
      const row = Math.floor(this.view.frame.y_scale.invert(at[1]));
      return row >= 0 && column >= 0 && row < this.n && column < this.n ? [row, column] : null;
    }

    tell([row, column]) {
      if (row === column) return [this.names[row]];
      const at = row * this.n + column;
      const told = [`${this.names[row]} \u00d7 ${this.names[column]}`];
      const source = this.item.sources[this.of.source(at)];
      if (!source) return [...told, "not compared"];
      const error = this.of.error(at);
      const doubt = error > 0 ? ` \u00b1 ${number(error)}` : "";
      const value = this.values.get ? this.values.get(at) : this.values[at];
      told.push(`${this.item.metric} ${number(value)}${doubt}, ${source}`);
      const [keys, coverage] = [this.of.keys(at), this.of.coverage(at)];
      const share = Number.isNaN(coverage) ? "" : `${number(100 * coverage)} % of the keys of either`;
      told.push([keys > 0 ? `${number(keys)} keys compared` : "", share].filter(Boolean).join(", "));
      return told.filter(Boolean);
    }

    links([row, column]) {
      const { pair, model } = this.box.dataset;
      const [a, b] = [this.item.models[row], this.item.models[column]];
      if (row === column) return model ? [["open the model", address(model, { a })]] : [];
      return pair ? [["open the pair", address(pair, { a, b })]] : [];
    }

    members([row, column]) { return row === column ? [row] : [row, column]; }

    step(dx, dy) {
      const [row, column] = this.at ?? [0, 0];
      const within = (i) => Math.min(Math.max(i, 0), this.n - 1);
      return this.at ? [within(row + dy), within(column + dx)] : [0, Math.min(1, this.n - 1)];
    }

    centre([row, column]) { return [column + 0.5, row + 0.5]; }

    outline([row, column]) {
      const [left, top] = this.screen(column, row);
      const [right, bottom] = this.screen(column + 1, row + 1);
      return [left - 2, top - 2, Math.max(right - left, 2), Math.max(bottom - top, 2)];
    }

    arrange() {
      const narrow = this.box.clientWidth < 640;
      const limit = narrow ? 12 : 28;
      if (this.limit !== limit) {
        // of a fixed width, or the frame would jump at each step of a zoom
        this.limit = limit;
        const short = this.names.map((n) => (n.length > limit ? `${n.slice(0, limit - 1)}\u2026` : n));
        const overrides = new Map(short.map((name, i) => [i + 0.5, name]));
        const wide = Math.round(6.1 * Math.max(...short.map((n) => n.length), 4)) + 14;
        for (const axis of this.axes()) axis.major_label_overrides = overrides;
        this.plot.setv({ min_border_left: wide, min_border_bottom: wide });
      }
      const { width, height } = this.view.frame.bbox;
      const ranges = [[this.plot.x_range, width], [this.plot.y_range, height]];
      this.axes().forEach((axis, i) => {
        const [range, pixels] = ranges[i];
        const [low, high] = [range.start, range.end].sort((a, b) => a - b);
        const every = Math.max(1, Math.ceil((ROW * (high - low)) / Math.max(pixels, 1)));
        const ticks = [];
        for (let k = 0; k < this.n; k += every) {
          if (k + 0.5 >= low && k + 0.5 <= high) ticks.push(k + 0.5);
        }
        axis.ticker.ticks = ticks;
      });
    }

    axes() { return [this.plot.below[0], this.plot.left[0]]; }
  }

  class Points extends Picture {
    constructor(box, item, view) {
      super(box, item, view);
      const named = (name) => this.plot.renderers.find((r) => r.name === name);
      this.source = named("points").data_source;
      this.texts = [...this.column("name")];
      this.pen = document.createElement("canvas").getContext("2d");
      this.pen.font = "12px helvetica, sans-serif";
      this.wide = this.texts.map((text) => this.pen.measureText(text).width + 6);
      this.source.selected.change.connect(() => {
        const now = [...this.source.selected.indices];
        if (now.join() !== [...this.chosen].join()) this.chose(now, true);
      });
      this.later();
    }

    within(from, to) {
      const { left, right } = this.view.frame.bbox;
      return this.item.kind !== "map" || (from >= left && to <= right);
    }

    column(name) {
      const data = this.source.data;
      return data instanceof Map ? data.get(name) : data[name];
    }

    chose(members, told) {
      super.chose(members);
      if (!told) this.source.selected.indices = members;
    }

    find(at) {
      let [best, found] = [NEAR, null];
      this.item.x.forEach((x, i) => {
        const [sx, sy] = this.screen(x, this.item.y[i]);
        const apart = Math.hypot(sx - at[0], sy - at[1]);
        if (apart < best) [best, found] = [apart, { point: i }];
      });
      if (found) return found;
      best = NEAR_LINE;
      this.item.edges.forEach((edge, k) => {
        const corners = this.corners(edge);
        for (let i = 1; i < corners.length; i++) {
          const apart = fromLine(at, corners[i - 1], corners[i]);
          if (apart < best) [best, found] = [apart, { edge: k }];
        }
      });
      return found;
    }

    corners(edge) {
      const { x, y } = this.item;
      if (edge.line) return edge.line[0].map((ex, i) => this.screen(ex, edge.line[1][i]));
      return [edge.from, edge.to].map((i) => this.screen(x[i], y[i]));
    }

    tell(found) {
      if ("point" in found) return this.item.told[found.point];
      return this.item.edges[found.edge].told;
    }

    members(found) {
      if ("point" in found) return [found.point];
      const { from, to } = this.item.edges[found.edge];
      return [from, to];
    }

    links(found) {
      const { pair, model } = this.box.dataset;
      const [a, b] = this.members(found).map((i) => this.item.models[i]);
      if (b === undefined) return model ? [["open the model", address(model, { a })]] : [];
      return pair ? [["open the pair", address(pair, { a, b })]] : [];
    }

    step(dx, dy) {
      const n = this.item.models.length;
      const now = this.at ? this.members(this.at)[0] : -1;
      return { point: (now + (dx + dy > 0 ? 1 : -1) + n) % n };
    }

    centre(found) {
      const i = this.members(found)[0];
      return [this.item.x[i], this.item.y[i]];
    }

    outline(found) {
      const [x, y] = this.screen(...this.centre(found));
      const { left, right, top, bottom } = this.view.frame.bbox;
      const seen = x >= left && x <= right && y >= top && y <= bottom;
      return seen ? [x - 9, y - 9, 14, 14] : null;
    }

    // Put each name where it covers no other name and no other point, or leave it out.
    arrange() {
      if (!this.texts) return;
      const { left, right, top, bottom } = this.view.frame.bbox;
      const taken = new Map();
      const add = (box) => {
        for (let r = Math.floor(box[1] / ROW); r <= Math.floor(box[3] / ROW); r++) {
          if (!taken.has(r)) taken.set(r, []);
          taken.get(r).push(box);
        }
      };
      const free = (box) => {
        for (let r = Math.floor(box[1] / ROW); r <= Math.floor(box[3] / ROW); r++) {
          for (const other of taken.get(r) ?? []) {
            if (box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1]) return false;
          }
        }
        return true;
      };
      const at = this.item.x.map((x, i) => this.screen(x, this.item.y[i]));
      const seen = ([x, y]) => x >= left && x <= right && y >= top && y <= bottom;
      for (const [x, y] of at.filter(seen)) add([x - 3, y - 3, x + 3, y + 3]);
      const [labels, dx, dy, align] = [[], [], [], []];
      at.forEach(([x, y], i) => {
        const wide = this.wide[i];
        const sides = [[8, 0, "left", x + 5], [-8, 0, "right", x - 5 - wide],
          [0, -12, "center", x - wide / 2], [0, 13, "center", x - wide / 2]];
        const fit = seen([x, y]) && (this.item.kind === "map" ? sides : sides.slice(0, 1)).find(
          ([, up, , from]) => this.within(from, from + wide) && free([from, y + up - 6, from + wide, y + up + 6]));
        labels.push(fit ? this.texts[i] : "");
        dx.push(fit ? fit[0] : 0);
        dy.push(fit ? fit[1] : 0);
        align.push(fit ? fit[2] : "left");
        if (fit) add([fit[3], y + fit[1] - 6, fit[3] + wide, y + fit[1] + 6]);
      });
      const shown = JSON.stringify([labels, dx, dy]);
      if (shown === this.shown) return;
      this.shown = shown;
      const data = this.source.data;
      for (const [name, column] of Object.entries({ label: labels, dx, dy, align })) {
        if (data instanceof Map) data.set(name, column);
        else data[name] = column;
      }
      this.source.change.emit();
    }
  }

  function fromLine([x, y], [ax, ay], [bx, by]) {
    const [dx, dy] = [bx - ax, by - ay];
    const along = ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1);
    const t = Math.min(Math.max(along, 0), 1);
    return Math.hypot(x - ax - t * dx, y - ay - t * dy);
  }

  async function draw(box) {
    try {
      await whenBokeh();
      const item = await itemOf(box);
      box.id ||= `picture-${Math.random().toString(36).slice(2)}`;
      const views = await Bokeh.embed.embed_item(item.bokeh, box.id);
      const view = [...views][0];
      if (item.kind === "matrix") {
        const of = {};
        for (const name of ["source", "error", "keys", "coverage"]) of[name] = await planeOf(item[name]);
        box.picture = new Matrix(box, item, view, { of });
      } else {
        box.picture = new Points(box, item, view);
      }
      box.dataset.drawn = "yes";
    } catch (error) {
      box.textContent = `No picture: ${error.message}.`;
      box.dataset.drawn = "no";
    }
  }

  function start() {
    document.head.append(element("style", "", STYLE));
    for (const box of document.querySelectorAll(".picture")) {
      if (!box.dataset.waits) draw(box);
    }
    // a picture that waits is drawn when it is asked for
    for (const button of document.querySelectorAll("button[data-draws]")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        button.hidden = true;
        draw(document.getElementById(button.dataset.draws));
      });
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
