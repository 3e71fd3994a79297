// The page's pure functions on the numbers of a data file: node interactive_model.js MODEL DATA
"use strict";

const assert = require("node:assert");
const fs = require("node:fs");
const [, , modelPath, dataPath] = process.argv;
const M = require(modelPath);
const text = fs.readFileSync(dataPath, "utf-8");
const data = JSON.parse(text.slice("const SIGNAL = ".length, text.lastIndexOf(";")));

// The nearest place by ratio, not by difference.
assert.strictEqual(M.nearest([1, 4], 1.9), 0);
assert.strictEqual(M.nearest([1, 4], 2.1), 1);

// An address sets what it names; what it names wrongly stays.
const usual = M.defaults(data);
const far = M.settingsFromHash("#activation=sigmoid&gain=1&depth=1&norm=BatchNorm&show=z&axis=own", data);
assert.deepStrictEqual(far, {
  activation: "sigmoid", norm: "BatchNorm", scale: M.nearest(data.variances, 1), deep: 0,
  show: "z", axis: "own",
});
for (const wrong of ["", "#how-to-read-it", "#activation=no&gain=-1&depth=x&norm=no&show=q&axis=",
  "#gain=0", "#gain=Infinity", "#activation=toString", "#gain=nothing&depth="]) {
  assert.deepStrictEqual(M.settingsFromHash(wrong, data), usual, wrong);
}
assert.deepStrictEqual(M.settingsFromHash("#depth=1", data, far), far);
assert.strictEqual(M.settingsFromHash("#variance=2", data).scale, M.nearest(data.variances, 2));

// Every setting has an address that leads back to it.
for (const activation of Object.keys(data.activations)) {
  data.variances.forEach((_, scale) => data.depths.forEach((_, deep) => {
    const settings = { activation, norm: data.norms[1], scale, deep, show: "z", axis: "own" };
    assert.deepStrictEqual(M.settingsFromHash(M.hashOf(settings, data), data), settings);
  }));
}

// A chain of factors, by hand: chi = 2, 3, 4, of three layers with sigma_w^2 = 2.
const { dz, da } = M.gradientTheory([2, 3, 4], 3, 2);
const squares = (list) => list.map((size) => Number((size * size).toFixed(9)));
assert.deepStrictEqual(squares(da), [12, 4, 1]);
assert.deepStrictEqual(squares(dz), [12, 6, 2]);

// Where a size is farthest from its start; sizes of exactly 0 are left out.
assert.deepStrictEqual(M.departure([1, 10, 100], false), { layer: 3, start: 1, ratio: 100, aLayer: 10 });
assert.deepStrictEqual(M.departure([0, 0.25, 0.5, 1], true), { layer: 2, start: 4, ratio: 0.25, aLayer: 0.5 });
assert.strictEqual(M.departure([1, 8, 2], false).layer, 2);

// The axis holds all values, in few steps.
assert.deepStrictEqual(M.axisRange([1]), [-1, 1]);
assert.deepStrictEqual(M.axisRange([0.09, 1]), [-3, 1]);
assert.deepStrictEqual(M.axisRange([0, 1e-38, 20]), [-48, 3]);

assert.deepStrictEqual([0, 1.234, -0.5, 0.001, 12345, 1e-40].map((value) => M.number(value)),
  ["0", "1.2", "−0.5", "1.0·10⁻³", "1.2·10⁴", "1.0·10⁻⁴⁰"]);
assert.strictEqual(M.number(1.2345, 3), "1.23");

assert.deepStrictEqual(M.ticks(0.31, 0.73), [0.4, 0.6]);
assert.deepStrictEqual(M.ticks(-1.1, 1.1), [-1, 0, 1]);
for (const [low, high] of [[-3, 5], [0, 1e-37], [-2.5e9, 1e9], [0.31, 0.33]]) {
  const found = M.ticks(low, high);
  assert(found.length >= 2 && found.length <= 5, String(found));
  assert(found.every((value) => low <= value && value <= high));
}

// The limits decide, from both sides of each of them.
const limits = { signal: 1000, gradient: 1000, dead: 0.25, saturated: 0.25 };
const network = (changes) => Object.assign({
  measured: { z: [1, 1], dz: [1, 1] }, theory: { z: [1, 1], dz: [1, 1] }, dead: [0, 0], saturated: [0, 0],
}, changes);
const problems = (changes) => M.findings(network(changes), limits).map((each) => each.problem);
assert.deepStrictEqual(problems({}), []);
assert.deepStrictEqual(problems({ dead: [0, 0.25] }), []);
assert.deepStrictEqual(problems({ dead: [0, 0.26], saturated: [0.26, 0] }), ["dead units", "saturated"]);
assert.deepStrictEqual(problems({ measured: { z: [1, 999], dz: [999, 1] } }), []);
assert.deepStrictEqual(problems({ measured: { z: [1, 1001], dz: [1 / 1001, 1] } }),
  ["exploding signal", "vanishing gradient"]);
assert.deepStrictEqual(problems({ measured: { z: [1, 1 / 1001], dz: [1001, 1] } }),
  ["vanishing signal", "exploding gradient"]);
assert.deepStrictEqual(problems({ measured: { z: [1, 1], dz: [0, 1] } }), ["cut off"]);

// What the caller compares with the library: one line of JSON, the networks of each setting.
const wanted = JSON.parse(fs.readFileSync(0, "utf-8") || "[]");
const found = wanted.map((hash) => {
  const of = M.network(data, M.settingsFromHash(hash, data));
  return {
    measured: of.measured, theory: of.theory, spread: of.spread, histograms: of.histograms,
    dead: of.dead, saturated: of.saturated,
    problems: M.findings(of, data.limits).map((each) => each.problem),
  };
});
console.log(JSON.stringify(found));
