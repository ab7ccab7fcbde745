"""Style and script of the report, written into the page so that it needs nothing else."""

from __future__ import annotations

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f6f4; --card: #ffffff; --ink: #1d1f23; --soft: #62666d; --line: #e2e2de; --accent: #24509c; --lit: #eaf0fb;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14161a; --card: #1c1f25; --ink: #e8e9ec; --soft: #9ba1ab; --line: #31353d; --accent: #8db4ff;
    --lit: #26314a;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0 auto; max-width: 1160px; padding: 40px 24px 64px; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: 32px; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 44px 0 6px; }
h3 { font-size: 16px; margin: 0; }
p { margin: 0 0 12px; max-width: 100ch; }
p, figcaption, .soft { color: var(--soft); }
a { color: var(--accent); text-underline-offset: 2px; }
code { font: 0.92em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { margin: 12px 0 0; white-space: pre-wrap; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin: 12px 0;
}
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px; margin: 24px 0 12px; }
.tiles .card { margin: 0; }
.tiles .value { display: block; font-size: 28px; font-weight: 650; letter-spacing: -0.02em; line-height: 1.25; }
.tiles .value + span { display: block; font-size: 13px; color: var(--soft); }
.tiles h3 { font-size: 13px; font-weight: 500; color: var(--soft); }
dl { display: grid; align-content: start; grid-template-columns: max-content 1fr; gap: 4px 20px; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); gap: 8px 40px; }
figure { margin: 0; }
figcaption { font-size: 13px; margin-top: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th { text-align: right; font-weight: 600; color: var(--soft); font-size: 13px; vertical-align: bottom; }
th, td { padding: 7px 12px; border-bottom: 1px solid var(--line); }
td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
tbody tr:last-child td { border-bottom: 0; }
.text { text-align: left; white-space: normal; }
.wide { min-width: 240px; }
td svg { display: block; }
.fixed { white-space: nowrap; }
.spread { display: block; font-size: 12px; line-height: 1.3; color: var(--soft); }
tr.lit td { background: var(--lit); }
.trial { scroll-margin-top: 16px; }
.trial:target { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent); }
.trial .head { display: flex; flex-wrap: wrap; gap: 2px 18px; align-items: baseline; margin-bottom: 12px; }
.architecture { display: block; max-width: none; }
.legend {
  display: flex; flex-wrap: wrap; gap: 6px 22px; list-style: none; margin: 12px 0; padding: 0; font-size: 13px;
}
.legend svg { display: inline-block; vertical-align: -5px; margin-right: 8px; }
.scatter { display: block; width: 100%; height: auto; max-width: 920px; margin: 0 auto; }
.scatter text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.scatter .axis-title { font-size: 13px; fill: var(--ink); }
.scatter .label { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.axes path { stroke: var(--line); fill: none; }
.front-line { fill: none; stroke: var(--accent); stroke-width: 2; stroke-opacity: 0.55; }
circle.other { fill: var(--card); stroke: var(--soft); stroke-width: 1.4; }
circle.front { fill: var(--accent); stroke: var(--card); stroke-width: 2; }
circle.lit { stroke: var(--ink); stroke-width: 3; }
.whisker { stroke: var(--accent); stroke-width: 1.5; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin: 0 5px 0 12px; }
.key.front { background: var(--accent); margin-left: 0; }
.key.other { border: 1.5px solid var(--soft); }
.bar { display: flex; align-items: center; gap: 8px; font-size: 13px; line-height: 1.5; }
.bar i { display: block; height: 10px; min-width: 1px; border-radius: 2px; }
.bar i.all { opacity: 0.45; height: 6px; }
details summary { cursor: pointer; color: var(--accent); }
#tip {
  position: fixed; z-index: 9; pointer-events: none; white-space: pre-line; padding: 8px 11px; border-radius: 7px;
  background: var(--ink); color: var(--page); font-size: 13px; line-height: 1.45; max-width: 340px;
  font-variant-numeric: tabular-nums;
}
footer { margin-top: 48px; font-size: 13px; color: var(--soft); }
@media print { body { max-width: none; padding: 0; } .card { break-inside: avoid; } }
"""

# Without the script the page loses nothing but speed: titles of SVG elements show as the browser's own tooltips.
SCRIPT = """
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);
for (const title of document.querySelectorAll("svg title")) {
  const owner = title.parentNode, text = title.textContent;
  owner.setAttribute("aria-label", text);
  title.remove();
  owner.addEventListener("pointermove", event => {
    tip.textContent = text;
    tip.hidden = false;
    const right = innerWidth - tip.offsetWidth - 8, below = event.clientY + 18;
    tip.style.left = Math.max(8, Math.min(event.clientX + 14, right)) + "px";
    tip.style.top = (below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below) + "px";
  });
  owner.addEventListener("pointerleave", () => { tip.hidden = true; });
}
for (const one of document.querySelectorAll("[data-trial]")) {
  const same = document.querySelectorAll("[data-trial='" + one.dataset.trial + "']");
  one.addEventListener("pointerenter", () => same.forEach(other => other.classList.add("lit")));
  one.addEventListener("pointerleave", () => same.forEach(other => other.classList.remove("lit")));
}
"""
