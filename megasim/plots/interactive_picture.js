// Makes the pictures of a page answer: the pointer, the keyboard, a frame drawn around some of it.
//
// A picture is <div class="picture" data-item="ID"> for an item that is in the page, packed, or
// <div class="picture" data-source="URL"> for one that is fetched. What a model is called is
// always text, never markup. Links come from the attributes data-pair and data-model, addresses
// with {a} and {b}, and data-set, a JSON list of [words, address] for a set of models.
//
// Four files make one script, within one function: interactive_picture.js, interactive_matrix.js,
// interactive_points.js, interactive_start.js. See `picture_script`.
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
