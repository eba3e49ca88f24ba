"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const [audio, play, clock, time, playhead, span, grid, card] =
    ["audio", "play", "clock", "time", "playhead", "span", "grid", "card"].map($);
  // columns[t][0] is the header of token t, and columns[t][1 + layer] is its cell. The table may be cut into several.
  const columns = data.tokens.map((_, t) => [...grid.querySelectorAll(`[data-t="${t}"]`)]);
  let stopAt = Infinity;
  let current = null;

  // Sound and time. A variable s is in seconds, and t is the number of a token.
  const timed = (t) => data.times[t] && data.times[t][0] !== null;
  const left = (s) => `${(100 * s) / data.seconds}%`;
  const tokenAt = (s) => data.times.findIndex(([a, b]) => a !== null && a <= s && s < b);

  const words = [...document.querySelectorAll(".strip span")];
  const holds = (word, t) => Number(word.dataset.from) <= t && t <= Number(word.dataset.to);

  // Gives the class `name` to token t and its word, and removes it from all others.
  function mark(t, name) {
    words.forEach((word) => word.classList.toggle(name, holds(word, t)));
    grid.querySelectorAll(`.${name}`).forEach((e) => e.classList.remove(name));
    (columns[t] || []).forEach((e) => e.classList.add(name));
  }

  function showTime() {
    const s = audio.currentTime;
    playhead.style.left = left(s);
    clock.textContent = `${s.toFixed(2)} s`;
    time.setAttribute("aria-valuenow", s.toFixed(2));
    mark(audio.paused ? -1 : tokenAt(s), "now");
  }

  // Scrolls to the token that is being played.
  function follow() {
    const header = (columns[tokenAt(audio.currentTime)] || [])[0];
    if (header) header.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // Runs before each repaint while the sound plays.
  function frame() {
    if (audio.currentTime >= stopAt) { audio.pause(); audio.currentTime = stopAt; }
    showTime();
    if (audio.paused) return;
    if (stopAt === Infinity) follow();
    requestAnimationFrame(frame);
  }

  function start(from, until = Infinity) {
    stopAt = until;
    audio.currentTime = from;
    audio.play().catch(() => {});
  }

  const seek = (s) => { stopAt = Infinity; audio.currentTime = Math.min(Math.max(s, 0), data.seconds); showTime(); };
  // A token plays for at least 0.12 s, because shorter sounds cannot be recognised.
  const playToken = (t) => { if (timed(t)) start(data.times[t][0], Math.max(data.times[t][1], data.times[t][0] + 0.12)); };
  const toggle = () => { if (!audio.paused) audio.pause(); else start(audio.currentTime >= data.seconds - 0.05 ? 0 : audio.currentTime); };

  audio.addEventListener("play", () => { play.classList.add("on"); play.setAttribute("aria-label", "Pause"); frame(); });
  audio.addEventListener("pause", () => { play.classList.remove("on"); play.setAttribute("aria-label", "Play recording"); showTime(); });
  audio.addEventListener("seeked", showTime);
  play.addEventListener("click", toggle);
  words.forEach((word) => word.addEventListener("click", (e) => { e.stopPropagation(); playToken(Number(word.dataset.from)); }));
  time.addEventListener("click", (e) => seek(((e.clientX - time.getBoundingClientRect().left) / time.clientWidth) * data.seconds));
  time.addEventListener("keydown", (e) => {
    const step = { ArrowRight: 0.1, ArrowLeft: -0.1, PageDown: 1, PageUp: -1, Home: -Infinity, End: Infinity }[e.key];
    if (step !== undefined) seek(audio.currentTime + step);
    else if (e.key === " " || e.key === "Enter") toggle();
    else return;
    e.preventDefault();
  });

  // The card, which shows the likeliest tokens of a cell
  const shown = (text) => text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";
  const percent = (p) => (p >= 0.01 ? `${p.toFixed(p < 1 ? 2 : 1)}\u00a0%` : "<0.01\u00a0%");
  const element = (tag, text, className) => Object.assign(document.createElement(tag), { textContent: text, className: className || "" });

  function candidate(text, p, isFinal) {
    const item = element("li", "", isFinal ? "final" : "");
    const bar = element("i", "");
    bar.style.width = `${p}%`;
    item.append(bar, element("span", shown(text)), element("span", percent(p)));
    return item;
  }

  function fill(layer, t) {
    const list = element("ol", "");
    data.top[layer][t].forEach((text, k) => list.append(candidate(text, data.percent[layer][t][k], data.rank[layer][t] === k)));
    const text = `In the text ${shown(data.tokens[t])}: rank ${(data.rank[layer][t] + 1).toLocaleString("en")} · ${percent(data.token_percent[layer][t])}`;
    const when = timed(t) ? ` · ${data.times[t][0].toFixed(2)}–${data.times[t][1].toFixed(2)} s` : "";
    card.replaceChildren(element("h3", `Layer ${layer} · token ${t + 1}${when}`), list, element("p", text));
  }

  function place(cell) {
    const box = cell.getBoundingClientRect();
    card.hidden = false;
    const below = box.bottom + 8 + card.offsetHeight < innerHeight;
    card.style.top = `${below ? box.bottom + 8 : Math.max(box.top - card.offsetHeight - 8, 4)}px`;
    card.style.left = `${Math.min(Math.max(box.left - 60, 8), innerWidth - card.offsetWidth - 8)}px`;
  }

  function describe(cell) {
    const t = Number(cell.dataset.t);
    const layer = cell.parentNode.rowIndex - 1;
    current = cell;
    mark(t, "on");
    span.classList.toggle("on", timed(t));
    if (timed(t)) { span.style.left = left(data.times[t][0]); span.style.width = left(data.times[t][1] - data.times[t][0]); }
    if (layer < 0) { card.hidden = true; return; }
    fill(layer, t);
    cell.setAttribute("aria-describedby", "card");
    place(cell);
  }

  function leave() { card.hidden = true; span.classList.remove("on"); mark(-1, "on"); }

  const cellOf = (e) => e.target.closest && e.target.closest("[data-t]");
  grid.addEventListener("mouseover", (e) => { const cell = cellOf(e); if (cell) describe(cell); });
  grid.addEventListener("mouseleave", leave);
  grid.addEventListener("focusin", (e) => { const cell = cellOf(e); if (cell) describe(cell); });
  grid.addEventListener("focusout", leave);
  grid.addEventListener("click", (e) => { const cell = cellOf(e); if (cell) { rove(cell); playToken(Number(cell.dataset.t)); } });

  // The tab key reaches only one cell of the table. Arrow keys change which one.
  function rove(cell) {
    grid.querySelectorAll('[tabindex="0"]').forEach((e) => { e.tabIndex = -1; });
    cell.tabIndex = 0;
    cell.focus();
    cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  grid.addEventListener("keydown", (e) => {
    const cell = cellOf(e);
    if (!cell) return;
    const t = Number(cell.dataset.t);
    const row = columns[t].indexOf(cell);
    const target = { ArrowRight: [t + 1, row], ArrowLeft: [t - 1, row], ArrowDown: [t, row + 1], ArrowUp: [t, row - 1],
      Home: [0, row], End: [columns.length - 1, row] }[e.key];
    if (target) { const next = (columns[target[0]] || [])[target[1]]; if (next) rove(next); }
    else if (e.key === "Enter" || e.key === " ") playToken(t);
    else if (e.key === "Escape") leave();
    else return;
    e.preventDefault();
  });

  addEventListener("resize", leave);
  addEventListener("scroll", () => { if (!card.hidden) place(current); }, { passive: true, capture: true });
  showTime();
  document.documentElement.dataset.ready = "yes";
})();
