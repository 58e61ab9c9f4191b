"use strict";
const $ = (id) => document.getElementById(id);
const moment = $("moment"); // a page that was saved shows one moment

function el(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

function number(v, unit) {
  if (v === null || v === undefined) return "–";
  if (unit === "s") return v < 1 ? (v * 1e3).toPrecision(3) + " ms" : v.toPrecision(3) + " s";
  if (unit === "J") return v < 1 ? (v * 1e3).toPrecision(3) + " mJ" : v.toPrecision(3) + " J";
  const text = v >= 1000 ? Math.round(v).toLocaleString("en") : Number(v.toPrecision(3)).toString();
  return unit ? text + " " + unit : text;
}

// Two times with one unit, so that they stay on one line.
function times(a, b) {
  const known = [a, b].filter((v) => v !== null && v !== undefined);
  const [scale, unit] = Math.max(...known, 0) < 1 ? [1e3, " ms"] : [1, " s"];
  return [a, b].map((v) => (v === null || v === undefined ? "–" : Number((v * scale).toPrecision(3)).toString())).join(" / ") + unit;
}

const HEIGHT = 58, EDGE = 6; // of a chart, and of half a label of its scale

// The lowest round number that is not below v.
function round_up(v) {
  const k = 10 ** Math.floor(Math.log10(v));
  return k * [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((m) => v <= m * k * (1 + 1e-9));
}

// Labels of a scale from 0 to top, from the top down, with one unit; only 0 when there is nothing to see.
function scale(top, unit) {
  if (!top) return ["", "", "0"];
  const [factor, prefix] = !unit || unit === "/s" || top >= 1 ? (top >= 1e4 ? [1e-3, "k"] : [1, ""]) : top >= 1e-3 ? [1e3, "m"] : [1e6, "µ"];
  const full = prefix === "k" || unit === "/s" ? prefix + unit : unit && " " + prefix + unit;
  return [top, top / 2].map((v) => Number((v * factor).toPrecision(3)).toLocaleString("en") + full).concat("0");
}

function drawn(tag, attributes) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, v] of Object.entries(attributes)) e.setAttribute(key, v);
  return e;
}

// One small chart with its scale: up to two series, and a dashed limit.
function chart(title, unit, series, limit) {
  const values = series.flat().filter((v) => v !== null && v !== undefined);
  const most = Math.max(...values, limit || 0, 0), top = most && round_up(most);
  const labels = scale(top, unit);
  const svg = drawn("svg", { viewBox: "0 0 300 " + HEIGHT, preserveAspectRatio: "none", role: "img", "aria-label": title + ", scale from 0 to " + (labels[0] || "0") });
  const y = (v) => HEIGHT - EDGE - ((HEIGHT - 2 * EDGE) * v) / (top || 1);
  const level = (v, name) => svg.append(drawn("line", { class: name, x1: 0, x2: 300, y1: y(v), y2: y(v) }));
  for (const v of top ? [top, top / 2, 0] : [0]) level(v, "grid");
  const span = Math.max(moment ? 2 : 60, ...series.map((s) => s.length)) - 1;
  series.forEach((s, k) => {
    let d = "", pen = false;
    s.forEach((v, i) => {
      if (v === null || v === undefined) { pen = false; return; }
      d += (pen ? "L" : "M") + (300 - (300 * (s.length - 1 - i)) / span).toFixed(1) + " " + y(v).toFixed(1);
      pen = true;
    });
    svg.append(drawn("path", k ? { d, class: "second" } : { d }));
  });
  if (limit) level(limit, "limit");
  const axis = el("div", "scale"), plot = el("div", "plot");
  axis.setAttribute("aria-hidden", "true"); // the chart's own label says it in words
  axis.append(...labels.map((text) => el("span", "", text)));
  plot.append(axis, svg);
  return plot;
}

