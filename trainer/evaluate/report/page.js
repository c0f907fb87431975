"use strict";
(() => {
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const controls = { system: null, type: null, outcome: null, text: null };
  for (const name of Object.keys(controls)) controls[name] = document.getElementById(name);
  const frames = all(".frame").map((element) => ({
    element,
    rows: all(".row", element).map((row) => ({ row, words: row.textContent.toLowerCase() })),
    marks: new Map(all(".marks", element).map((group) => [group.dataset.row, group])),
  }));
  const total = frames.reduce((sum, frame) => sum + frame.rows.length, 0);

  const choose = (frame, row) => {
    for (const other of frame.rows) other.row.classList.toggle("on", other.row === row);
    for (const [number, group] of frame.marks) group.classList.toggle("on", row !== null && number === row.dataset.row);
  };

  const apply = () => {
    const { system, type, outcome, text } = Object.fromEntries(Object.entries(controls).map(([name, c]) => [name, c.value]));
    const [kind, bucket] = type.split("-");
    const words = text.trim().toLowerCase();
    const place = Number(system);
    let shown = 0;
    let shownFrames = 0;
    for (const frame of frames) {
      let first = null;
      for (const { row, words: content } of frame.rows) {
        const right = row.dataset.right[place] === "1";
        const visible =
          (!kind || row.dataset.kind === kind) && (!bucket || row.dataset.bucket === bucket) &&
          (!outcome || right === (outcome === "right")) && (!words || content.includes(words));
        row.hidden = !visible;
        if (visible) { shown += 1; first = first || row; }
      }
      frame.element.hidden = first === null;
      if (first) shownFrames += 1;
      const chosen = frame.rows.find(({ row }) => row.classList.contains("on") && !row.hidden);
      choose(frame, chosen ? chosen.row : first);
      for (const group of all(".given", frame.element)) group.toggleAttribute("hidden", group.dataset.system !== system);
    }
    document.getElementById("shown").textContent = `${shown} of ${total} questions in ${shownFrames} frames`;
  };

  const remember = () => {
    const state = new URLSearchParams();
    for (const [name, control] of Object.entries(controls)) {
      if (control.value && !(name === "system" && control.value === "0")) state.set(name, control.value);
    }
    history.replaceState(null, "", `#${state.toString() || "gallery"}`);
    apply();
  };

  const recall = () => {
    const fragment = location.hash.slice(1);
    if (fragment.includes("=")) {
      const state = new URLSearchParams(fragment);
      for (const [name, control] of Object.entries(controls)) {
        const value = state.get(name) || (name === "system" ? "0" : "");
        if (control.tagName !== "SELECT" || Array.from(control.options).some((option) => option.value === value)) {
          control.value = value;
        }
      }
      document.getElementById("gallery").scrollIntoView();
    }
    apply();
  };

  for (const control of Object.values(controls)) control.addEventListener("input", remember);
  for (const frame of frames) {
    for (const { row } of frame.rows) {
      row.addEventListener("click", () => choose(frame, row));
      row.addEventListener("focus", () => choose(frame, row));
    }
  }
  window.addEventListener("hashchange", recall);
  recall();
})();
