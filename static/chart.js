// Charts over data-only frames: <figure data-chart="region"> takes its first data from the JSON in #region-data.
// Data: {t: [bucket start, Unix seconds …], succeeded: [per second …], retried: […], failed: […], step?: seconds,
// blind?: [[from, to or null] …] spans in which Umbel was not listening}
import { $, $$, clock } from "./page.js";

// Each lane's series, from the floor up.
const LANES = { ".h-xl": ["succeeded", "retried", "failed"], ".h-s": ["failed", "retried"] };
const COLOURS = { succeeded: "--ok-quiet", retried: "--retry", failed: "--failed", cap: "--succeeded", line: "--line", ink: "--ink-3", blind: "--retry" };
const SHRINK = 60_000; // ms an axis keeps a maximum it no longer needs

export async function startCharts() {
  const figures = $$("figure[data-chart]");
  if (!figures.length) return;
  await load();
  const charts = new Map(figures.map((figure) => [figure.dataset.chart, twoLanes(figure)]));
  document.addEventListener("umbel:data", ({ detail }) => charts.get(detail.region)?.show(detail.data));
  const repaint = () => charts.forEach((chart) => chart.draw());
  document.addEventListener("umbel:theme", repaint);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
}

/** uPlot is a classic script; pages without a chart never load it. */
function load() {
  const at = (name) => new URL(`vendor/${name}`, import.meta.url);
  const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: at("uplot.min.css") });
  const script = Object.assign(document.createElement("script"), { src: at("uplot.min.js") });
  return new Promise((done, failed) => {
    Object.assign(script, { onload: done, onerror: failed });
    document.head.append(style, script);
  });
}

/** Everything that finished, stacked; under it only the trouble, on its own scale, since three in a thousand would not show. */
function twoLanes(figure) {
  figure.setAttribute("hx-morph-skip", "");
  const first = document.getElementById(`${figure.dataset.chart}-data`);
  let data = first ? JSON.parse(first.textContent) : { t: [] };
  let plots = [];
  const lanes = Object.entries(LANES).map(([selector, names]) => ({ box: place(figure, selector), names, top: stepDownLate() }));
  const hair = crosshair(lanes[0].box, () => ({ plot: plots[0], data }));

  function draw() {
    for (const plot of plots) plot.destroy();
    const colour = colours(figure);
    plots = lanes.map((lane) => plotOf(lane, colour, data, () => data.blind ?? []));
    lanes[0].box.append(hair);
  }
  function show(next) {
    const fits = plots.length && data.t.length && next.t.length;
    data = next;
    if (fits) lanes.forEach((lane, i) => plots[i].setData(stacked(lane.names, data)));
    else draw();
    for (const words of $$("[data-total]", figure.closest("section") ?? figure)) words.textContent = last(data, words.dataset.total);
  }
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (Math.round(entry.contentRect.width) === width) return;
    width = Math.round(entry.contentRect.width);
    draw();
  }).observe(figure);
  return { show, draw };
}

/** The lane's box; what the server drew for readers without script goes. */
function place(figure, selector) {
  const box = $(`.plotbox${selector}`, figure) ?? figure.appendChild(document.createElement("div"));
  box.classList.add("plotbox", selector.slice(1));
  box.replaceChildren();
  box.style.paddingInlineStart = "0"; // the plot brings its own axes
  if (selector === ".h-s") box.style.blockSize = "auto";
  return box;
}

function plotOf({ box, names, top }, colour, data, blind) {
  const small = names.length === 2;
  const series = names.toReversed().map((name) => ({
    fill: colour[name],
    width: name === "succeeded" ? 2 : 0,
    stroke: name === "succeeded" ? colour.cap : colour[name],
    points: { show: false },
    paths: bars,
  }));
  const axis = { stroke: colour.ink, font: `11px ${getComputedStyle(box).fontFamily}`, ticks: { show: false } };
  const options = {
    width: box.clientWidth || 300,
    height: small ? 44 + 22 : Math.max(box.clientHeight, 180),
    padding: [6, 16, small ? 0 : 4, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: true, range: (_, min, max) => [min, max + stepOf(data.t)] }, y: { range: (_, __, max) => [0, top(max)] } },
    axes: [
      { ...axis, show: small, size: 22, gap: 4, grid: { show: false }, space: 70, values: (_, at) => at.map((t) => clock.time(t).slice(0, 5)) },
      { ...axis, size: 30, gap: 4, space: small ? 20 : 40, grid: { stroke: colour.line, width: 1 } },
    ],
    series: [{}, ...series],
    hooks: { drawClear: [(plot) => bands(plot, blind(), colour, small)] },
  };
  return new uPlot(options, stacked(names, data), box);
}

