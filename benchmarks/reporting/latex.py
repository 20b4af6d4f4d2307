"""A leaderboard's tables as LaTeX (booktabs), for a paper: `\\input` one, and `\\usepackage{booktabs}`."""

from __future__ import annotations

import re

from benchmarks.ranking import figures
from benchmarks.ranking.board import Table
from benchmarks.reporting.text import cells, headings, sentences

SPECIAL = re.compile(r"[&%$#_{}~^\\]")
WRITTEN = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
SYMBOLS = {
    figures.MINUS: "$-$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    figures.NONE: "--",
    "·": r"$\cdot$",
}


LEFT_OUT = ("rank (", "tokens/s", "peak memory")  # a page is narrower than a screen; the CSV beside it has them


def latex(table: Table) -> str:
    """One `table` environment, with the sentences that belong under it as its caption."""
    names = headings(table)
    kept = [place for place, name in enumerate(names) if not name.startswith(LEFT_OUT)]
    head = [names[place] for place in kept]
    rows = [" & ".join(escape(row[place]) for place in kept) + r" \\" for row in cells(table)]
    said = " ".join(escape(sentence) for sentence in sentences(table))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(map(escape, head)) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{escape(table.title)}. {said}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """`ganpo_dpo, 50 %` as LaTeX prints it."""
    escaped = SPECIAL.sub(lambda match: WRITTEN.get(match[0], f"\\{match[0]}"), text)
    for symbol, written in SYMBOLS.items():
        escaped = escaped.replace(symbol, written)
    return escaped
