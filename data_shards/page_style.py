"""The style sheet of the page that `inspect --html` writes."""

STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --text: #1c2430; --soft: #66707f; --line: #dfe3e9;
  --answer: #0b6b4f; --chip: #e8edf5; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161c; --card: #1b212a; --text: #e6eaf0; --soft: #96a1b0;
  --line: #2f3743; --answer: #6fd3ae; --chip: #2a3442; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
header, main { max-width: 1240px; margin: 0 auto; padding: 24px 20px; }
h1 { font-size: 22px; margin: 0 0 12px; overflow-wrap: anywhere; }
h2 { font: 600 14px/1.4 ui-monospace, monospace; margin: 0; overflow-wrap: anywhere; }
pre { margin: 0; padding: 14px 16px; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  overflow-x: auto; font: 13px/1.55 ui-monospace, monospace; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin: 0 0 22px; }
.note { color: var(--soft); margin: 2px 0 12px; font-size: 13px; }
.views { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 8px; margin-bottom: 14px; }
.views.ring { grid-template-columns: repeat(3, 1fr); }
figure { margin: 0; background: #000; border-radius: 6px; overflow: hidden; position: relative; }
figure svg { display: block; width: 100%; height: auto; max-height: 420px; }
figcaption { position: absolute; left: 6px; top: 6px; padding: 1px 7px; border-radius: 4px; color: #fff;
  background: rgb(0 0 0 / 55%); font: 11px/1.5 ui-monospace, monospace; }
.damaged { color: #fff; padding: 28px 10px 10px; font-size: 12px; }
rect { fill: none; stroke-width: 6; }
circle { stroke-width: 5; paint-order: stroke; }
svg text { font: 700 58px system-ui, sans-serif; stroke: #fff; stroke-width: 9px; paint-order: stroke; }
details { border-top: 1px solid var(--line); padding: 8px 0; }
summary { cursor: pointer; font-weight: 600; text-transform: capitalize; }
summary b { color: var(--soft); font-weight: 400; }
ol { margin: 8px 0 4px; padding-left: 30px; }
li { margin: 0 0 10px; }
li p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.a { color: var(--answer); }
.tag { float: right; margin-left: 8px; padding: 0 8px; border-radius: 10px; background: var(--chip); font-size: 12px; }
code { font: 600 13px ui-monospace, monospace; }
"""
