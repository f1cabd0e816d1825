"""Tables of an experiment as text: for a terminal, and in Markdown, CSV and LaTeX for a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedfs.roles.reader.report.format import format_p
from fedfs.simulation.table import Cell, Difference, ExperimentResult
from fedfs.store.local_files import replacing


@dataclass(frozen=True)
class Table:
    """A table with a caption."""

    caption: str
    heading: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(result: ExperimentResult) -> tuple[Table, ...]:
    """Return the arms by sites, and their differences to the reference, if there are any."""
    repeats = f"{result.n_repeats} folds and seeds" if result.n_repeats > 1 else "one run"
    plus = " ± SD over folds and seeds" if result.n_repeats > 1 else ""
    caption = f"Dice{plus}, and HD95 in mm, of cases that no arm trained on ({repeats})"
    arms = Table(caption, _heading(result), _rows(result, result.cells, _cell))
    if not result.differences:
        return (arms,)
    of_dice = {
        arm: {site: found.get("dice") for site, found in row.items()}
        for arm, row in result.differences.items()
    }
    caption = (
        f"Dice minus that of {result.reference}: mean over the same cases (95 % interval over "
        f"cases), p of Wilcoxon's signed-rank test{'; SD over folds and seeds' if plus else ''}"
    )
    return arms, Table(caption, _heading(result), _rows(result, of_dice, _difference))


def _heading(result: ExperimentResult) -> tuple[str, ...]:
    first = next(iter(result.cells.values()))
    external = f"{result.external} (external)"
    names = {site: external if site == result.external else site for site in result.sites}
    return ("method", *(f"{name}, n={first[site].n_cases}" for site, name in names.items()))


def _rows(
    result: ExperimentResult, by_arm: Mapping[str, Mapping[str, Any]], text: Callable[..., str]
) -> tuple[tuple[str, ...], ...]:
    return tuple((arm, *(text(row[site]) for site in result.sites)) for arm, row in by_arm.items())


def _cell(cell: Cell) -> str:
    spread = f" ± {cell.dice_sd:.3f}" if cell.dice_sd is not None else ""
    distance = f", {cell.hd95_mm:.1f}" if cell.hd95_mm is not None else ""
    return f"{cell.dice:.3f}{spread}{distance}"


def _difference(found: Difference | None) -> str:
    if found is None:
        return "-"
    text = f"{found.mean:+.3f}"
    if found.low is not None and found.high is not None:
        text += f" ({found.low:+.3f} to {found.high:+.3f})"
    if found.p is not None:
        text += f", p {format_p(found.p)}"
    return text + (f"; SD {found.sd:.3f}" if found.sd is not None else "")


def markdown(result: ExperimentResult) -> str:
    """Return the tables in Markdown."""
    parts = []
    for table in tables(result):
        lines = [table.heading, ("---", *("---:" for _ in table.heading[1:])), *table.rows]
        rows = (f"| {' | '.join(line)} |" for line in lines)
        parts.append("\n".join((f"{table.caption}:", "", *rows)))
    return "\n\n".join(parts) + "\n"


def latex(result: ExperimentResult) -> str:
    """Return the tables in LaTeX, for the package booktabs."""
    parts = []
    for table in tables(result):
        heading, *rows = (
            " & ".join(_tex(text) for text in line) + r" \\"
            for line in (table.heading, *table.rows)
        )
        parts.append(
            "\n".join(
                (
                    r"\begin{table}",
                    rf"\caption{{{_tex(table.caption)}.}}",
                    rf"\begin{{tabular}}{{l{'r' * (len(table.heading) - 1)}}}",
                    r"\toprule",
                    heading,
                    r"\midrule",
                    *rows,
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                )
            )
        )
    return "\n\n".join(parts) + "\n"


def _tex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("±", r"$\pm$").replace("<", "$<$")


def comma_separated(result: ExperimentResult) -> str:
    """Return every number, with a line for each arm and site."""
    fields = ["mean", "low", "high", "p", "n_cases", "n_patients", "sd"]
    metrics = ("dice", "hd95")
    of_cell = ["dice", "dice_sd", "dice_low", "dice_high", "hd95_mm", "n_cases"]
    heading = ["method", "site", *of_cell, "n_repeats", "reference"]
    heading += [f"{metric}_difference_{name}" for metric in metrics for name in fields]
    out = io.StringIO()
    writer = csv.DictWriter(out, heading, lineterminator="\n")
    writer.writeheader()
    for arm, row in result.cells.items():
        for site in result.sites:
            found = result.differences.get(arm, {}).get(site, {})
            line = {"method": arm, "site": site, "n_repeats": result.n_repeats}
            line |= {name: asdict(row[site])[name] for name in of_cell}
            line |= {"reference": result.reference if found else None}
            for metric, difference in found.items():
                values = asdict(difference)
                line |= {f"{metric}_difference_{name}": values[name] for name in fields}
            writer.writerow(line)
    return out.getvalue()


def write_tables(folder: Path, result: ExperimentResult) -> Sequence[Path]:
    """Write ``table.md``, ``table.csv`` and ``table.tex``; return their paths."""
    forms = {"md": markdown, "csv": comma_separated, "tex": latex}
    paths = []
    for ending, text in forms.items():
        paths.append(folder / f"table.{ending}")
        with replacing(paths[-1]) as temporary:
            temporary.write_text(text(result), encoding="utf-8")
    return paths
