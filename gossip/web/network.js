// The graph of the whole swarm, as the roster tells it.

import { ask } from "./api.js";
import { bytes, figure, make, title } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const NAMED = 60; // peers; of more, names would cover the graph
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

function draw(tag, attributes = {}) {
  const found = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  return found;
}

export function open(main) {
  const svg = draw("svg", { id: "graph", role: "group", "aria-label": "Peers and their links; the page Peers lists them" });
  const lines = draw("g");
  const dots = draw("g");
  svg.append(lines, dots);
  const colour = make("select", { id: "colour", onchange: () => paint() });
  const legend = make("p", { class: "legend" });
  const about = make("p", { class: "faint", "aria-live": "polite" }, "Choose a peer to read about it.");
  main.append(title("Network"), make("div", { class: "bar" }, make("label", { for: "colour" }, "Colour by"), colour), svg, legend, about);

  const graph = { nodes: new Map(), links: [], rates: new Map(), metric: "" };
  const simulation = d3.forceSimulation([])
    .force("charge", d3.forceManyBody().strength(-320).distanceMax(400))
    .force("link", d3.forceLink([]).id((node) => node.id).distance(90).strength(0.25))
    .force("apart", d3.forceCollide(24))
    .on("tick", place);

  // A swarm as wide and as high as the window has room for.
  function shape() {
    const { width, height } = svg.getBoundingClientRect();
    const slant = Math.sqrt(width / height || 1);
    simulation.force("x", d3.forceX().strength(0.09 / slant)).force("y", d3.forceY().strength(0.09 * slant));
  }

  function place() {
    // Drawn around the middle, in as many units as it takes to hold all of it.
    const nodes = [...graph.nodes.values()];
    const { width, height } = svg.getBoundingClientRect();
    if (!width || !height) return; // nobody sees it
    const reach = (axis) => Math.max(60, ...nodes.map((node) => Math.abs(node[axis] ?? 0))) + 44;
    const scale = Math.max((2 * reach("x")) / width, (2 * reach("y")) / height, 0.6);
    svg.style.setProperty("--scale", scale * Math.min(1, (NAMED / nodes.length) ** 0.25));
    const [across, down] = [width * scale, height * scale];
    svg.setAttribute("viewBox", `${-across / 2} ${-down / 2} ${across} ${down}`);
    for (const link of graph.links) {
      link.line.setAttribute("x1", link.source.x);
      link.line.setAttribute("y1", link.source.y);
      link.line.setAttribute("x2", link.target.x);
      link.line.setAttribute("y2", link.target.y);
    }
    for (const node of nodes) node.group.setAttribute("transform", `translate(${node.x},${node.y})`);
  }

  function group(node) {
    const found = draw("g", { tabindex: "0", role: "button" });
    found.append(draw("circle"), draw("text", { dy: "2.2em" }));
    const tell = () => { about.textContent = describe(node.peer); };
    for (const event of ["click", "focus", "pointerenter"]) found.addEventListener(event, tell);
    dots.append(found);
    return found;
  }

  function renew(known) {
    let changed = false;
    const present = new Set(known.roster.map((peer) => peer.id));
    for (const [id, node] of graph.nodes) {
      if (!present.has(id)) { node.group.remove(); graph.nodes.delete(id); changed = true; }
    }
    const suspected = new Set(known.neighbours.filter((link) => link.state !== "up").map((link) => link.id));
    for (const peer of known.roster) {
      let node = graph.nodes.get(peer.id);
      if (!node) { node = { id: peer.id }; node.peer = peer; node.group = group(node); graph.nodes.set(peer.id, node); changed = true; }
      node.peer = peer;
      node.state = peer.state !== "up" ? "gone" : suspected.has(peer.id) ? "suspected" : "up";
      node.group.setAttribute("class", `${node.state}${peer.id === known.id ? " me" : ""}`);
      node.group.dataset.state = peer.state;
      node.group.setAttribute("aria-label", describe(peer));
      node.group.querySelector("text").textContent = known.roster.length > NAMED ? "" : peer.name || peer.id.slice(0, 6);
    }
    return link(known) || changed;
  }

  function link(known) {
    const wanted = new Map();
    for (const peer of known.roster) {
      if (peer.state !== "up") continue;
      for (const other of peer.neighbours) {
        if (graph.nodes.get(other)?.state === "up") wanted.set([peer.id, other].sort().join(" "), [peer.id, other]);
      }
    }
    const same = wanted.size === graph.links.length && graph.links.every((one) => wanted.has(one.key));
    if (!same) {
      lines.replaceChildren();
      graph.links = [...wanted].map(([key, [source, target]]) => {
        const line = draw("line");
        lines.append(line);
        return { key, source, target, line };
      });
    }
    measure(known);
    return !same;
  }

  // How much goes over our own links; what others exchange, only they know.
  function measure(known) {
    const now = performance.now() / 1000;
    for (const one of known.neighbours) {
      const moved = one.bytes_sent + one.bytes_received;
      const before = graph.rates.get(one.id);
      const rate = before && now > before.at ? Math.max(0, (moved - before.moved) / (now - before.at)) : 0;
      graph.rates.set(one.id, { moved, at: now, rate });
    }
    for (const one of graph.links) {
      const ends = one.key.split(" ");
      const ours = ends.includes(known.id);
      const rate = ours ? graph.rates.get(ends.find((end) => end !== known.id))?.rate ?? 0 : 0;
      one.line.setAttribute("class", ours ? "ours" : "");
      one.line.setAttribute("stroke-width", (1 + Math.log10(1 + rate / 100)).toFixed(2));
    }
  }

  function choose(known) {
    const names = [...new Set(known.roster.flatMap((peer) => Object.keys(peer.metrics)))];
    const options = ["state", ...names];
    if ([...colour.options].map((option) => option.value).join() === options.join()) return;
    const before = colour.value || (names.includes("accuracy") ? "accuracy" : "state");
    colour.replaceChildren(...options.map((name) => make("option", { value: name }, name)));
    colour.value = options.includes(before) ? before : "state";
    // Before anybody has measured, there is nothing but the state to choose.
    if (before === "state" && !colour.dataset.chosen && names.includes("accuracy")) colour.value = "accuracy";
    if (names.length) colour.dataset.chosen = "yes";
  }

  function paint() {
    const nodes = [...graph.nodes.values()];
    const metric = colour.value;
    const values = nodes.map((node) => node.peer.metrics[metric]).filter((value) => value != null);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    for (const node of nodes) {
      const value = node.peer.metrics[metric];
      const circle = node.group.querySelector("circle");
      const share = most > least ? (value - least) / (most - least) : 1;
      const plain = metric === "state" || value == null || node.state !== "up";
      circle.style.fill = plain ? "" : `color-mix(in oklab, var(--high) ${(100 * share).toFixed(0)}%, var(--low))`;
    }
    legend.replaceChildren(...(metric === "state" || !values.length
      ? [key("high", "up")]
      : least === most ? [key("high", `${metric} ${figure(most)}`)]
      : [key("low", `${metric} ${figure(least)}`), key("high", `${metric} ${figure(most)}`)]),
      key("suspected", "does not answer us"), key("gone", "left or missed"),
      make("span", {}, "Ringed: this node. Wide: links of this node, by traffic."));
  }

  const key = (kind, text) => make("span", {}, make("span", { class: `dot ${kind}` }), text);

  function describe(peer) {
    const metrics = Object.entries(peer.metrics).map(([name, value]) => `${name} ${figure(value)}`).join(", ");
    const rate = graph.rates.get(peer.id);
    const traffic = rate && peer.state === "up" ? `; ${bytes(rate.rate)}/s between it and this node` : "";
    return `${peer.name || "unnamed"} (${peer.id.slice(0, 8)}), ${peer.state}, ${peer.links} links, ${peer.samples.toLocaleString("en")} samples${metrics ? `, ${metrics}` : ""}${traffic}`;
  }

  shape();
  return {
    async update() {
      const known = await ask("peers");
      if (!svg.isConnected) return; // another page was opened meanwhile
      const changed = renew(known);
      choose(known);
      paint();
      if (!changed) return;
      simulation.nodes([...graph.nodes.values()]);
      simulation.force("link").links(graph.links);
      if (STILL.matches) { simulation.alpha(1).stop().tick(300); place(); } else simulation.alpha(0.6).restart();
    },
    close() { simulation.stop(); },
  };
}
