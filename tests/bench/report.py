"""What was measured against its bar: the table on the terminal, JSON, and the README's block between two markers."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.harness import ROOT

BEGIN = "<!-- bench -->"
END = "<!-- /bench -->"


class Figure(msgspec.Struct, kw_only=True):
    """One value. ``bar`` is the most it may be, or with ``at_least`` the least; None for a value without one."""

    measure: str
    name: str
    value: float
    unit: str
    bar: float | None = None
    at_least: bool = False
    note: str = ""
    wrong: str = ""
    """Why the figure does not count: something was lost, doubled or refused."""

    @property
    def verdict(self) -> Literal["ok", "short", "invalid", ""]:
        if self.wrong:
            return "invalid"
        if self.bar is None:
            return ""
        reached = self.value >= self.bar if self.at_least else self.value <= self.bar
        return "ok" if reached else "short"

    @property
    def bar_text(self) -> str:
        return "" if self.bar is None else f"{'≥' if self.at_least else '≤'} {number(self.bar)}"


class Machine(msgspec.Struct):
    """Where, when and with what it was measured."""

    cpu: str
    cores: int
    python: str
    commit: str
    at: str
    others: float = 0.0
    """The largest share (0–1) of the cores that other programs had in use before a measure."""

    def __str__(self) -> str:
        others = f", others using up to {self.others:.0%} of the cores" if self.others >= 0.05 else ""
        return f"{self.cpu}, {self.cores} cores, Python {self.python}, commit {self.commit}, {self.at[:10]}{others}"


class Report(msgspec.Struct):
    machine: Machine
    figures: list[Figure]


def this_machine() -> Machine:
    model = platform.processor() or platform.machine()
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Machine(model, len(os.sched_getaffinity(0)), platform.python_version(), _commit(), at)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    return f"{commit}+" if git("status", "--porcelain", "--untracked-files=no") else commit or "unknown"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0–1) of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def number(value: float) -> str:
    """Three significant digits, thousands separated: 0.0213, 4.05, 151, 145,800."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def show(report: Report) -> None:
    """The table, on standard output."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table(title="Reprise, measured", title_justify="left", caption=str(report.machine), caption_justify="left")
    table.add_column("#")
    table.add_column("measure")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("bar", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("remark")
    colours = {"ok": "green", "short": "yellow", "invalid": "red"}
    last = ""
    for figure in report.figures:
        verdict = figure.verdict
        mark = f"[{colours[verdict]}]{verdict}[/]" if verdict else ""
        label = "" if figure.measure == last else figure.measure
        last = figure.measure
        value = f"{number(figure.value)} {figure.unit}"
        remark = "; ".join(part for part in (figure.wrong, figure.note) if part)
        table.add_row(label, figure.name, value, figure.bar_text, mark, remark)
    console.print(table)


def write_json(report: Report, path: Path) -> None:
    found = msgspec.to_builtins(report)
    for one, figure in zip(found["figures"], report.figures, strict=True):
        one["verdict"] = figure.verdict
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")


def markdown(report: Report) -> str:
    """The table as it stands in the README."""
    lines = ["| # | measure | value | bar | |", "|---|---|---:|---:|---|"]
    for f in report.figures:
        mark = f"{f.verdict}: {f.wrong}" if f.wrong else f.verdict
        lines.append(f"| {f.measure} | {f.name} | {number(f.value)} {f.unit} | {f.bar_text} | {mark} |")
    return "\n".join([*lines, "", f"Measured on {report.machine}."])


def replace_block(text: str, block: str) -> str:
    """``text`` with ``block`` between the markers. Raises ValueError where the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the markers {BEGIN} and {END} are missing")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def write_readme(report: Report, path: Path) -> None:
    """Replaces the block of the README. Raises ValueError where its markers are missing."""
    path.write_text(replace_block(path.read_text(), markdown(report)))
