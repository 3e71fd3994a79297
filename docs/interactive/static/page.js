// The interactive page: reads the controls, draws what `signal_model.js` finds in `signal.js`.
"use strict";

(() => {
  const M = SignalModel;
  const at = (id) => document.getElementById(`sp-${id}`);
  const root = document.getElementById("signal-page");
  if (!root) return;
  let settings = M.defaults(SIGNAL);

  const SYMBOLS = { a: "a", z: "z", da: "∂L/∂a", dz: "∂L/∂z" };
  const FILL = { signal: "signal-fill", gradient: "gradient-fill" };

  function option(value, label) {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = label;
    return made;
  }

  // The sign of the variance differs: written on the page, read aloud for the slider.
  function scaleName(sign) {
    const variance = SIGNAL.variances[settings.scale];
    const name = SIGNAL.varianceNames[settings.scale];
    const says = `${sign} = ${Number(variance.toPrecision(3))}, gain ${Number(Math.sqrt(variance).toPrecision(3))}`;
    return name ? `${says} (${name})` : says;
  }

  function ofPreset(preset) {
    return Object.assign({}, settings, {
      activation: preset.activation,
      norm: preset.norm,
      scale: M.nearest(SIGNAL.variances, preset.variance),
      deep: M.nearest(SIGNAL.depths, preset.depth),
    });
  }

  function fill() {
    for (const [name, label] of Object.entries(SIGNAL.activations)) {
      at("activation").append(option(name, label));
    }
    for (const norm of SIGNAL.norms) at("norm").append(option(norm, norm));
    at("scale").max = SIGNAL.variances.length - 1;
    at("deep").max = SIGNAL.depths.length - 1;
    at("level").textContent = `${Math.round(100 * SIGNAL.level)} %`;
    at("seeds").textContent = SIGNAL.seeds;
    for (const preset of SIGNAL.presets) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = preset.label;
      button.addEventListener("click", () => change(ofPreset(preset)));
      at("presets").append(button);
    }
    const read = () => change({
      activation: at("activation").value,
      norm: at("norm").value,
      scale: Number(at("scale").value),
      deep: Number(at("deep").value),
      show: at("show").value,
      axis: at("axis").value,
    });
    at("controls").addEventListener("input", read);
    at("controls").addEventListener("submit", (event) => event.preventDefault());
    root.querySelector("details").addEventListener("toggle", draw);
  }

  function change(to) {
    settings = to;
    const hash = M.hashOf(settings, SIGNAL);
    try {
      history.replaceState(null, "", hash);
    } catch (refused) {
      // Some browsers refuse this for files; the page works without an address of its own.
    }
    draw();
  }

  function draw() {
    const of = M.network(SIGNAL, settings);
    for (const name of ["activation", "norm", "scale", "deep", "show", "axis"]) {
      at(name).value = settings[name];
    }
    at("scale-says").innerHTML = scaleName("σ<sub>w</sub>²");
    at("scale").setAttribute("aria-valuetext", scaleName("sigma w squared"));
    at("deep-says").textContent = `${of.depth} hidden layers`;
    at("deep").setAttribute("aria-valuetext", `${of.depth} hidden layers`);
    SIGNAL.presets.forEach((preset, place) => {
      const same = M.hashOf(ofPreset(preset), SIGNAL) === M.hashOf(settings, SIGNAL);
      at("presets").children[place].setAttribute("aria-pressed", String(same));
    });
    say(of);
    const signal = settings.show;
    const gradient = `d${signal}`;
    const where = signal === "a" ? "activations a" : "pre-activations z";
    at("signal-title").textContent = `Signal: standard deviation of ${where}`;
    at("gradient-title").textContent = `Gradient: standard deviation of ${SYMBOLS[gradient]}`;
    curve("signal", of, signal, "signal");
    curve("gradient", of, gradient, "gradient");
    const units = settings.axis === "one" ? "one axis" : "units of each layer";
    at("signal-bars-title").textContent = `Histograms of ${SYMBOLS[signal]}, ${units}`;
    at("gradient-bars-title").textContent = `Histograms of ${SYMBOLS[gradient]}, ${units}`;
    histograms("signal-bars", of.histograms[signal], "signal", SYMBOLS[signal]);
    histograms("gradient-bars", of.histograms[gradient], "gradient", SYMBOLS[gradient]);
    table(of, signal, gradient);
  }

  function paragraph(kind, word, text) {
    const made = document.createElement("p");
    made.className = `sp-${kind}-says`;
    if (word) {
      const strong = document.createElement("strong");
      strong.textContent = `${word}: `;
      made.append(strong);
    }
    made.append(text);
    return made;
  }

  function say(of) {
    const found = M.findings(of, SIGNAL.limits);
    const lines = found.map((each) => paragraph("bad", each.word, each.text));
    if (!found.some((each) => /signal|gradient|cut off/.test(each.problem))) {
      lines.unshift(paragraph("good", "Signal and gradient hold",
        `both stay within a factor of ${SIGNAL.limits.gradient} of where they start.`));
    }
    const differ = ["z", "dz"].map((name) => M.disagreement(of.measured[name], of.theory[name]));
    const [signal, gradient] = differ.map(
      (each) => `a factor of ${M.number(each.factor, 3)} (layer ${each.layer})`);
    lines.push(paragraph("theory", "", `Theory and measurement differ by at most ${signal} in ` +
      `the signal z, and by at most ${gradient} in its gradient.`));
    at("says").replaceChildren(...lines);
  }

  const power = (exponent) => exponent === 0 ? "1" : exponent === 1 ? "10" : `10${M.raised(exponent)}`;

  function curve(id, of, name, kind) {
    const svg = at(id);
    const [width, height] = [svg.clientWidth || 340, svg.clientHeight || 250];
    const [left, right, top, bottom] = [46, width - 8, 10, height - 38];
    const { measured, theory, spread } = of;
    const end = SIGNAL.limits.float32;
    const nearEnd = [...measured[name], ...theory[name]].some((size) => size < end);
    const inView = nearEnd ? [end] : [];
    const [low, high] = M.axisRange([...measured[name], ...theory[name], ...inView]);
    const x = (layer) => left + ((layer - 1) / (of.depth - 1)) * (right - left);
    const y = (size) => {
      const exponent = Math.min(Math.max(Math.log10(size), low), high);
      return bottom - ((exponent - low) / (high - low)) * (bottom - top);
    };
    const parts = [];
    const lost = measured[name].filter((size) => size === 0).length;
    if (lost) {
      const edge = lost >= of.depth ? right : x(lost + 0.5);
      parts.push(`<rect class="sp-lost" x="${left}" y="${top}" width="${edge - left}" height="${bottom - top}"/>`);
    }
    const step = Math.max(1, Math.ceil((high - low) / 6));
    for (let exponent = Math.ceil(low / step) * step; exponent <= high; exponent += step) {
      parts.push(`<path class="sp-grid" d="M${left} ${y(10 ** exponent)}H${right}"/>`,
        `<text x="${left - 6}" y="${y(10 ** exponent) + 4}" text-anchor="end">${power(exponent)}</text>`);
    }
    for (const layer of [1, ...[1, 2, 3, 4, 5].map((n) => Math.round(n * of.depth / 5))]) {
      parts.push(`<text x="${x(layer)}" y="${bottom + 17}" text-anchor="middle">${layer}</text>`);
    }
    parts.push(`<path class="sp-axis" d="M${left} ${top}V${bottom}H${right}"/>`,
      `<text x="${(left + right) / 2}" y="${height - 4}" text-anchor="middle">layer ` +
      `${kind === "gradient" ? "(the gradient comes from the right)" : "(the signal comes from the left)"}</text>`);
    const known = measured[name].map((size, place) => place).filter((place) => measured[name][place] > 0);
    const edge = (sign) => (place) =>
      `${x(place + 1)} ${y(measured[name][place] * 10 ** (sign * spread[name][place]))}`;
    if (known.length) {
      parts.push(`<path class="sp-${kind === "signal" ? "" : "gradient-"}band" d="M${known.map(edge(1)).join("L")}L${[...known].reverse().map(edge(-1)).join("L")}Z"/>`,
        `<path class="sp-${kind}" d="M${known.map(edge(0)).join("L")}"/>`);
      for (const place of known) {
        parts.push(`<circle class="sp-${kind}-dot" cx="${x(place + 1)}" cy="${y(measured[name][place])}" r="2.6"/>`);
      }
    }
    parts.push(`<path class="sp-theory" d="M${theory[name].map((size, place) => `${x(place + 1)} ${y(size)}`).join("L")}"/>`);
    if (nearEnd) {
      parts.push(`<path class="sp-end" d="M${left} ${y(end)}H${right}"/>`,
        `<text class="sp-end-says" x="${right}" y="${y(end) - 5}" text-anchor="end">float32 ends: ${M.number(end)}</text>`);
    }
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.innerHTML = parts.join("");
    const last = of.depth - 1;
    svg.setAttribute("aria-label", `Standard deviation of ${SYMBOLS[name]}: ` +
      `${M.number(measured[name][0])} in layer 1, ${M.number(measured[name][last])} in layer ${of.depth}; ` +
      `theory ${M.number(theory[name][0])} and ${M.number(theory[name][last])}.`);
  }

  function histograms(id, rows, kind, symbol) {
    const svg = at(id);
    const width = svg.clientWidth || 340;
    const [left, right, tall, gap] = [46, width - 70, 30, 12];
    const reach = SIGNAL.format.reach;
    const isOne = settings.axis === "one";
    const ends = rows.map((row) => [row.mean - reach, row.mean + reach].map((end) => end * row.stddev));
    const filled = rows.map((row, number) => {
      const [low, high] = ends[number];
      const edge = (bar) => low + (bar / row.bars.length) * (high - low);
      const known = row.bars.map((bar, place) => place).filter((place) => row.bars[place] > 0);
      return known.length ? [edge(known[0]), edge(known[known.length - 1] + 1)] : [0, 0];
    });
    const limits = isOne
      ? [Math.min(...filled.map((each) => each[0])), Math.max(...filled.map((each) => each[1]))]
      : null;
    const isFlat = isOne && !(limits[1] > limits[0]);
    const parts = [];
    rows.forEach((row, number) => {
      const base = (number + 1) * (tall + gap);
      const [low, high] = isOne ? limits : ends[number];
      const x = (value) => left + ((value - low) / (high - low)) * (right - left);
      parts.push(`<path class="sp-axis" d="M${left} ${base}H${right}"/>`,
        `<text x="${left - 6}" y="${base - 2}" text-anchor="end">${number ? row.layer : `layer ${row.layer}`}</text>`);
      if (row.stddev > 0 && !isFlat) {
        const [from, to] = ends[number].map(x);
        const slim = (to - from) / row.bars.length;
        row.bars.forEach((bar, place) => {
          if (bar > 0) {
            parts.push(`<rect class="sp-${FILL[kind]}" x="${from + place * slim}" y="${base - bar * tall}" width="${Math.max(slim * 0.92, 0.6)}" height="${bar * tall}"/>`);
          }
        });
        if (row.zeros > 0.005 && low < 0 && high > 0) {
          parts.push(`<rect class="sp-zeros" x="${x(0) - 1}" y="${base - row.zeros * tall}" width="2" height="${row.zeros * tall}"/>`);
        }
      }
      const note = row.zeros > 0.005 && row.stddev > 0 ? `${Math.round(100 * row.zeros)} % are 0` : "";
      parts.push(`<text x="${right + 6}" y="${base - 14}">${note}</text>`,
        `<text x="${right + 6}" y="${base - 2}">${row.stddev > 0 ? `±${M.number(row.stddev)}` : "all 0"}</text>`);
    });
    const height = rows.length * (tall + gap) + 34;
    const foot = rows.length * (tall + gap) + 16;
    if (isOne && !isFlat) {
      for (const value of M.ticks(limits[0], limits[1])) {
        const place = left + ((value - limits[0]) / (limits[1] - limits[0])) * (right - left);
        parts.push(`<path class="sp-axis" d="M${place} ${foot - 16}v4"/>`,
          `<text x="${place}" y="${foot}" text-anchor="middle">${M.number(value)}</text>`);
      }
    } else if (!isFlat) {
      parts.push(`<text x="${(left + right) / 2}" y="${foot}" text-anchor="middle">mean ± ${reach} standard deviations</text>`);
    }
    svg.style.height = `${height}px`;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.innerHTML = parts.join("");
    svg.setAttribute("aria-label", `Histograms of ${symbol}. ` + rows.map((row) =>
      `Layer ${row.layer}: standard deviation ${M.number(row.stddev)}, ${Math.round(100 * row.zeros)} % exactly 0.`).join(" "));
  }

  function table(of, signal, gradient) {
    if (!root.querySelector("details").open) return;
    const head = ["layer", SYMBOLS[signal], "theory", SYMBOLS[gradient], "theory", "dead", "saturated"];
    const percent = (share) => `${Math.round(100 * share)} %`;
    const lines = of.dead.map((dead, place) => [
      place + 1,
      M.number(of.measured[signal][place]), M.number(of.theory[signal][place]),
      M.number(of.measured[gradient][place]), M.number(of.theory[gradient][place]),
      percent(dead), percent(of.saturated[place])]);
    at("table").innerHTML = `<thead><tr>${head.map((cell) => `<th scope="col">${cell}</th>`).join("")}</tr></thead>` +
      `<tbody>${lines.map((line) => `<tr>${line.map((cell) => `<td>${cell}</td>`).join("")}</tr>`).join("")}</tbody>`;
  }

  function fromAddress() {
    settings = M.settingsFromHash(location.hash, SIGNAL, settings);
    draw();
  }

  fill();
  window.addEventListener("hashchange", fromAddress);
  let drawn = 0;
  new ResizeObserver(([panels]) => {
    if (panels.contentRect.width !== drawn) draw();
    drawn = panels.contentRect.width;
  }).observe(root.querySelector(".sp-panels"));
  fromAddress();
})();
