import { ask } from "./api.js";
import { bytes, count, duration, figure, make, renew, table, title } from "./format.js";

export function open(main) {
  const body = make("div");
  main.append(title("Peers"), body);
  return {
    async update() {
      const known = await ask("peers");
      const names = Object.fromEntries(known.roster.map((peer) => [peer.id, peer.name]));
      renew(body, neighbours(known.neighbours, names), make("h2", {}, "On the network"), roster(known));
    },
  };
}

const id = (text) => make("code", { title: text }, text.slice(0, 8));

function neighbours(links, names) {
  if (!links.length) return make("p", { class: "faint" }, "No neighbours.");
  return table(
    [["name"], ["id"], ["state"], ["by"], ["address"], ["round trip", "number"], ["loss", "number"], ["sent", "number"], ["received", "number"]],
    links.map((link) => [names[link.id], id(link.id), state(link.state), link.path, link.address,
      `${(1000 * link.rtt).toFixed(1)} ms`, `${(100 * link.loss).toFixed(0)} %`, bytes(link.bytes_sent), bytes(link.bytes_received)]),
    "Neighbours, the oldest link first");
}

function roster(known) {
  const metrics = [...new Set(known.roster.flatMap((peer) => Object.keys(peer.metrics)))];
  return table(
    [["name"], ["id"], ["state"], ["samples", "number"], ...metrics.map((name) => [name, "number"]), ["links", "number"], ["address"], ["heard of", "number"]],
    known.roster.map((peer) => [peer.name, id(peer.id), state(peer.state), count(peer.samples),
      ...metrics.map((name) => figure(peer.metrics[name])), `${peer.links}`, peer.address,
      peer.id === known.id ? "this node" : `${duration(peer.age_seconds)} ago`]));
}

const state = (text) => make("span", { class: text === "up" ? null : text === "suspected" ? "warn" : "faint" }, text);