/** Behind the bars: where Umbel was not listening, and so may have counted too little. */
function bands(plot, spans, colour, small) {
  const { ctx, bbox } = plot;
  ctx.save();
  for (const [from, to] of spans) {
    const x = (t) => Math.min(Math.max(plot.valToPos(t, "x", true), bbox.left), bbox.left + bbox.width);
    const [left, right] = [x(from), to === null ? bbox.left + bbox.width : x(to)];
    const width = Math.max(right - left, 2 * devicePixelRatio);
    ctx.fillStyle = colour.blind;
    ctx.globalAlpha = 0.18;
    ctx.fillRect(left, bbox.top, width, bbox.height);
    ctx.globalAlpha = 0.8;
    ctx.fillRect(left, bbox.top, width, 2 * devicePixelRatio);
    if (small) continue;
    ctx.globalAlpha = 1;
    ctx.fillStyle = colour.ink;
    [ctx.textAlign, ctx.textBaseline] = ["left", "alphabetic"];
    ctx.font = `${11 * devicePixelRatio}px ${getComputedStyle(plot.root).fontFamily}`;
    const words = to === null ? `blind since ${clock.time(from)}` : `blind ${clock.time(from)} to ${clock.time(to)}`;
    const fits = [words, "blind"].find((text) => ctx.measureText(text).width + 8 * devicePixelRatio < width);
    if (fits) ctx.fillText(fits, left + 4 * devicePixelRatio, bbox.top + 14 * devicePixelRatio);
  }
  ctx.restore();
}

/** Each bar stands on the layer below it, which is the next series; a stroke runs along its upper edge. */
function bars(plot, index, from, to) {
  const [fill, stroke] = [new Path2D(), new Path2D()];
  const [xs, ys, below] = [plot.data[0], plot.data[index], plot.data[index + 1]];
  const at = (value, scale) => plot.valToPos(value, scale, true);
  const width = (at(xs[0] + stepOf(xs), "x") - at(xs[0], "x")) * 0.82;
  for (let i = from; i <= to; i++) {
    const floor = below?.[i] ?? 0;
    if (ys[i] <= floor) continue;
    const [x, y] = [at(xs[i], "x"), at(ys[i], "y")];
    fill.rect(x, y, width, at(floor, "y") - y);
    stroke.moveTo(x, y);
    stroke.lineTo(x + width, y);
  }
  return { fill, stroke, clip: null, band: null, gaps: null, flags: 3 };
}

const stepOf = (times) => (times.length > 1 ? times[1] - times[0] : 10);

/** For uPlot: times, then the layers from the top of the stack down. */
function stacked(names, data) {
  const sums = data.t.map(() => 0);
  const layers = names.map((name) => data.t.map((_, i) => (sums[i] += data[name]?.[i] ?? 0)));
  return [data.t, ...layers.reverse()];
}

/** An axis steps up at once and down only after a minute, so that bars do not jump. */
function stepDownLate() {
  let top = 1;
  let needed = 0;
  return (max) => {
    const wanted = nice(max ?? 0);
    if (wanted >= top) [top, needed] = [wanted, Date.now()];
    else if (Date.now() - needed > SHRINK) [top, needed] = [wanted, Date.now()];
    return top;
  };
}

function nice(max) {
  const power = 10 ** Math.floor(Math.log10(Math.max(max, 1e-3)));
  return power * [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].find((n) => n * power >= max * 1.02 || n === 10);
}

/** Custom properties as colours a canvas knows; the browser resolves light or dark. */
function colours(root) {
  const probe = root.appendChild(document.createElement("i"));
  const found = {};
  for (const [name, property] of Object.entries(COLOURS)) {
    probe.style.color = `var(${property})`;
    found[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return found;
}

function crosshair(box, current) {
  const hair = Object.assign(document.createElement("div"), { className: "xhair", hidden: true });
  const tip = hair.appendChild(document.createElement("span"));
  box.addEventListener("pointerleave", () => (hair.hidden = true));
  box.addEventListener("pointermove", ({ clientX }) => {
    const { plot, data } = current();
    if (!plot || !data.t.length) return;
    const edge = plot.over.getBoundingClientRect();
    const at = plot.posToVal(clientX - edge.left, "x");
    const i = Math.max(0, data.t.findLastIndex((t) => t <= at));
    hair.hidden = false;
    hair.style.left = `${edge.left - box.getBoundingClientRect().left + plot.valToPos(data.t[i] + stepOf(data.t) * 0.41, "x")}px`;
    hair.classList.toggle("is-left", i > data.t.length * 0.6);
    const value = (name) => (data[name]?.[i] ?? 0).toFixed(name === "succeeded" ? 1 : 2);
    tip.textContent = `${clock.time(data.t[i])}   ${value("succeeded")} ok   ${value("retried")} retried   ${value("failed")} failed   per second${isBlind(data, i) ? "   Umbel was blind" : ""}`;
  });
  return hair;
}

function isBlind({ t, blind = [] }, i) {
  return blind.some(([from, to]) => from < t[i] + stepOf(t) && (to ?? Infinity) > t[i]);
}

function last(data, name) {
  return (data[name]?.at(-1) ?? 0).toFixed(1);
}
