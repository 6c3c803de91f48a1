"""Tables and numbers as CSV, Markdown and LaTeX."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_samseg.io.tables import write_table
from lightning_samseg.io.text import escape
from lightning_samseg.reports.groups import Block
from lightning_samseg.reports.results import FilledCell, Result
from lightning_samseg.reports.runs import FRACTIONS, Problem
from lightning_samseg.reports.tables import Table

_RESULT_COLUMNS = (
    *("table", "set", "method", "metric", "unit", "convention", "mean", "sd_cases", "sd_seeds", "cases", "runs"),
    *("seeds", "dropped", "baseline", "pairs", "difference", "ci_low", "ci_high", "p", "p_holm"),
)
_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
    "\N{GREEK SMALL LETTER ALPHA}": r"$\alpha$",
}


def write_results(path: Path, blocks: Iterable[tuple[Block, Sequence[Result]]]) -> None:
    """One line per table, set, method and metric, full precision; DSC and JC in percent, an empty cell for NaN.

    Args:
        path: The CSV file.
        blocks: Tables with their results, of all cases and of sets.
    """
    rows = []
    for block, results in blocks:
        for r in results:
            c = r.comparison
            unit = "%" if r.metric in FRACTIONS else block.facts["unit"]
            compared = ("",) * 7 if c is None else (c.baseline, c.pairs, c.difference, c.low, c.high, c.p, c.p_holm)
            place = (block.title, r.set_name or "all", r.variant.name, r.metric, unit, block.facts["convention"])
            seeds = " ".join(str(seed) for seed in r.variant.seeds)
            numbers = (r.mean, r.sd_cases, r.sd_seeds, r.cases, len(r.variant.runs), seeds, r.dropped)
            rows.append((*place, *numbers, *compared))
    write_table(path, _RESULT_COLUMNS, rows)


def write_paper_cells(path: Path, cells: Iterable[FilledCell]) -> None:
    """One line per filled cell and metric: ours, the paper's value, the difference."""
    rows = [
        (*e.cell, e.metric, e.variant.name, len(e.variant.runs), e.mean, e.sd_seeds, e.paper, e.difference)
        for e in cells
    ]
    header = ("paper", "table", "column", "row", "metric", "method", "runs", "ours", "sd_seeds", "paper", "difference")
    write_table(path, (*header[:9], "paper_value", header[10]), rows)


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """One line per folder that is not in the tables."""
    write_table(path, ("kind", "folder", "reason"), [(p.kind, escape(str(p.folder)), p.reason) for p in problems])


def markdown(table: Table) -> str:
    """A heading, the table with right-aligned numbers, the caption below it."""
    above = [name for name, span in table.groups for _ in range(span)]
    above = [""] * (len(table.header) - len(above)) + above
    header = [f"{group} {head}".strip() for group, head in zip(above, table.header, strict=True)]
    cells = [[_flat(cell).replace("|", "\\|") for cell in row] for row in (header, *table.rows)]
    rule = ["---" if i < table.text_columns else "---:" for i in range(len(table.header))]
    lines = [f"| {' | '.join(row)} |" for row in (cells[0], rule, *cells[1:])]
    return f"### {table.title}\n\n" + "\n".join(lines) + f"\n\n{table.caption}\n"


def latex(table: Table, label: str) -> str:
    """A ``table`` environment with booktabs' rules; everything is escaped."""
    columns = "l" * table.text_columns + "r" * (len(table.header) - table.text_columns)
    rows = [" & ".join(latex_escape(_flat(cell)) for cell in row) + r" \\" for row in (table.header, *table.rows)]
    body = "\n".join(["\\toprule", *_latex_groups(table), rows[0], "\\midrule", *rows[1:], "\\bottomrule"])
    return (
        "\\begin{table}\n\\centering\\small\n"
        f"\\caption{{{latex_escape(f'{table.title}. {table.caption}')}}}\n\\label{{{label}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _latex_groups(table: Table) -> list[str]:
    if not table.groups:
        return []
    heads, rules, column = [""] * table.text_columns, [], table.text_columns + 1
    for name, span in table.groups:
        heads.append(f"\\multicolumn{{{span}}}{{c}}{{{latex_escape(name)}}}")
        rules.append(f"\\cmidrule(lr){{{column}-{column + span - 1}}}")
        column += span
    return [" & ".join(heads) + r" \\", " ".join(rules)]


def latex_escape(text: str) -> str:
    """Text in which no character means anything to LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def _flat(cell: str) -> str:
    return cell.replace("\n", " ")
