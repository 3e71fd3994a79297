// What the interactive page knows: settings, the numbers of one network, and what they say.
// Pure functions; `page.js` draws. The numbers are unpacked as `docs/interactive/packing.py` packs.
"use strict";

const SignalModel = (() => {
  function codes(text, letters, alphabet) {
    const found = [];
    for (let at = 0; at < text.length; at += letters) {
      let code = 0;
      for (let place = 0; place < letters; place++) {
        code = code * 64 + alphabet.indexOf(text[at + place]);
      }
      found.push(code);
    }
    return found;
  }

  // Positive sizes; 0 where at least one network has a size of exactly 0.
  function sizes(text, format) {
    const top = 64 ** format.sizeLetters - 2;
    const span = format.highest - format.lowest;
    return codes(text, format.sizeLetters, format.letters).map((code) =>
      code === 0 ? 0 : 10 ** (format.lowest + ((code - 1) / top) * span));
  }

  // Half-widths of intervals, in powers of ten.
  function spreads(text, format) {
    return codes(text, format.spreadLetters, format.letters).map(
      (code) => format.widestSpread * (code / 63) ** 2);
  }

  function shares(text, format) {
    const top = 64 ** format.shareLetters - 1;
    return codes(text, format.shareLetters, format.letters).map((code) => code / top);
  }

  // The histograms' rows: the share of exact zeros, the mean in deviations, the bars (0 to 1).
  function rows(text, format) {
    const head = 2 * format.shareLetters;
    const length = head + format.bins;
    const found = [];
    for (let at = 0; at < text.length; at += length) {
      const row = text.slice(at, at + length);
      const [zeros, mean] = shares(row.slice(0, head), format);
      found.push({
        zeros,
        mean: (2 * mean - 1) * format.farthestMean,
        bars: codes(row.slice(head), 1, format.letters).map((code) => code / 63),
      });
    }
    return found;
  }

  // The place in an ascending list that is nearest to a positive value, by its logarithm.
  function nearest(list, value) {
    let best = 0;
    list.forEach((each, place) => {
      const distance = Math.abs(Math.log(each / value));
      if (distance < Math.abs(Math.log(list[best] / value))) best = place;
    });
    return best;
  }

  const USUAL = { activation: "relu", norm: "none", variance: 2, depth: 50, show: "a", axis: "one" };

  // Settings from the page's address, such as "#activation=tanh&gain=1.41&depth=20&norm=none".
  // What it does not name, or names wrongly, stays as in `before`.
  function settingsFromHash(hash, data, before) {
    const given = new URLSearchParams(hash.replace(/^#/, ""));
    const settings = Object.assign({}, before || defaults(data));
    const activation = given.get("activation");
    if (Object.hasOwn(data.activations, activation)) settings.activation = activation;
    if (data.norms.includes(given.get("norm"))) settings.norm = given.get("norm");
    const gain = Number(given.get("gain"));
    const variance = given.has("variance") ? Number(given.get("variance")) : gain * Math.abs(gain);
    if (variance > 0 && Number.isFinite(variance)) {
      settings.scale = nearest(data.variances, variance);
    }
    const depth = Number(given.get("depth"));
    if (depth > 0 && Number.isFinite(depth)) settings.deep = nearest(data.depths, depth);
    if (["a", "z"].includes(given.get("show"))) settings.show = given.get("show");
    if (["one", "own"].includes(given.get("axis"))) settings.axis = given.get("axis");
    return settings;
  }

  function defaults(data) {
    return {
      activation: USUAL.activation,
      norm: USUAL.norm,
      scale: nearest(data.variances, USUAL.variance),
      deep: nearest(data.depths, USUAL.depth),
      show: USUAL.show,
      axis: USUAL.axis,
    };
  }

  function hashOf(settings, data) {
    const gain = Number(Math.sqrt(data.variances[settings.scale]).toPrecision(4));
    return `#activation=${settings.activation}&gain=${gain}&depth=${data.depths[settings.deep]}` +
      `&norm=${settings.norm}&show=${settings.show}&axis=${settings.axis}`;
  }

  // The gradient's root mean square by layer, if that at the last a is 1, from the factors chi:
  // da_l^2 = chi_{l+1} ... chi_D and dz_l^2 = chi_l ... chi_D / sigma_w^2.
  function gradientTheory(factors, depth, variance) {
    const da = new Array(depth);
    const dz = new Array(depth);
    let product = 1;
    for (let layer = depth - 1; layer >= 0; layer--) {
      da[layer] = Math.sqrt(product);
      product *= factors[layer];
      dz[layer] = Math.sqrt(product / variance);
    }
    return { dz, da };
  }

  // All numbers of one setting, by layer from 1 to the depth.
  function network(data, settings) {
    const format = data.format;
    const depth = data.depths[settings.deep];
    const variance = data.variances[settings.scale];
    const scales = data.cells[`${settings.activation}/${settings.norm}`];
    const cell = scales[settings.scale];
    const first = data.depths.slice(0, settings.deep).reduce((sum, each) => sum + each, 0);
    const measured = {};
    const spread = {};
    for (const name of ["z", "a", "dz", "da"]) {
      const start = name.length === 2 ? first : 0;
      measured[name] = sizes(cell[name][0], format).slice(start, start + depth);
      spread[name] = spreads(cell[name][1], format).slice(start, start + depth);
    }
    const [z, a, factors] = cell.theory.map((each) => sizes(each, format).slice(0, depth));
    const theory = Object.assign({ z, a }, gradientTheory(factors, depth, variance));
    // With a norm one scale's histograms, in standard deviations, are all scales'.
    const bars = (cell.bars || scales.find((each) => each.bars).bars);
    const layers = data.shown.filter((layer) => layer <= depth);
    const histograms = {};
    for (const name of ["z", "a", "dz", "da"]) {
      const text = name.length === 2 ? bars[name][settings.deep] : bars[name];
      const found = rows(text, format).slice(0, layers.length);
      histograms[name] = found.map((row, at) => Object.assign(row, {
        layer: layers[at],
        stddev: measured[name][layers[at] - 1],
      }));
    }
    return {
      depth, variance, measured, spread, theory, histograms,
      dead: shares(cell.dead, format).slice(0, depth),
      saturated: shares(cell.saturated, format).slice(0, depth),
    };
  }

  // Where a size departs most from where it starts: {layer, ratio, aLayer}; layers from 1.
  function departure(values, backward) {
    const order = values.map((_, at) => at);
    if (backward) order.reverse();
    const known = order.filter((at) => values[at] > 0);
    let worst = { layer: known[0] + 1, start: known[0] + 1, ratio: 1, aLayer: 1 };
    for (const at of known.slice(1)) {
      const ratio = values[at] / values[known[0]];
      if (Math.abs(Math.log(ratio)) > Math.abs(Math.log(worst.ratio))) {
        const steps = Math.abs(at - known[0]);
        worst = { layer: at + 1, start: known[0] + 1, ratio, aLayer: ratio ** (1 / steps) };
      }
    }
    return worst;
  }

  const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

  const raised = (exponent) => [...String(exponent)].map((sign) => RAISED[sign]).join("");

  // Two digits; far from 1 with a power of ten: 0.25, 31, 6.7·10⁻⁵.
  function number(value, digits = 2) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 0.01 && size < 9999.5) return String(Number(value.toPrecision(digits))).replace("-", "−");
    const [factor, exponent] = value.toExponential(digits - 1).split("e");
    return `${factor.replace("-", "−")}·10${raised(Number(exponent))}`;
  }

  function drift(values, theory, limit, what, backward) {
    const worst = departure(values, backward);
    if (Math.abs(Math.log(worst.ratio)) < Math.log(limit)) return null;
    const does = worst.ratio < 1 ? "vanishes" : "explodes";
    const predicted = (theory[worst.layer - 1] / theory[worst.start - 1]) **
      (1 / Math.abs(worst.layer - worst.start));
    return {
      problem: `${worst.ratio < 1 ? "vanishing" : "exploding"} ${what}`,
      word: `The ${what} ${does}`,
      text: `at layer ${worst.layer} it is ${number(worst.ratio)} times that at layer ` +
        `${worst.start}, a factor of ${number(worst.aLayer, 3)} a layer ` +
        `(theory: ${number(predicted, 3)}).`,
    };
  }

  function widespread(values, limit, problem, word, text) {
    const worst = Math.max(...values);
    if (!(worst > limit)) return null;
    const layer = values.indexOf(worst) + 1;
    return { problem, word, text: `${Math.round(100 * worst)} % of the ${text.replace("@", layer)}.` };
  }

  // What `jaxdl.diagnostics.advise` would find, by its limits; an empty list is a healthy network.
  function findings(of, limits) {
    const found = [];
    const lost = of.measured.dz.filter((size) => size === 0).length;
    if (lost > 0) {
      const before = lost === 1 ? "" : " and before it";
      found.push({
        problem: "cut off",
        word: "float32 ends",
        text: `the gradient is exactly 0 in layer ${lost}${before}, in one of the networks at ` +
          "least: it is smaller than the smallest number of float32.",
      });
    }
    found.push(
      drift(of.measured.z, of.theory.z, limits.signal, "signal", false),
      drift(of.measured.dz, of.theory.dz, limits.gradient, "gradient", true),
      widespread(of.dead, limits.dead, "dead units", "Dead units",
        "units of layer @ have the same value for all examples"),
      widespread(of.saturated, limits.saturated, "saturated", "Saturated",
        "activations of layer @ stand where the slope is almost 0"));
    return found.filter((each) => each !== null);
  }

  // By how much theory and measurement differ at most: the factor, at least 1, and its layer.
  function disagreement(measured, theory) {
    let worst = { factor: 1, layer: 1 };
    measured.forEach((size, at) => {
      if (!(size > 0 && theory[at] > 0)) return;
      const factor = Math.exp(Math.abs(Math.log(size / theory[at])));
      if (factor > worst.factor) worst = { factor, layer: at + 1 };
    });
    return worst;
  }

  const LOWER = [-1, -3, -6, -12, -24, -48, -60];
  const UPPER = [1, 3, 6, 12, 24, 40];

  // Powers of ten at the ends of an axis, in few steps, so that small changes leave it as it is.
  function axisRange(values) {
    const logs = values.filter((size) => size > 0).map(Math.log10);
    const low = Math.min(...logs);
    const high = Math.max(...logs);
    const lower = LOWER.find((each) => each <= low);
    const upper = UPPER.find((each) => each >= high);
    return [lower === undefined ? LOWER[LOWER.length - 1] : lower,
      upper === undefined ? UPPER[UPPER.length - 1] : upper];
  }

  // Two to five round numbers on a linear axis: multiples of 1, 2 or 5 times a power of ten.
  function ticks(low, high) {
    const least = (high - low) / 4;
    const power = 10 ** Math.floor(Math.log10(least));
    const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= least);
    const found = [];
    for (let times = Math.ceil(low / step); times * step <= high; times++) {
      found.push(Number((times * step).toPrecision(12)));
    }
    return found;
  }

  return {
    axisRange, defaults, departure, disagreement, findings, gradientTheory, hashOf, nearest,
    network, number, raised, rows, settingsFromHash, shares, sizes, spreads, ticks,
  };
})();

if (typeof module !== "undefined") module.exports = SignalModel;
