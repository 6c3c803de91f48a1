"""The report as one HTML page that needs nothing beside it: styles, script and pictures are inside."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from lightning_samseg.io.text import write_text
from lightning_samseg.reports.tables import Table


@dataclass(frozen=True)
class Picture:
    """A figure of the report."""

    file: Path
    """PNG."""
    caption: str


@dataclass
class Section:
    """A part of the page: a heading, then text, tables and pictures in this order."""

    title: str
    text: list[str] = field(default_factory=list)
    """Paragraphs."""
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    """Shell commands, one a line."""


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page.

    Args:
        path: HTML file.
        title: Of the page.
        lead: One paragraph under it.
        sections: In their order; those without content are left out.
    """
    shown = [s for s in sections if s.text or s.tables or s.pictures or s.commands]
    links = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(shown))
    counter = iter(range(1, 1000)), iter(range(1, 1000))
    body = "\n".join(_section(i, section, *counter) for i, section in enumerate(shown))
    write_text(
        path,
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p><nav>{links}</nav></header>
<main>
{body}
</main>
<script>{_SCRIPT}</script></body></html>
""",
    )


def table_html(table: Table, number: int) -> str:
    """A table with its caption above; what stands in brackets after a number is set small below it."""
    text = table.text_columns
    head = "".join(
        f'<th scope="col"{"" if i < text else " class=n"}>{_head(c)}</th>' for i, c in enumerate(table.header)
    )
    groups = "".join(
        f'<th scope="colgroup" colspan="{span}" class=g>{escape(name)}</th>' for name, span in table.groups
    )
    groups = f'<tr><td colspan="{text}"></td>{groups}</tr>' if groups else ""
    rows = "".join(
        "<tr>"
        + "".join(f"<td{'' if i < text else ' class=n'}>{_lines(cell)}</td>" for i, cell in enumerate(row))
        + "</tr>\n"
        for row in table.rows
    )
    return (
        f"<figure class=table><figcaption><b>Table {number}.</b> <b>{escape(table.title)}.</b> {escape(table.caption)}"
        f"</figcaption><div class=scroll><table><thead>{groups}<tr>{head}</tr></thead>"
        f"<tbody>\n{rows}</tbody></table></div></figure>"
    )


def _section(index: int, section: Section, tables: Iterable[int], pictures: Iterable[int]) -> str:
    parts = [f'<section id="s{index}"><h2>{escape(section.title)}</h2>']
    parts += [f"<p>{escape(text)}</p>" for text in section.text]
    # zip would take a number more than there are tables if the numbers came first.
    parts += [table_html(table, number) for table, number in zip(section.tables, tables, strict=False)]
    for picture, number in zip(section.pictures, pictures, strict=False):
        data = base64.b64encode(picture.file.read_bytes()).decode()
        parts.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{escape(picture.caption, quote=True)}">'
            f"<figcaption><b>Figure {number}.</b> {escape(picture.caption)}</figcaption></figure>"
        )
    if section.commands:
        parts.append(f"<pre>{escape(chr(10).join(section.commands))}</pre>")
    return "\n".join([*parts, "</section>"])


def _lines(cell: str) -> str:
    main, _, detail = cell.partition("\n")
    return escape(main) + (f"<small>{escape(detail)}</small>" if detail else "")


def _head(cell: str) -> str:
    return escape(cell).replace(" ", "&nbsp;") if len(cell) < 12 else escape(cell)


_STYLE = """
:root{--ink:#1b1f24;--soft:#5b6570;--line:#d5dae0;--paper:#fff;--tint:#f5f7f9;--link:#0b5cad}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7eb;--soft:#9aa5b1;--line:#3a424c;--paper:#16191d;--tint:#1e2328;
--link:#7db8f5}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 Charter,"Bitstream Charter","Source Serif Pro",Georgia,serif}
header,main{max-width:70rem;margin:0 auto;padding:0 1.5rem}
header{padding-top:2.5rem}
h1{font-size:2rem;line-height:1.2;margin:0 0 .5rem;font-weight:600}
h2{font-size:1.35rem;margin:2.8rem 0 .6rem;font-weight:600;
border-bottom:1px solid var(--line);padding-bottom:.3rem}
p{max-width:48rem;margin:.5rem 0}
.lead{color:var(--soft);font-size:1.05rem}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:1rem 0 0;font:14px/1.6 system-ui,sans-serif}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
figure{margin:1.4rem 0}
figcaption{font-size:.9rem;color:var(--soft);max-width:52rem;margin:.4rem 0}
figcaption b{color:var(--ink);font-weight:600}
img{max-width:100%;width:46rem;height:auto;background:#fff;padding:.6rem;border-radius:4px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font:14px/1.35 system-ui,sans-serif;
border-top:1.5px solid var(--ink);border-bottom:1.5px solid var(--ink)}
th,td{padding:.35rem .8rem .35rem 0;text-align:left;vertical-align:top}
th:not(:last-child),td:not(:last-child){padding-right:1.1rem}
.g{text-align:center}
thead th{border-bottom:1px solid var(--ink);font-weight:600;vertical-align:bottom;cursor:pointer}
th[aria-sort=ascending]::after{content:" ↑"}th[aria-sort=descending]::after{content:" ↓"}
tbody tr+tr td{border-top:1px solid var(--line)}
tbody tr:hover{background:var(--tint)}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td:not(.n){overflow-wrap:break-word;min-width:5rem}
thead .n{white-space:normal}
small{display:block;color:var(--soft);font-size:.82em;font-weight:400}
pre{max-height:24rem;background:var(--tint);
border:1px solid var(--line);border-radius:4px;padding:.8rem;overflow-x:auto;
font:13px/1.5 ui-monospace,Menlo,Consolas,monospace}
@media print{nav{display:none}body{font-size:11pt}figure{break-inside:avoid}thead th{cursor:auto}}
"""

_SCRIPT = """
document.querySelectorAll('th:not(.g)').forEach(th=>th.addEventListener('click',()=>{
 const body=th.closest('table').tBodies[0],i=th.cellIndex,down=th.getAttribute('aria-sort')==='ascending';
 const key=row=>{const cell=row.cells[i].cloneNode(true);cell.querySelectorAll('small').forEach(s=>s.remove());
  const text=cell.textContent.trim().replace(/\\u2212/g,'-'),value=parseFloat(text.replace(/^[<+\\[ ]+/,''));
  return isNaN(value)||!row.cells[i].classList.contains('n')?text:value};
 const num=x=>typeof x==='number';
 const order=(a,b)=>num(a)&&num(b)?a-b:num(a)?-1:num(b)?1:a.localeCompare(b);
 [...body.rows].sort((a,b)=>order(key(a),key(b))*(down?-1:1)).forEach(row=>body.append(row));
 th.parentNode.querySelectorAll('th').forEach(other=>other.removeAttribute('aria-sort'));
 th.setAttribute('aria-sort',down?'descending':'ascending')}));
"""
