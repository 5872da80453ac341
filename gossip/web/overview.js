import { ask } from "./api.js";
import { bytes, cards, count, duration, figure, make, renew, title } from "./format.js";

export function open(main) {
  const body = make("div");
  main.append(title("Overview"), body);
  return {
    async update() {
      const status = await ask("status");
      const known = await ask("peers");
      renew(body, ...draw(status, known));
    },
  };
}

function draw(status, known) {
  const measured = Object.entries(status.metrics).map(([name, value]) => [name, figure(value)]);
  const missed = known.roster.filter((peer) => peer.state === "missed").length;
  const ratio = status.bytes_sent ? status.bytes_dense / status.bytes_sent : 0;
  return [
    cards([
      ...measured,
      ["samples seen", count(status.samples)],
      ["neighbours", `${known.neighbours.length}`],
      ["peers on the network", `${known.roster.filter((peer) => peer.state === "up").length}`],
      ["exchanges", count(status.exchanges)],
      ["sent", bytes(status.bytes_sent)],
      ["received", bytes(status.bytes_received)],
      ratio ? ["smaller than float32", `${figure(ratio)} ×`] : null,
      ["up for", duration(status.age_seconds)],
    ]),
    make("h2", {}, "What needs attention"),
    make("ul", { class: "plain" }, ...problems(status, known, missed).map((text) => make("li", {}, text))),
    make("h2", {}, "This node"),
    cards([
      ["id", make("span", { class: "mono" }, status.id), "wide"],
      ["address", make("span", { class: "mono" }, status.address), true],
      ["network", make("span", { class: "mono" }, status.network ?? "none: this machine only"), "wide"],
      ["who may come in", status.access.mode, true],
    ]),
  ];
}

function problems(status, known, missed) {
  const found = [];
  if (!known.neighbours.length) found.push("⚠ No neighbours: this node learns alone. gossip run … --join HOST:PORT, or wait to be found.");
  const suspected = known.neighbours.filter((link) => link.state !== "up").length;
  if (suspected) found.push(`⚠ Neighbours that do not answer: ${suspected}.`);
  if (missed) found.push(`⚠ Peers that are missed, nobody is linked with them any more: ${missed}.`);
  if (Object.values(status.metrics).includes(null)) found.push("⚠ A metric of the model is not finite.");
  if (status.access.bans) found.push(`Kept out: ${status.access.bans}; see Security.`);
  if (!status.network) found.push("No network key: nothing is encrypted, and the node stays on this machine.");
  return found.length ? found : ["Nothing."];
}
