// Shows time and value under the pointer; everything is read from the drawing itself.
"use strict";
for (const plot of document.querySelectorAll(".plot[data-zone]")) {
  const svg = plot.querySelector(".body svg");
  const cursor = plot.querySelector(".cursor");
  const tip = plot.querySelector(".tip");
  const height = svg.viewBox.baseVal.height;
  const clock = new Intl.DateTimeFormat("en-GB", {
    timeZone: plot.dataset.zone, day: "numeric", month: "short", hour: "2-digit", minute: "2-digit",
  });
  const { first, last, low, high } = Object.fromEntries(Object.entries(plot.dataset).map(([k, v]) => [k, Number(v)]));
  let points = null;
  const read = (kind) =>
    [...svg.querySelectorAll("polyline." + kind)].flatMap((line) => [...line.points].map((p) => [p.x, p.y]));
  const near = (list, x) => {
    let best = null;
    for (const p of list) if (!best || Math.abs(p[0] - x) < Math.abs(best[0] - x)) best = p;
    return best && Math.abs(best[0] - x) < 15 ? best : null;
  };
  const number = (p) => (p ? Number((low + (1 - p[1] / height) * (high - low)).toPrecision(4)).toString() : "–");
  plot.addEventListener("pointermove", (event) => {
    points = points || { value: read("value"), expected: read("expected") };
    const box = svg.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    if (share < 0 || share > 1) return;
    const value = near(points.value, share * 1000);
    const when = new Date(first + (value ? value[0] / 1000 : share) * (last - first));
    tip.textContent = clock.format(when) + "  " + number(value) + ", expected " + number(near(points.expected, share * 1000));
    const left = box.left - plot.getBoundingClientRect().left + share * box.width;
    cursor.style.left = left + "px";
    cursor.style.display = tip.style.display = "block";
    const half = tip.offsetWidth / 2;
    tip.style.left = Math.min(Math.max(left, half), plot.clientWidth - half) + "px";
  });
  plot.addEventListener("pointerleave", () => { cursor.style.display = tip.style.display = "none"; });
}
