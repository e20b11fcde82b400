// A matrix: each cell tells its pair, a frame drawn around cells selects their models.
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
    const written = this.plot.renderers.find((r) => r.name === "values");
    if (written) {
      const cell = width / Math.max(Math.abs(this.plot.x_range.end - this.plot.x_range.start), 1e-9);
      const fits = cell >= 7 * written.tags[0];
      if (written.visible !== fits) written.visible = fits;
    }
  }

  axes() { return [this.plot.below[0], this.plot.left[0]]; }
}
