"""`python -m tests.bench`: runs the measures asked for, prints the table, writes what it is told to."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench import control, fanout, history, remember, retrieval, tokens
from tests.bench.harness import ROOT, Upstream, allow_many_files, busy_share
from tests.bench.options import Options, say
from tests.bench.report import Figure, Report, show, this_machine, write_json, write_readme

MEASURES: dict[str, Callable[[Upstream, Options], list[Figure]]] = {
    "P1": fanout.p1,
    "P2": fanout.p2,
    "P3": tokens.p3,
    "P4": tokens.p4,
    "P5": tokens.p5,
    "P6": control.p6,
    "P7": control.p7,
    "P8": fanout.p8,
    "P9": tokens.p9,
    "P10": fanout.p10,
    "P11": control.p11,
    "P12": retrieval.p12,
    "P13": remember.p13,
    "P14": history.p14,
    "P15": history.p15,
    "P16": control.p16,
}

EXAMPLE = "example: scripts/bench P2 P5 --runs 5 --json figures.json"


def parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:4} {(measure.__doc__ or '').splitlines()[0]}" for name, measure in MEASURES.items())
    made = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures a live `reprise run` of this tree on this machine, each measure in a run of its own.",
        epilog=f"measures:\n{listed}\n\n{EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("measures", nargs="*", metavar="P1 P2 ...", help="what to measure (default: everything)")
    made.add_argument("--runs", type=int, default=3, help="runs whose median is taken (default: 3)")
    made.add_argument("--quick", action="store_true", help="fewer samples and smaller crowds: a look only")
    made.add_argument("--data", type=Path, metavar="FILE", help="LoCoMo-shaped conversations, for P15")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    made.add_argument("--readme", action="store_true", help="write the table into README.md")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when everything was measured (whatever the speed), 1 when a measure failed or is invalid."""
    options = parser().parse_args(arguments)
    names = [name.upper() for name in options.measures] or list(MEASURES)
    if unknown := [name for name in names if name not in MEASURES]:
        parser().error(f"unknown measure {unknown[0]}; known are {', '.join(MEASURES)}")
    if options.runs < 1:
        parser().error("--runs must be at least 1")
    allow_many_files()
    report = Report(this_machine(), [])
    failed = _measure(names, Options(options.runs, options.quick, options.data), report)
    show(report)
    if options.json:
        write_json(report, options.json)
    if options.readme:
        write_readme(report, ROOT / "README.md")
    return 1 if failed or any(figure.wrong for figure in report.figures) else 0


def _measure(names: Sequence[str], options: Options, report: Report) -> bool:
    """Runs the measures one after the other; one that fails does not stop the rest. Whether any failed."""
    failed = False
    with Upstream() as upstream:
        for name in names:
            measure = MEASURES[name]
            say(f"{name}: {(measure.__doc__ or '').splitlines()[0]}")
            report.machine.others = max(report.machine.others, busy_share())
            began = time.monotonic()
            try:
                report.figures += measure(upstream, options)
            except (RuntimeError, OSError, ValueError) as error:
                failed = True
                say(f"{name} failed: {type(error).__name__}: {error}")
            say(f"{name}: {time.monotonic() - began:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
