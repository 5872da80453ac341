import { Refused, ask, tell } from "./api.js";
import { duration, make, renew, table, title } from "./format.js";

export function open(main) {
  const body = make("div");
  const who = make("input", { id: "whom", placeholder: "peer id or invitation", required: true, size: 30 });
  const time = make("select", { id: "time" }, make("option", { value: "3600" }, "for an hour"),
    make("option", { value: "86400" }, "for a day"), make("option", { value: "" }, "for good"));
  const wrong = make("p", { class: "warn", role: "alert" });
  const act = async (work) => {
    try { await work(); wrong.textContent = ""; await update(); } catch (error) { if (!(error instanceof Refused)) throw error; wrong.textContent = error.message; }
  };
  const ban = (event) => {
    event.preventDefault();
    act(() => tell("bans", "POST", { who: who.value.trim(), seconds: time.value ? Number(time.value) : null }));
  };
  const verdict = make("span", { role: "status" });
  const verify = async () => {
    verdict.textContent = "reading all of it …";
    const found = await ask("audit/verification").catch((error) => ({ whole: false, reason: error.message }));
    verdict.textContent = found.whole
      ? `All ${found.lines.toLocaleString("en")} lines are as they were written, all but the last ${found.unsigned} signed.` : `Not whole: ${found.reason}`;
    verdict.className = found.whole ? "" : "warn";
  };
  const log = make("div");
  main.append(title("Security"), body,
    make("form", { class: "bar", onsubmit: ban }, make("label", { for: "whom" }, "Keep out"), who, make("label", { for: "time", class: "faint" }, "how long"), time, make("button", {}, "Ban")), wrong,
    make("h2", {}, "Audit log"), make("div", { class: "bar" }, make("button", { onclick: verify }, "Verify"), verdict), log);

  async function update() {
    const [status, scores, trust, bans, audit] = await Promise.all(["status", "scores", "trust", "bans", "audit"].map((path) => ask(path)));
    renew(body,
      make("p", {}, `Who may come in: ${status.access.mode}. ${status.access.handshakes} handshakes succeeded, ${status.access.handshakes_failed} failed; ${status.access.dropped} packets were too many or from outcasts, ${status.access.unopened} no session opens.`),
      make("h2", {}, "Scores"),
      scores.scores.length
        ? table([["peer", "wrap"], ["faults within the hour", "number"], ["standing"]], scores.scores.map((one) => [make("code", {}, one.id), `${one.faults}`, one.standing]))
        : make("p", { class: "faint" }, "Nobody has erred."),
      ...doubts(trust.trust),
      make("h2", {}, "Kept out"),
      bans.bans.length
        ? table([["who", "wrap"], ["how long"], ["why", "wrap"], [""]], bans.bans.map((one) => [make("code", {}, one.who),
          one.seconds == null ? "for good" : duration(one.seconds), one.reason,
          make("button", { onclick: () => act(() => ask(`bans/${encodeURIComponent(one.who)}`, { method: "DELETE" })) }, "Let in again")]))
        : make("p", { class: "faint" }, "Nobody."));
    renew(log, audit.kept
      ? table([["when"], ["what"], ["details", "wrap"]], audit.lines.reverse().map(({ n, t, prev, type, signature, ...rest }) => [
        new Date(1000 * t).toLocaleString("sv"), type, make("span", { class: "mono" }, details(rest))]), "The latest first")
      : make("p", { class: "faint" }, "None is kept: the node has no --state-dir."));
  }

  return { update };
}

// Of whom less than all is taken: their models do badly on this node's samples.
function doubts(trust) {
  const rows = Object.entries(trust).filter(([, share]) => share < 0.995).map(([peer, share]) => [make("code", {}, peer), `${(100 * share).toFixed(0)} %`]);
  return rows.length ? [make("h2", {}, "Believed in part"), table([["neighbour", "wrap"], ["of what it says", "number"]], rows)] : [];
}

function details(rest) {
  const text = Object.entries(rest).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
  return text.length > 160 ? `${text.slice(0, 160)} …` : text;
}
