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

  // Steps: all figures over steps zoom together; marks move along their x axis, and what is outside is clipped.
  const form = document.getElementById("zoom");
  const make = (name, attributes, text = "") => {
    const element = document.createElementNS(charts[0].svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };
  const charts = all("svg[data-steps]").map((svg, i) => {
    const [low, high, left, right] = svg.dataset.steps.split(" ").map(Number);
    const [plot, ticks] = [svg.querySelector(".plot"), svg.querySelector(".ticks")];
    return { svg, low, high, left, right, plot, ticks, all: ticks.innerHTML, clip: `clip${i}`, marks: null };
  });
  const [first, last] = [Math.min(...charts.map((c) => c.low)), Math.max(...charts.map((c) => c.high))];
  const moved = {
    d: (path, at) => path.replace(/([MLH])(-?[\d.]+)/g, (_, letter, x) => letter + at(Number(x)).toFixed(1)),
    cx: (x, at) => at(Number(x)).toFixed(1),
    x: (x, at) => at(Number(x)).toFixed(1),
    width: (width, at) => (at(Number(width)) - at(0)).toFixed(1),
  };
  const start = (chart) => {
    chart.marks = [];
    for (const element of all("path,circle,rect,text", chart.plot)) {
      for (const name of Object.keys(moved)) {
        if (element.hasAttribute(name)) chart.marks.push([element, name, element.getAttribute(name)]);
      }
    }
    const clip = make("clipPath", { id: chart.clip });
    const { left, right } = chart;
    clip.append(make("rect", { x: left - 4, y: 0, width: right - left + 8, height: chart.svg.viewBox.baseVal.height }));
    chart.svg.prepend(clip);
  };
  const label = (chart, a, b, at) => {
    const bottom = Number(all("path.axis", chart.svg).at(-1).getAttribute("d").match(/ ([\d.]+)H/)[1]);
    const raw = (b - a) / (chart.right - chart.left > 330 ? 7 : 4);
    const power = 10 ** Math.max(0, Math.floor(Math.log10(raw)));
    const every = [1, 2, 5, 10].map((m) => m * power).find((step) => step >= raw);
    chart.ticks.replaceChildren();
    for (let step = Math.ceil(a / every) * every; step <= b; step += every) {
      const x = at(step).toFixed(1);
      chart.ticks.append(make("path", { class: "mark", d: `M${x} ${bottom}v4` }));
      const place = { class: "tick", x, y: bottom + 17, "text-anchor": "middle" };
      chart.ticks.append(make("text", place, step.toLocaleString("en-US")));
    }
  };
  const zoom = (from, to) => {
    const [a, b] = [Math.max(first, Math.min(from, to)), Math.min(last, Math.max(from, to))];
    if (!(b - a >= 1)) return;
    const on = a > first || b < last;
    for (const chart of charts) {
      if (!chart.marks) start(chart);
      const { low, high, left, right } = chart;
      const place = (step) => left + ((step - a) / (b - a)) * (right - left);
      const at = (x) => place(low + ((x - left) / (right - left)) * (high - low));
      for (const [element, name, value] of chart.marks) element.setAttribute(name, on ? moved[name](value, at) : value);
      if (on) chart.plot.setAttribute("clip-path", `url(#${chart.clip})`); else chart.plot.removeAttribute("clip-path");
      if (on) label(chart, a, b, place); else chart.ticks.innerHTML = chart.all;
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
    "opacity", "font-size", "font-weight", "font-family"];
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
    const holder = figure.querySelector(".save");
    holder.hidden = false;
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