// unit: of the chart's scale.
function figure(title, value, small, unit, series, limit, bad) {
  const box = el("div", "figure");
  box.append(el("small", "", title), el("b", bad ? "bad" : "", value));
  box.append(chart(title, unit, series, limit), el("small", "", small));
  return box;
}

function model(name, m, samples) {
  const of = (key) => samples.map((s) => (s.models[name] ? s.models[name][key] : null));
  const last = (key) => { const v = of(key); return v.length ? v[v.length - 1] : null; };
  const mean = (key) => { const v = of(key).slice(-10).filter((x) => x !== null); return v.length ? v.reduce((a, b) => a + b, 0) / v.length : null; };
  const card = el("section", "card");
  const head = el("div", "head");
  head.append(el("h2", "", name), el("span", "", "version " + m.version), el("span", m.ready ? "good" : "bad", m.ready ? "ready" : "not ready"));
  head.append(el("span", "", m.slo_s ? "SLO " + number(m.slo_s, "s") : "no SLO"));
  if (m.deaths) head.append(el("span", "bad", "died " + m.deaths + (m.deaths > 1 ? " times" : " time")));
  const row = el("div", "row");
  const p99 = mean("p99_s");
  const refused = of("rejected").map((v, i) => (v === null ? null : v + of("expired")[i] + of("failed")[i]));
  const t = m.totals;
  row.append(
    figure("answers a second", number(mean("completed")), number(t.completed) + " in all", "/s", [of("completed")]),
    figure("latency, p50 and p99", times(mean("p50_s"), p99), m.slo_s ? "dashed: SLO" : "", "s", [of("p50_s"), of("p99_s")], m.slo_s, m.slo_s && p99 > m.slo_s),
    figure("waiting requests", number(last("waiting")), number(last("running")) + " of at most " + m.instances + " batches run", "", [of("waiting")]),
    figure("rows a batch", number(mean("batch")), "at most " + m.max_batch, "", [of("batch")]),
    figure("refused a second", number(mean("rejected") === null ? null : mean("rejected") + mean("expired") + mean("failed")),
      number(t.rejected) + " rejected, " + number(t.expired) + " expired, " + number(t.failed) + " failed", "/s", [refused]),
    figure("power for nothing, modelled", number(mean("wasted_w"), "W"),
      number(Object.values(m.wasted.energy_j).reduce((a, b) => a + b, 0), "J") + " in all: late " + number(m.wasted.energy_j.late, "J") + ", sender gone " + number(m.wasted.energy_j.gone, "J") + ", failed " + number(m.wasted.energy_j.failed, "J"), "W", [of("wasted_w")]),
  );
  card.append(head, row);
  return card;
}

async function draw() {
  let live;
  try {
    live = moment ? JSON.parse(moment.textContent) : await (await fetch("/live.json", { cache: "no-store" })).json();
  } catch (e) {
    $("about").textContent = "the server does not answer";
    return;
  }
  const { samples } = live;
  $("about").textContent = "policy " + live.policy + ", " + live.n_cores + " batches at once; energy " + live.meter.provenance + ": " + live.meter.source;
  const problems = Object.entries(live.problems).map(([k, v]) => k + ": " + v).join("; ");
  $("problems").hidden = !problems;
  $("problems").textContent = problems;
  const power = samples.map((s) => s.power_w), each = samples.map((s) => s.j_per_request);
  const recent = (v) => { const k = v.slice(-10).filter((x) => x !== null); return k.length ? k.reduce((a, b) => a + b, 0) / k.length : null; };
  const box = el("div", "card row");
  box.append(
    figure("power, " + live.meter.provenance, number(recent(power), "W"), "", "W", [power]),
    figure("energy a request, " + live.meter.provenance, number(recent(each), "J"), "", "J", [each]),
  );
  $("machine").className = "";
  $("machine").replaceChildren(box);
  $("models").replaceChildren(...Object.entries(live.models).map(([name, m]) => model(name, m, samples)));
}

draw();
if (!moment) setInterval(draw, 1000);
