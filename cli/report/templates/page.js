"use strict";
(() => {
  const points = JSON.parse(document.getElementById("points").textContent);
  const field = document.getElementById("field");
  if (!field || !points.x.length) return;
  const [ring, tip, picture, name, label, said] = ["ring", "tip", "tip-picture", "tip-id", "tip-label", "said"]
    .map((id) => document.getElementById(id));
  const WIDTH = 1000, HEIGHT = 640, NEAR = 40;
  const order = points.x.map((_, i) => i).sort((a, b) => points.x[a] - points.x[b] || points.y[a] - points.y[b]);
  const rows = Math.ceil(points.tile.filter((tile) => tile >= 0).length / points.columns);
  let shown = -1;

  const part = (place, all) => (all > 1 ? (100 * place) / (all - 1) : 0) + "%";

  function show(i) {
    shown = i;
    const left = (points.x[i] / WIDTH) * field.clientWidth, top = (points.y[i] / HEIGHT) * field.clientHeight;
    const tile = points.tile[i];
    ring.hidden = tip.hidden = false;
    ring.style.left = left + "px";
    ring.style.top = top + "px";
    picture.hidden = tile < 0;
    picture.style.backgroundPosition =
      part(tile % points.columns, points.columns) + " " + part(Math.floor(tile / points.columns), rows);
    name.textContent = points.id[i];
    label.textContent = points.label[i] || "";
    const width = tip.offsetWidth, height = tip.offsetHeight;
    const beside = left + 14 + width > field.clientWidth ? left - 14 - width : left + 14;
    tip.style.left = Math.max(2, Math.min(beside, field.clientWidth - width - 2)) + "px";
    tip.style.top = Math.max(2, Math.min(top - height / 2, field.clientHeight - height - 2)) + "px";
  }

  function hide() {
    shown = -1;
    ring.hidden = tip.hidden = true;
  }

  function nearest(event) {
    const box = field.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = NEAR * NEAR;
    for (let i = 0; i < points.x.length; i++) {
      const dx = (points.x[i] / WIDTH) * box.width - x, dy = (points.y[i] / HEIGHT) * box.height - y;
      if (dx * dx + dy * dy < least) { least = dx * dx + dy * dy; best = i; }
    }
    return best;
  }

  function at(event) {
    const i = nearest(event);
    if (i < 0) hide(); else if (i !== shown) show(i);
  }

  field.addEventListener("pointermove", (event) => { if (event.pointerType !== "touch") at(event); });
  field.addEventListener("click", at);
  field.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hide(); });
  field.addEventListener("blur", hide);
  field.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    const place = shown < 0 ? (step > 0 ? 0 : order.length - 1) : order.indexOf(shown) + step;
    show(order[(place + order.length) % order.length]);
    said.textContent = points.id[shown] + (points.label[shown] ? ", " + points.label[shown] : "");
  });
})();
