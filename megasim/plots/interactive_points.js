// Maps and trees: points and edges, and names that keep off each other.
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
