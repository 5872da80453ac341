// Asks the node. The token comes in the fragment of the address, which no server ever sees, and is
// kept for this tab alone.

const KEY = "token";

export class Refused extends Error {}
export class NoToken extends Error {}

export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) keepToken(given);
}

export function keepToken(token) {
  sessionStorage.setItem(KEY, token.trim());
  history.replaceState(null, "", location.pathname + "#overview");
}

export const token = () => sessionStorage.getItem(KEY) ?? "";

export async function ask(path, options = {}) {
  const headers = { Authorization: `Bearer ${token()}`, ...options.headers };
  const answer = await fetch(path.startsWith("/") ? path : `/api/v1/${path}`, { ...options, headers });
  if (answer.status === 401) throw new NoToken();
  const found = await answer.json().catch(() => null);
  if (found === null) throw new Refused(`The node answers ${answer.status} to ${path}.`);
  if (!answer.ok) throw new Refused(found.error ?? `the node answers ${answer.status}`);
  return found;
}

export const send = (path, file) =>
  ask(path, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });

export const tell = (path, method, body) =>
  ask(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

// Calls `heard` with everything that happens; begins again when the connection ends.
export function follow(heard) {
  let wait = 1000;
  const connect = () => {
    if (!token()) return void setTimeout(connect, 1000);
    const socket = new WebSocket(`ws://${location.host}/api/v1/events`, ["gossip-learning", `bearer.${token()}`]);
    socket.onopen = () => { wait = 1000; };
    socket.onmessage = (message) => heard(JSON.parse(message.data));
    socket.onclose = () => { setTimeout(connect, wait); wait = Math.min(2 * wait, 15000); };
  };
  connect();
}
