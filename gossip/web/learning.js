// Charts of how learning went.

import { ask } from "./api.js";
import { bytes, figure, make, table, title } from "./format.js";

const AXES = {
  time: ["time", (h) => h.time],
  rounds: ["rounds of training", (h) => h.rounds],
  samples: ["samples seen", (h) => h.samples],
  bytes: ["bytes sent and received", (h) => h.bytes_sent.map((sent, i) => sent + h.bytes_received[i])],
};
const COLOURS = ["#0f8b8d", "#d9853b", "#7b5ea7", "#4f8f3a", "#c2476b", "#5b7cb8"];
const DASHES = [[], [6, 3], [2, 2], [10, 3, 2, 3], [1, 3], [12, 4]];
const SHARES = /accuracy|precision|recall|f1|share|hit/i;

export function open(main) {
  const axis = make("select", { id: "axis", onchange: () => drawn && redraw() },
    ...Object.entries(AXES).map(([name, [label]]) => make("option", { value: name }, label)));
  const charts = make("div", { class: "charts" });
  const latest = make("div", { class: "narrow" });
  main.append(title("Learning"), make("div", { class: "bar" }, make("label", { for: "axis" }, "Along"), axis), charts, make("h2", {}, "Latest"), latest);
  let drawn = null;
  let plots = [];
  let kinds = "";

  // The same charts with longer lines, or new ones where something else was measured.
  function extend() {
    const found = groups(drawn);
    if (kinds !== outline(found) || drawn.time.length < 4) return redraw();
    found.forEach(([, series], index) => plots[index].setData([AXES[axis.value][1](drawn), ...series.map(([, values]) => values)]));
  }

  function redraw() {
    kinds = outline(groups(drawn));
    plots.forEach((plot) => plot.destroy());
    plots = [];
    charts.replaceChildren();
    for (const [name, series, format] of groups(drawn)) {
      const holder = make("figure", { "aria-label": `${name}; the figures are in the table` }, make("figcaption", {}, name));
      charts.append(holder);
      plots.push(plot(holder, AXES[axis.value][1](drawn), axis.value, series, format));
    }
    if (!charts.children.length) charts.append(make("p", { class: "faint" }, "Nothing was measured yet."));
  }

  const resized = new ResizeObserver(() => plots.forEach((one) => one.setSize({ width: one.root.parentElement.clientWidth - 24, height: 220 })));
  resized.observe(charts);
  return {
    async update() {
      const history = await ask("learning");
      if (!charts.isConnected) return; // another page was opened meanwhile
      if (drawn && history.time.at(-1) === drawn.time.at(-1)) return;
      drawn = history;
      extend();
      latest.replaceChildren(...figures(history));
    },
    close() { resized.disconnect(); plots.forEach((plot) => plot.destroy()); },
  };
}

function groups(history) {
  if (!history.time.length) return [];
  const metrics = Object.entries(history.metrics);
  const shares = metrics.filter(([name]) => SHARES.test(name));
  const others = metrics.filter(([name]) => !SHARES.test(name)).map((one) => [one[0], [one], figure]);
  const compression = history.bytes_dense.map((dense, i) => (history.bytes_sent[i] && dense ? dense / history.bytes_sent[i] : null));
  return [
    ...(shares.length ? [["How good the model is", shares, figure]] : []),
    ...others,
    ["Distance to the neighbours, as a share of the model's length", [["distance", history.distance]], figure],
    ["Compression: float32 over all bytes sent", [["times", compression]], figure],
    ["Traffic so far", [["sent", history.bytes_sent], ["received", history.bytes_received]], bytes],
  ].filter(([, series]) => series.some(([, values]) => values.some((value) => value != null)));
}

const outline = (found) => found.map(([name, series]) => [name, ...series.map(([label]) => label)].join()).join(";");

function plot(holder, along, axis, series, format) {
  const style = getComputedStyle(document.documentElement);
  const faint = make("span", { class: "faint" });
  holder.append(faint);
  const ink = getComputedStyle(faint).color;
  faint.remove();
  const grid = { stroke: "rgba(128,128,128,.18)", width: 1 };
  const number = (_, values) => values.map((value) => (axis === "bytes" ? bytes(value) : compact(value)));
  return new uPlot({
    width: Math.max(holder.clientWidth - 24, 200),
    height: 220,
    scales: { x: { time: axis === "time" } },
    cursor: { y: false },
    axes: [
      { stroke: ink, grid, ticks: grid, font: `11px ${style.fontFamily}`, space: 70, ...(axis === "time" ? {} : { values: number }) },
      { stroke: ink, grid, ticks: grid, font: `11px ${style.fontFamily}`, size: 62, values: (_, values) => values.map(format) },
    ],
    series: [
      { label: AXES[axis][0], value: (_, value) => (value == null ? "–" : axis === "time" ? new Date(1000 * value).toTimeString().slice(0, 8) : axis === "bytes" ? bytes(value) : value.toLocaleString("en")) },
      ...series.map(([label], index) => ({
        label, stroke: COLOURS[index % COLOURS.length], width: 2, dash: DASHES[index % DASHES.length],
        points: { show: along.length < 3 }, value: (_, value) => (value == null ? "–" : format(value)),
      })),
    ],
  }, [along, ...series.map(([, values]) => values)], holder);
}

const compact = (value) => (value >= 1e6 ? `${figure(value / 1e6)} M` : value >= 1e4 ? `${figure(value / 1e3)} k` : figure(value));

function figures(history) {
  if (!history.time.length) return [];
  const last = (values) => values.at(-1);
  return [table([["what"], ["value", "number"]], [
    ...Object.entries(history.metrics).map(([name, values]) => [name, figure(last(values))]),
    ["distance to the neighbours", figure(last(history.distance))],
    ["rounds of training", last(history.rounds).toLocaleString("en")],
    ["samples seen", last(history.samples).toLocaleString("en")],
    ["exchanges", last(history.exchanges).toLocaleString("en")],
    ["sent", bytes(last(history.bytes_sent))],
    ["received", bytes(last(history.bytes_received))],
  ])];
}
