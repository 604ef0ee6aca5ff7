"use strict";
(() => {
  const root = document.documentElement;
  const all = (query, within = document) => [...within.querySelectorAll(query)];

  // Theme: system, light, dark in turn; remembered where the browser allows it.
  const button = document.getElementById("theme");
  const themes = ["system", "light", "dark"];
  const recall = () => { try { return localStorage.getItem("gradlog-theme"); } catch { return null; } };
  const remember = (name) => { try { localStorage.setItem("gradlog-theme", name); } catch { /* a page without storage */ } };
  const show = (name) => {
    if (name === "system") delete root.dataset.theme; else root.dataset.theme = name;
    button.textContent = `Theme: ${name}`;
  };
  let theme = themes.includes(recall()) ? recall() : "system";
  show(theme);
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    show(theme);
    remember(theme);
  });

  // Hover texts: the title of a mark becomes our own tooltip, so that it comes at once and follows the theme.
  const tip = document.getElementById("tip");
  const texts = new WeakMap();
  for (const title of all("svg.chart title")) {
    texts.set(title.parentNode, title.textContent);
    title.remove();
  }
  const place = (event) => {
    const box = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, innerWidth - box.width - 8);
    const above = event.clientY - box.height - 12;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 8 ? above : event.clientY + 18}px`;
  };
  const hover = (event) => {
    const text = texts.get(event.target);
    tip.hidden = !text;
    if (text) { tip.textContent = text; place(event); }
  };
  document.addEventListener("pointermove", hover);
  document.addEventListener("pointerdown", hover);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  // Tables: a heading sorts by its column, numbers by value; again reverses.
  const key = (row, column) => row.cells[column].dataset.key;
  const number = (text) => (text === "-inf" ? -Infinity : text === "inf" ? Infinity : Number(text));
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) || Number.isNaN(y)) return a < b ? -1 : a > b ? 1 : 0;
    return x < y ? -1 : x > y ? 1 : 0;
  };
  for (const table of all("table")) {
    const heads = all("th", table);
    heads.forEach((head, column) => {
      const first = table.tBodies[0].rows[0];
      if (first && first.cells[column].classList.contains("name")) head.classList.add("name");
      const sorter = document.createElement("button");
      sorter.type = "button";
      sorter.textContent = head.textContent;
      head.replaceChildren(sorter);
      sorter.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows].sort((a, b) => compare(key(a, column), key(b, column)) * (down ? -1 : 1));
        table.tBodies[0].append(...rows);
      });
    });
  }

  // Steps: all figures over steps zoom together. Marks move along both axes: y fits what is visible between the steps.
  const form = document.getElementById("zoom");
  const make = (name, attributes, text = "") => {
    const element = document.createElementNS(charts[0].svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };
  const charts = all("svg[data-steps]").map((svg, i) => {
    const [low, high, left, right] = svg.dataset.steps.split(" ").map(Number);
    const [plot, ticks, values] = ["plot", "ticks", "values"].map((name) => svg.querySelector(`.${name}`));
    const chart = { svg, low, high, left, right, plot, ticks, values, clip: `clip${i}`, marks: null };
    for (const part of [ticks, values]) if (part) chart[part.classList[0] + "Whole"] = part.innerHTML;
    if (values) {
      const [least, most, top, bottom, kind] = svg.dataset.values.split(" ").map((x) => (Number.isNaN(Number(x)) ? x : Number(x)));
      const log = kind === "log";
      Object.assign(chart, { top, bottom, log, least: log ? Math.log10(least) : least, most: log ? Math.log10(most) : most });
    }
    return chart;
  });
  const [first, last] = [Math.min(...charts.map((c) => c.low)), Math.max(...charts.map((c) => c.high))];
  const moved = {
    d: (path, x, y) => path.replace(/([MLHV])(-?[\d.]+)(?: (-?[\d.]+))?/g, (_, letter, p, q) =>
      letter + (letter === "V" ? y(p) : x(p)).toFixed(1) + (q === undefined ? "" : ` ${y(q).toFixed(1)}`)),
    cx: (p, x) => x(p).toFixed(1),
    cy: (p, _, y) => y(p).toFixed(1),
    x: (p, x) => x(p).toFixed(1),
    y: (p, _, y) => y(p).toFixed(1),
  };
  const points = (element) => {
    if (element.localName === "circle") return [["M", element.getAttribute("cx"), element.getAttribute("cy")]];
    return [...element.getAttribute("d").matchAll(/([MLZ])(?:(-?[\d.]+) (-?[\d.]+))?/g)].map((found) => found.slice(1));
  };
  const start = (chart) => {
    const { svg, plot, left, right, values, top, bottom } = chart;
    chart.marks = [];
    for (const element of all("path,circle,text", plot)) {
      const level = element.matches("path.rule[d*=H],text[text-anchor=end]");  // a horizontal rule, or its name
      const upright = !values || element.matches(".hits path,.cells path,.cross,.rule[d*=V]");
      for (const name of Object.keys(moved)) {
        const value = element.getAttribute(name);
        if (value !== null) chart.marks.push({ element, name, value, level, upright });
      }
    }
    chart.curves = all("path.line,path.band,circle", plot).map((element) => [element, points(element)]);
    chart.names = all("text.name", svg).map((name) => {
      const line = plot.querySelector(`path.line.${name.classList[1]}:not(.dashed)`);
      return { name, at: name.getAttribute("y"), curve: chart.curves.find(([element]) => element === line) };
    });
    const clip = make("clipPath", { id: chart.clip });
    const [y, height] = values ? [top - 4, bottom - top + 8] : [0, svg.viewBox.baseVal.height];
    clip.append(make("rect", { x: left - 4, y, width: right - left + 8, height }));
    svg.prepend(clip);
  };
  // y of a curve between two places of the x axis, in pixels of the whole drawing
  const seen = (curve, from, to) => {
    const found = [];
    let [x, y] = [NaN, NaN];
    for (const [letter, ...at] of curve) {
      if (letter === "Z") continue;
      const [u, v] = at.map(Number);
      if (u >= from && u <= to) found.push(v);
      if (letter === "L") {
        for (const edge of [from, to]) if ((x - edge) * (u - edge) < 0) found.push(y + ((edge - x) / (u - x)) * (v - y));
      }
      [x, y] = [u, v];
    }
    return found;
  };
  const fit = (chart, from, to) => {
    const { top, bottom } = chart;
    const inside = (y) => y > top + 0.1 && y < bottom - 0.1;  // bands are cut at the ends of the axis
    const ys = chart.curves.flatMap(([element, curve]) => {
      const found = seen(curve, from, to);
      return element.matches(".band") ? found.filter(inside) : found;
    });
    if (!ys.length) return [top, bottom];
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const room = Math.max(0.05 * (high - low), (0.02 * (bottom - top) - (high - low)) / 2);  // coordinates are rounded
    return [Math.max(top, low - room), Math.min(bottom, high + room)];
  };
  const everyFrom = (raw, steps) => {
    const power = 10 ** Math.floor(Math.log10(raw));
    return steps.map((m) => m * power).find((step) => step >= raw * 0.999);
  };
  const worded = (value, every) => {
    const size = Math.abs(value);
    if (size < every / 1e6) return "0";
    const exponent = Math.floor(Math.log10(size) + 1e-9);
    const digits = Math.min(12, Math.max(3, exponent - Math.floor(Math.log10(every) + 1e-9) + 2));
    const short = (x) => String(Number(x.toPrecision(digits)));
    if (size >= 1e4 && size < 1e9) return size >= 1e6 ? `${short(value / 1e6)}M` : `${short(value / 1e3)}k`;
    if (size >= 1e-4 && size < 1e4) return short(value);
    const power = String(exponent).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
    return `${short(value / 10 ** exponent)}×10${power}`;
  };
  const round = (low, high, log) => {
    if (log && high - low >= 1) {
      const mantissas = high - low < 2.5 ? [1, 2, 5] : [1];
      const powers = Array.from({ length: Math.ceil(high) - Math.floor(low) + 1 }, (_, i) => Math.floor(low) + i);
      return powers.flatMap((e) => mantissas.map((m) => [m * 10 ** e, 10 ** e]));
    }
    const [a, b] = log ? [10 ** low, 10 ** high] : [low, high];
    const every = everyFrom((b - a) / 5, [1, 2, 2.5, 5, 10]);
    const count = Math.floor(b / every + 1e-9) - Math.ceil(a / every - 1e-9) + 1;
    return Array.from({ length: count }, (_, i) => [(Math.ceil(a / every - 1e-9) + i) * every, every]);
  };
  const labelValues = (chart, upper, lower, y) => {
    const { least, most, top, bottom, left, right, log, values } = chart;
    const value = (p) => least + ((bottom - p) / (bottom - top)) * (most - least);
    const [low, high] = [value(lower), value(upper)];
    values.replaceChildren();
    for (const [tick, every] of round(low, high, log)) {
      const at = log ? Math.log10(tick) : tick;
      if (at < low || at > high) continue;
      const p = y(bottom - ((at - least) / (most - least)) * (bottom - top));
      values.append(make("path", { class: "grid", d: `M${left} ${p.toFixed(1)}H${right}` }));
      const place = { class: "tick", x: left - 6, y: (p + 4).toFixed(1), "text-anchor": "end" };
      values.append(make("text", place, worded(tick, every)));
    }
  };
  const labelSteps = (chart, a, b, at) => {
    const bottom = Number(all("path.axis", chart.svg).at(-1).getAttribute("d").match(/ ([\d.]+)H/)[1]);
    const every = Math.max(1, everyFrom((b - a) / (chart.right - chart.left > 330 ? 7 : 4), [1, 2, 5, 10]));
    chart.ticks.replaceChildren();
    for (let step = Math.ceil(a / every) * every; step <= b; step += every) {
      const x = at(step).toFixed(1);
      chart.ticks.append(make("path", { class: "mark", d: `M${x} ${bottom}v4` }));
      const place = { class: "tick", x, y: bottom + 17, "text-anchor": "middle" };
      chart.ticks.append(make("text", place, step.toLocaleString("en-US")));
    }
  };
  const nameCurves = (chart, from, to, y) => {
    const known = chart.names.map(({ name, curve }) => [name, curve ? seen(curve[1], from, to).at(-1) : undefined]);
    const placed = known.filter(([, p]) => p !== undefined).map(([name, p]) => [name, y(p)]).sort((a, b) => a[1] - b[1]);
    placed.forEach((one, i) => { if (i) one[1] = Math.max(one[1], placed[i - 1][1] + 14); });
    placed.reverse().forEach((one, i) => { one[1] = Math.min(one[1], i ? placed[i - 1][1] - 14 : chart.bottom); });
    for (const [name, p] of known) name.style.display = p === undefined ? "none" : "";
    for (const [name, p] of placed) name.setAttribute("y", (p + 4).toFixed(1));
  };
  const whole = (chart) => {
    for (const { element, name, value } of chart.marks) element.setAttribute(name, value);
    for (const { name, at } of chart.names) { name.setAttribute("y", at); name.removeAttribute("style"); }
    for (const part of [chart.ticks, chart.values]) if (part) part.innerHTML = chart[part.classList[0] + "Whole"];
    chart.plot.removeAttribute("clip-path");
  };
  const draw = (chart, a, b) => {
    const { low, high, left, right, values, bottom, top } = chart;
    const place = (step) => left + ((step - a) / (b - a)) * (right - left);
    const back = (step) => left + ((step - low) / (high - low)) * (right - left);
    const x = (p) => place(low + ((Number(p) - left) / (right - left)) * (high - low));
    const [upper, lower] = values ? fit(chart, back(a), back(b)) : [0, 1];
    const y = (p) => bottom - ((lower - Number(p)) / (lower - upper)) * (bottom - top);
    for (const { element, name, value, level, upright } of chart.marks) {
      element.setAttribute(name, moved[name](value, level ? Number : x, upright ? Number : y));
    }
    chart.plot.setAttribute("clip-path", `url(#${chart.clip})`);
    labelSteps(chart, a, b, place);
    if (values) labelValues(chart, upper, lower, y);
    if (values) nameCurves(chart, back(a), back(b), y);
  };
  const zoom = (from, to) => {
    const [a, b] = [Math.max(first, Math.min(from, to)), Math.min(last, Math.max(from, to))];
    if (!(b - a >= 1)) return;
    const on = a > first || b < last;
    for (const chart of charts) {
      if (!chart.marks) start(chart);
      if (on) draw(chart, a, b); else whole(chart);
    }
    [form.elements.from.value, form.elements.to.value] = [Math.round(a), Math.round(b)];
    form.classList.toggle("on", on);
  };
  if (charts.length) {
    form.hidden = false;
    root.classList.add("zooms");
    [form.elements.from.value, form.elements.to.value] = [first, last];
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    zoom(Number(form.elements.from.value), Number(form.elements.to.value));
  });
  form.addEventListener("reset", (event) => { event.preventDefault(); zoom(first, last); });
  let drag = null;
  const across = (event) => {
    const { svg, left, right } = drag.chart;
    const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    return Math.min(right, Math.max(left, x));
  };
  document.addEventListener("pointerdown", (event) => {
    const chart = event.pointerType === "mouse" && event.button === 0 && charts.find((c) => c.svg.contains(event.target));
    if (!chart) return;
    drag = { chart, box: make("rect", { class: "drag", y: 0, height: chart.svg.viewBox.baseVal.height, width: 0 }) };
    drag.from = across(event);
    chart.svg.append(drag.box);
  });
  document.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const to = across(event);
    drag.box.setAttribute("x", Math.min(drag.from, to));
    drag.box.setAttribute("width", Math.abs(to - drag.from));
  });
  document.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const { chart, from, box } = drag;
    const to = across(event);
    drag = null;
    box.remove();
    if (Math.abs(to - from) < 6) return;
    const on = form.classList.contains("on");
    const [a, b] = on ? [Number(form.elements.from.value), Number(form.elements.to.value)] : [chart.low, chart.high];
    const step = (x) => Math.round(a + ((x - chart.left) / (chart.right - chart.left)) * (b - a));
    zoom(step(from), step(to));
  });
  document.addEventListener("dblclick", (event) => {
    if (charts.some((chart) => chart.svg.contains(event.target))) zoom(first, last);
  });
  addEventListener("beforeprint", () => { for (const part of all("details")) part.open = true; });

  // Figures: saved as they look now, with the colours of the theme written into the file.
  const marked = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap",
    "vector-effect", "opacity", "font-size", "font-weight", "font-family"];
  const standalone = (svg) => {
    const copy = svg.cloneNode(true);
    const [from, to] = [all("*", svg), all("*", copy)];
    from.forEach((element, i) => {
      const look = getComputedStyle(element);
      for (const name of marked) to[i].style.setProperty(name, look.getPropertyValue(name));
      if (texts.has(element)) {
        const title = document.createElementNS(svg.namespaceURI, "title");
        title.textContent = texts.get(element);
        to[i].append(title);
      }
    });
    const { width, height } = svg.viewBox.baseVal;
    const ground = document.createElementNS(svg.namespaceURI, "rect");
    ground.setAttribute("width", width);
    ground.setAttribute("height", height);
    ground.setAttribute("fill", getComputedStyle(root).getPropertyValue("--ground"));
    copy.prepend(ground);
    copy.setAttribute("xmlns", svg.namespaceURI);
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    return [new XMLSerializer().serializeToString(copy), width, height];
  };
  const save = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const raster = (text, width, height, done) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [width * 3, height * 3];
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(done, "image/png");
    };
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  };
  for (const figure of all("figure")) {
    const holder = document.createElement("span");
    holder.className = "save";
    for (const kind of ["svg", "png"]) {
      const saver = document.createElement("button");
      Object.assign(saver, { type: "button", textContent: kind.toUpperCase() });
      saver.dataset.save = kind;
      holder.append(saver);
    }
    figure.prepend(holder);
    holder.addEventListener("click", (event) => {
      const kind = event.target.dataset.save;
      if (!kind) return;
      const [text, width, height] = standalone(figure.querySelector("svg"));
      const name = `${figure.dataset.name}.${kind}`;
      if (kind === "svg") save(new Blob([text], { type: "image/svg+xml" }), name);
      else raster(text, width, height, (blob) => save(blob, name));
    });
  }
})();
