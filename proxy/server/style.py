"""How the debug pages look: one style sheet, part of every page, so that nothing else has to be fetched. Pure."""

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f6f8fa; --text: #1c2128; --faint: #57606a; --line: #d5dbe1;
  --accent: #0a58a8; --good: #1a7f37; --warn: #8a5a00; --bad: #c02430;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #10151b; --raised: #182028; --text: #e2e7ec; --faint: #9aa6b2; --line: #2c3640;
    --accent: #7ab8ff; --good: #5fb870; --warn: #dda63a; --bad: #ff8078;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 0 1.5rem 4rem; max-width: 78rem; background: var(--ground); color: var(--text);
  font: 0.9375rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 2px; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: 0.5rem; padding: 0.25rem 0.75rem; background: var(--ground); }
header {
  display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.25rem 1.5rem; padding: 1rem 0 0.75rem;
  border-bottom: 1px solid var(--line);
}
header p { margin: 0; }
.brand { font-weight: 650; color: var(--text); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 0; padding: 0; list-style: none; }
nav [aria-current] { color: var(--text); font-weight: 600; }
h1 { margin: 1.75rem 0 0.25rem; font-size: 1.5rem; line-height: 1.25; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 0.5rem; font-size: 1.125rem; font-weight: 650; }
h3 { margin: 1.5rem 0 0.25rem; font-size: 0.9375rem; font-weight: 650; }
p { margin: 0.25rem 0 0.75rem; max-width: 50rem; }
.faint { color: var(--faint); }
.notes { margin: 0.75rem 0; padding: 0.625rem 1rem; list-style: none; background: var(--raised); border-left: 3px solid var(--warn); }
.notes.bad { border-color: var(--bad); }
.notes li { margin: 0.125rem 0; overflow-wrap: anywhere; }
.states { margin: 1rem 0; }
.states li a { color: inherit; }
.states .number { font-weight: 650; }
.number, td.number, th.number { font-variant-numeric: tabular-nums; }
form { display: flex; flex-wrap: wrap; gap: 0.75rem; align-items: end; margin: 1rem 0; }
label { display: grid; gap: 0.125rem; font-size: 0.8125rem; color: var(--faint); }
input, select, button {
  font: inherit; font-size: 0.9375rem; color: var(--text); background: var(--ground);
  border: 1px solid var(--line); border-radius: 4px; padding: 0.3125rem 0.625rem; height: 2.25rem;
}
input { width: 22rem; max-width: 100%; }
button { background: var(--raised); font-weight: 600; cursor: pointer; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; color: var(--faint); padding: 0.25rem 0; font-size: 0.875rem; }
th, td { padding: 0.375rem 1.25rem 0.375rem 0; text-align: left; vertical-align: baseline; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
thead th { font-size: 0.8125rem; font-weight: 600; color: var(--faint); white-space: nowrap; vertical-align: bottom; }
tbody th { font-weight: 500; }
[aria-sort="ascending"] a::after { content: " ↑"; } [aria-sort="descending"] a::after { content: " ↓"; }
th.number, td.number { text-align: right; white-space: nowrap; }
td.mono, tbody th.mono, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.8125rem; }
td.mono, tbody th.mono { white-space: nowrap; font-weight: 400; }
.name { overflow-wrap: anywhere; min-width: 12rem; }
.state { white-space: nowrap; }
.state::before { content: ""; display: inline-block; width: 0.5rem; height: 0.5rem; margin-right: 0.5rem; border-radius: 50%; background: var(--faint); }
.state.good::before { background: var(--good); }
.state.warn::before { background: var(--warn); }
.state.bad::before { background: var(--bad); border-radius: 0; }
.good-text { color: var(--good); } .warn-text { color: var(--warn); } .bad-text { color: var(--bad); }
small { font-size: 0.8125rem; color: var(--faint); display: block; max-width: 26rem; }
pre { margin: 0.25rem 0 0.75rem; padding: 0.625rem 0.875rem; overflow-x: auto; background: var(--raised); border-radius: 4px; line-height: 1.6; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.125rem 1.5rem; margin: 0.75rem 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.pages { display: flex; gap: 1.5rem; margin: 1rem 0; }
@media (max-width: 40rem) {
  body { padding: 0 1rem 3rem; }
  th, td { padding-right: 0.875rem; }
  input { width: 100%; } form label { flex: 1 1 10rem; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 0.375rem; }
}
"""

_DIGEST: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing is loaded, nothing runs, and only this very style sheet counts."""
