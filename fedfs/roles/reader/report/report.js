"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const n = data.versions.length;
  const SVG = "http://www.w3.org/2000/svg";
  // Told apart by lightness as well as by hue, so that a grey print still shows them; the dashes do the rest.
  const HUES = [215, 28, 140, 285, 350, 185, 55, 250, 100, 320];
  const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (i) => `hsl(${HUES[i % HUES.length]} 65% ${(dark.matches ? 62 : 34) + (i % 3) * 8}%)`;
  const dash = (i) => DASHES[Math.floor(i / HUES.length) % DASHES.length];
  const make = (name, attributes, parent) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (parent) parent.append(element);
    return element;
  };
  const known = (column) => column.filter((value) => value !== null);
  const text = (value) => (value === null || value === undefined ? "–" : Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(3));

  function ticks(low, high, wanted) {
    const raw = (high - low || 1) / wanted, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const out = [];
    for (let t = Math.ceil(low / step) * step; t <= high + step * 1e-6; t += step) out.push(Number(t.toPrecision(8)));
    return out;
  }

  // Draws lines over versions into an element; returns where a version is, for the pointer.
  function lines(holder, series, label, fromZero) {
    const width = Math.max(holder.clientWidth, 320), height = holder.clientHeight || 300;
    const left = 56, right = 12, top = 12, bottom = 30;
    holder.replaceChildren();
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, holder);
    const values = series.flatMap((s) => known(s.column));
    if (!values.length) { make("text", { x: left, y: height / 2 }, svg).textContent = "No numbers yet."; return null; }
    let [low, high] = minMax(values);
    if (fromZero) low = 0;
    if (low === high) { low -= 0.5; high += 0.5; }
    const x = (i) => left + (n > 1 ? (i / (n - 1)) * (width - left - right) : 0);
    const y = (v) => height - bottom - ((v - low) / (high - low)) * (height - top - bottom);
    for (const t of ticks(low, high, 5)) {
      make("line", { x1: left, x2: width - right, y1: y(t), y2: y(t), class: "axis" }, svg);
      make("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, svg).textContent = t;
    }
    for (const t of ticks(0, n - 1, Math.min(10, Math.max(1, n - 1)))) {
      if (Number.isInteger(t)) make("text", { x: x(t), y: height - 10, "text-anchor": "middle" }, svg).textContent = data.versions[t];
    }
    for (const one of series) {
      let path = "", drawing = false, points = 0, last = 0;
      one.column.forEach((value, i) => {
        if (value === null) { drawing = false; return; }
        path += `${drawing ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
        drawing = true; points += 1; last = i;
      });
      make("path", { d: path, stroke: one.colour, "stroke-dasharray": one.dash || "", class: one.mean ? "mean" : "" }, svg);
      if (points === 1) make("circle", { cx: x(last), cy: y(one.column[last]), r: 3, fill: one.colour }, svg);
    }
    holder.setAttribute("aria-label", label);
    const cursor = make("line", { x1: 0, x2: 0, y1: top, y2: height - bottom, class: "axis", visibility: "hidden" }, svg);
    return { x, cursor, width, left, right };
  }

  function minMax(values) {
    let low = Infinity, high = -Infinity;
    for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
    return [low, high];
  }

  // --- curves ---------------------------------------------------------------------------------
  const NAMES = { dice: "Pseudo Dice", train_loss: "Training loss" };
  const holder = document.getElementById("curve"), readout = document.getElementById("readout");
  const names = data.sites || data.tracks, shown = new Set(names);
  let metric = "dice", plot = null, at = n - 1;

  function series() {
    const out = names.map((name, i) => ({ name, column: data[metric][name], colour: colour(i), dash: dash(i) })).filter((s) => shown.has(s.name));
    if (metric === "dice" && data.mean_dice) out.push({ name: "mean", column: data.mean_dice, colour: "currentColor", mean: true });
    return out;
  }
  function draw() {
    const all = series(), main = metric === "dice" && data.mean_dice ? known(data.mean_dice) : [];
    const label = `${NAMES[metric]} of ${shown.size} ${data.sites ? "sites" : "tracks"} over ${n} versions` + (main.length ? `; the mean goes from ${text(main[0])} to ${text(main[main.length - 1])}` : "");
    plot = lines(holder, all, label);
    say();
  }
  function say(show) {
    if (!n) return;
    const parts = series().map((s) => `${s.name} ${text(s.column[at])}`);
    readout.textContent = `Version ${data.versions[at]}${data.published ? `, ${data.published[at] || ""}` : ""}: ` + (parts.length > 12 ? parts.slice(-1).concat(parts.slice(0, 11)).join(", ") + " …" : parts.join(", "));
    if (plot && show) { plot.cursor.setAttribute("visibility", "visible"); plot.cursor.setAttribute("x1", plot.x(at)); plot.cursor.setAttribute("x2", plot.x(at)); }
  }
  holder.addEventListener("pointermove", (event) => {
    if (!plot || n < 2) return;
    const box = holder.getBoundingClientRect(), inside = ((event.clientX - box.left) / box.width) * plot.width;
    at = Math.max(0, Math.min(n - 1, Math.round(((inside - plot.left) / (plot.width - plot.left - plot.right)) * (n - 1))));
    say(true);
  });
  holder.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -n, End: n }[event.key];
    if (!step) return;
    at = Math.max(0, Math.min(n - 1, at + step)); event.preventDefault(); say(true);
  });
  for (const button of document.querySelectorAll("[data-metric]")) {
    button.addEventListener("click", () => {
      metric = button.dataset.metric;
      for (const other of document.querySelectorAll("[data-metric]")) other.setAttribute("aria-pressed", String(other === button));
      draw();
    });
  }
  const legend = document.getElementById("legend");
  const toggles = names.map((name, i) => {
    const button = document.createElement("button");
    button.type = "button"; button.setAttribute("aria-pressed", "true");
    const swatch = document.createElement("span"); swatch.className = "swatch"; swatch.style.background = colour(i);
    button.append(swatch, name);
    button.addEventListener("click", () => { if (shown.has(name)) shown.delete(name); else shown.add(name); refresh(); });
    legend.append(button);
    return [name, button];
  });
  function refresh() { for (const [name, button] of toggles) button.setAttribute("aria-pressed", String(shown.has(name))); draw(); }
  document.getElementById("all-lines").addEventListener("click", () => { names.forEach((name) => shown.add(name)); refresh(); });
  document.getElementById("no-line").addEventListener("click", () => { shown.clear(); refresh(); });
  document.getElementById("save-csv")?.addEventListener("click", () => {
    const cell = (v) => (v === null || v === undefined ? "" : v);
    const rows = [["version", "published", "site", "dice", "train_loss", "weight", "lag", "mean_dice"]];
    data.versions.forEach((v, i) => data.sites.forEach((s) => rows.push([v, data.published[i], s, data.dice[s][i], data.train_loss[s][i], data.weights[s][i], data.lags[s][i], data.mean_dice[i]].map(cell))));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([rows.map((r) => r.join(",")).join("\n")], { type: "text/csv" }));
    link.download = "fedfs.csv"; link.click();
  });

  // --- contributions: a canvas, as there may be 40,000 fields ----------------------------------
  function contributions() {
    const box = document.getElementById("contributions"), rowHeight = 18, names = 110;
    box.replaceChildren();
    if (!n || !data.sites.length) return;
    const cell = Math.max(2, Math.min(28, Math.floor((Math.max(box.clientWidth, 320) - names) / n)));
    const canvas = document.createElement("canvas"), scale = devicePixelRatio || 1;
    const width = names + cell * n, height = rowHeight * data.sites.length + 22;
    canvas.width = width * scale; canvas.height = height * scale; canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.body), ink = style.getPropertyValue("--ink"), quiet = style.getPropertyValue("--quiet"), line = style.getPropertyValue("--line");
    pen.scale(scale, scale); pen.font = "12px system-ui, sans-serif"; pen.textBaseline = "middle";
    let largest = 0;
    for (const s of data.sites) for (const w of data.weights[s]) if (w !== null && w > largest) largest = w;
    data.sites.forEach((site, row) => {
      const y = row * rowHeight;
      pen.globalAlpha = 1; pen.fillStyle = quiet; pen.fillText(site, 4, y + rowHeight / 2, names - 10);
      data.weights[site].forEach((w, i) => {
        const x = names + i * cell, gap = cell > 4 ? 1 : 0;
        if (w === null) { pen.globalAlpha = 1; pen.fillStyle = line; pen.fillRect(x, y + rowHeight / 2, cell - gap, 1); return; }
        pen.globalAlpha = 0.15 + 0.85 * (w / (largest || 1)); pen.fillStyle = ink; pen.fillRect(x, y + 1, cell - gap, rowHeight - 2);
        if (data.lags[site][i] > 0) { pen.globalAlpha = 1; pen.fillStyle = style.getPropertyValue("--paper"); pen.fillRect(x, y + rowHeight / 2 - 1, cell - gap, 2); }
      });
    });
    pen.globalAlpha = 1; pen.fillStyle = quiet;
    const every = Math.max(1, Math.ceil(36 / cell));
    for (let i = 0; i < n; i += every) pen.fillText(data.versions[i], names + i * cell, height - 9);
    const used = data.sites.reduce((sum, s) => sum + known(data.weights[s]).length, 0);
    box.setAttribute("aria-label", `Weights of ${data.sites.length} sites in ${n} versions: ${used} contributions`);
    box.append(canvas);
  }

  function costs() {
    const megabytes = data.n_bytes.map((b) => b / 1e6);
    lines(document.getElementById("bytes"), [{ name: "MB", column: megabytes, colour: colour(0) }], `Megabytes by version, ${text(megabytes[n - 1])} at the newest`, true);
    const phases = Object.entries(data.seconds).filter(([, c]) => known(c).length);
    lines(document.getElementById("seconds"), phases.map(([name, column], i) => ({ name, column, colour: colour(i), dash: DASHES[i] })), `Seconds by version of ${phases.map(([p]) => p).join(", ")}`, true);
    const box = document.getElementById("seconds");
    let key = box.nextElementSibling;
    if (!key) { key = document.createElement("p"); key.className = "readout"; box.after(key); }
    key.replaceChildren(...phases.flatMap(([name], i) => { const s = document.createElement("span"); s.className = "swatch"; s.style.background = colour(i); return [s, `${name} `]; }));
  }

  function everything() { draw(); if (data.sites) { contributions(); costs(); } }
  everything();
  let timer = 0;
  addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(everything, 120); });
  dark.addEventListener("change", everything);
  document.documentElement.dataset.drawn = Math.round(performance.now()); // ms since it was opened
})();
