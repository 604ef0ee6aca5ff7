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
      for (const name of ["name", "verdict"]) if (first && first.cells[column].classList.contains(name)) head.classList.add(name);
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
