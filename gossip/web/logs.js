import { ask } from "./api.js";
import { clock, make, title } from "./format.js";

const MOST = 500;

export function open(main) {
  const list = make("ol", { id: "lines", tabindex: "0", "aria-label": "Log, the latest last" });
  const level = make("select", { id: "level", onchange: () => filter() }, make("option", { value: "" }, "everything"), make("option", { value: "warning" }, "warnings and errors"));
  const pause = make("input", { type: "checkbox", id: "pause" });
  main.append(title("Logs"), make("div", { class: "bar" }, make("label", { for: "level" }, "Show"), level,
    make("label", {}, pause, " stay where I am")), list);
  let begun = false;
  let latest = 0;

  function add(line) {
    const item = make("li", { class: line.level }, make("time", {}, clock(line.time)), make("span", { class: "level" }, line.level), make("span", {}, line.text));
    item.hidden = level.value !== "" && line.level === "info";
    list.append(item);
    latest = Math.max(latest, line.time);
    while (list.children.length > MOST) list.firstChild.remove();
    if (!pause.checked) list.scrollTop = list.scrollHeight;
  }

  function filter() {
    for (const item of list.children) item.hidden = level.value !== "" && item.className === "info";
  }

  return {
    async update() {
      if (begun) return;
      const found = await ask("logs");
      begun = true;
      list.replaceChildren();
      found.lines.forEach(add);
      if (!found.lines.length) list.append(make("li", {}, make("time", {}, ""), make("span", { class: "level" }, ""), make("span", { class: "faint" }, "Nothing was said yet.")));
    },
    heard(told) {
      if (told.type === "log" && begun && told.time >= latest) add(told);
    },
  };
}
