
"use strict";
// Interactive figures: what Vega-Lite draws of the data beside a picture takes the picture's place. All figures share
// the arms that are switched off.
(() => {
  const PANEL = 330, BESIDE = 78; // pixels: how wide a panel should be, and what its axis takes of that
  const figures = [...document.querySelectorAll("figure > script[type='application/json']")].map((data) => ({
    figure: data.parentElement, spec: JSON.parse(data.textContent), view: null, boxes: new Map(),
  }));
  const hidden = new Set();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const visible = (name) => (name === "black" ? colour("--text") : name); // the baseline, on a dark page too

  const swatch = (arm) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "-1.3 -1.3 2.6 2.6");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", arm.shape);
    path.setAttribute("fill", arm.colour === "black" ? "currentColor" : arm.colour);
    svg.append(path);
    return svg;
  };

  const update = () => {
    for (const { view, boxes } of figures) {
      for (const [name, box] of boxes) box.checked = !hidden.has(name);
      view?.signal("hidden", [...hidden]).runAsync();
    }
  };

  const switches = (entry) => {
    const group = document.createElement("fieldset"), legend = document.createElement("legend");
    legend.textContent = "arms shown";
    group.append(legend);
    for (const arm of entry.spec.usermeta.arms) {
      const label = document.createElement("label"), box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => {
        hidden[box.checked ? "delete" : "add"](arm.name);
        update();
      });
      entry.boxes.set(arm.name, box);
      label.append(box, swatch(arm), arm.name);
      group.append(label);
    }
    return group;
  };

  const draw = async (entry) => {
    const width = entry.place.clientWidth, count = entry.spec.concat.length;
    if (!width) return;
    entry.width = width;
    const most = Math.floor(width / PANEL);
    // Where there is room for one panel only, all stand in one row to be swiped, a little of the next one visible.
    const swiped = most < 2 && count > 1;
    const columns = swiped ? count : Math.ceil(count / Math.ceil(count / most));
    const panel = swiped ? Math.round(0.9 * width) - BESIDE : Math.min(Math.floor(width / columns) - BESIDE, 560);
    const spec = JSON.parse(JSON.stringify(entry.spec), (key, value) => (key === "range" ? value.map?.(visible) ?? value : value));
    const [text, faint, line] = ["--text", "--faint", "--line"].map(colour);
    const font = getComputedStyle(document.body).fontFamily;
    const axis = { labelColor: faint, titleColor: text, gridColor: line, domainColor: faint, tickColor: faint };
    const config = {
      background: "transparent", font, axis: { ...axis, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12 },
      view: { stroke: null, continuousWidth: panel, continuousHeight: Math.round(Math.min(0.72 * panel, 300)) },
      concat: { spacing: 24 },
    };
    const { view } = await window.embed(entry.place, { ...spec, columns, config }, {
      actions: false, ast: true, defaultStyle: false, renderer: "canvas", tooltip: { disableDefaultStyle: true },
    });
    entry.view?.finalize();
    entry.view = view;
    update();
  };

  for (const entry of figures) {
    entry.place = document.createElement("div");
    entry.place.className = "plot";
    entry.figure.prepend(switches(entry), entry.place);
    entry.figure.classList.add("interactive");
    draw(entry).catch((error) => { // the picture is still there
      console.error(error);
      entry.figure.classList.remove("interactive");
    });
  }
  let waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => figures.filter((entry) => entry.place.clientWidth !== entry.width).forEach(draw), 200);
  });
  dark.addEventListener("change", () => figures.forEach(draw));
})();
