"""A consortium in virtual time: hours and bytes by policy and encoding, beside a server.

    python bench/consortium.py

Prints a Markdown table for each trace that comes with fedfs, for the first one also with a site
away for ten days, and the CPU time of a forecast of 20 sites and 100 rounds. All but the CPU time
follows from the traces alone: time is virtual, and the load of the machine does not matter.

The synchronous server is a model, and not a run of anybody's software: everybody has to be online,
each site moves 302 MB down and 302 MB up in a round (the public FednnU-Net code moves 604 MB for
this network), a transfer that is cut off begins again, and a round ends with the last site.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Iterator

from fedfs.roles.toml_file import TomlFile
from fedfs.simulation.virtual.calendar import HOUR_S, Hours, Line
from fedfs.simulation.virtual.forecast import TRACES, Forecast, Rules, forecast
from fedfs.simulation.virtual.learner import VALIDATION_SHARE
from fedfs.simulation.virtual.trace import SiteTrace, Trace, parse_trace

SERVER_MB_EACH_WAY = 302.0
ENCODINGS = {
    "fp32": {},
    "int8": {"encoding": "int8", "model_encoding": "int8"},
    "topk 5 %": {"encoding": "topk", "model_encoding": "topk"},
}
HEADING = (
    "rules", "hours", "beyond compute", "longest round, h", "missed", "largest site in model",
    "MB per site and round",
)  # fmt: skip


def policies(n_sites: int) -> dict[str, dict[str, object]]:
    """Return the policies that are compared, by name."""
    most = math.ceil(0.75 * n_sites)
    return {
        "`all`": {},
        f"`quorum` {most}, 30 min": {
            "policy": "quorum",
            "policy_options": {"sites": most, "grace_minutes": 30},
        },
        f"`quorum` {most}, adaptive": {
            "policy": "quorum",
            "policy_options": {"sites": most, "adaptive_grace": 1.25},
        },
        f"`buffer` {n_sites // 2}": {
            "policy": "buffer",
            "policy_options": {"size": n_sites // 2},
        },
    }


def read(name: str) -> Trace:
    """Return a trace that comes with fedfs."""
    file = TomlFile.read(TRACES / f"{name}.toml")
    return parse_trace(file.table, file.at)


def without(trace: Trace, site: str, *, after_h: float, hours: float) -> Trace:
    """Return a trace in which a site is switched off for a time."""
    gone = dataclasses.replace(trace.sites[site], outages=((after_h, after_h + hours),))
    return dataclasses.replace(trace, sites={**trace.sites, site: gone})


def transfer(line: Line, now_s: float, seconds: float) -> float:
    """Return when a transfer is done that begins again whenever the line drops."""
    while True:
        now_s = line.back_at(now_s)
        drop_s = line.next_drop(now_s)
        if now_s + seconds <= drop_s:
            return now_s + seconds
        now_s = drop_s


def synchronous(trace: Trace) -> float | None:
    """Return the hours of a synchronous server; None where a site has no line."""
    if any(site.courier_days for site in trace.sites.values()):
        return None
    study, now_s = trace.study, trace.study.start
    hosts = [
        (site, Line(name, site, now_s), Hours(site, now_s)) for name, site in trace.sites.items()
    ]
    for _ in range(study.rounds):
        now_s = max(round_of(trace, site, line, hours, now_s) for site, line, hours in hosts)
    return (now_s - study.start) / HOUR_S


def round_of(trace: Trace, site: SiteTrace, line: Line, hours: Hours, now_s: float) -> float:
    """Return when a site has downloaded, trained and uploaded."""
    study = trace.study
    now_s = transfer(line, now_s, SERVER_MB_EACH_WAY / site.down_mb_per_s)
    n_iterations = study.local_iterations + VALIDATION_SHARE * study.val_iterations
    now_s = hours.after(now_s, n_iterations * site.seconds_per_iteration)
    return transfer(line, now_s, SERVER_MB_EACH_WAY / site.up_mb_per_s)


def row(name: str, found: Forecast, largest: str) -> tuple[str, ...]:
    """Return the line of a table."""
    moved = found.moved_mb / max(1, found.rounds) / len(found.sites)
    return (
        name,
        f"{found.hours:.1f}" if found.ends else f"never: {found.rounds} rounds",
        f"{100 * (found.hours / found.slowest_h - 1):+.1f} %" if found.ends else "",
        f"{max(found.round_hours):.1f}",
        str(found.missed),
        f"{found.sites[largest].model_percent:.0f} %",
        f"{moved:.1f}",
    )


def table(trace: Trace) -> Iterator[tuple[str, ...]]:
    """Yield the lines of a trace."""
    largest = max(trace.sites, key=lambda site: trace.sites[site].cases)
    share = 100 * trace.sites[largest].cases / sum(s.cases for s in trace.sites.values())
    server_h = synchronous(trace)
    hours = "impossible" if server_h is None else f"{server_h:.1f}"
    moved = f"{2 * SERVER_MB_EACH_WAY:.0f}"
    yield ("synchronous server (model)", hours, "", "", "0", f"{share:.0f} %", moved)
    for name, options in policies(len(trace.sites)).items():
        for encoding, more in ENCODINGS.items():
            found = forecast(trace, Rules(name, {**options, **more}))
            yield row(f"{name}, {encoding}", found, largest)


def large(n_sites: int, n_rounds: int) -> Trace:
    """Return a trace of many sites, each of another speed."""
    sites = {
        f"site-{i:02d}": SiteTrace(
            cases=20 + i,
            seconds_per_iteration=0.5 + 0.05 * i,
            up_mb_per_s=1.0,
            down_mb_per_s=2.0,
            minutes_between_drops=(60.0, 90.0),
        )
        for i in range(n_sites)
    }
    trace = read("eight-hospitals")
    study = dataclasses.replace(trace.study, rounds=n_rounds)
    return dataclasses.replace(trace, study=study, sites=sites)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only-cpu", action="store_true", help="no tables")
    options = parser.parse_args()
    eight = read("eight-hospitals")
    traces = {
        eight.title: eight,
        "The same with hospital-5 (18 % of all cases) away for ten days": without(
            eight, "hospital-5", after_h=10.0, hours=240.0
        ),
        "The same with the slowest one, hospital-2, away for ten days": without(
            eight, "hospital-2", after_h=10.0, hours=240.0
        ),
    }
    for name in ("courier-and-nights", "slow-and-large"):
        trace = read(name)
        traces[trace.title] = trace
    for title, trace in {} if options.only_cpu else traces.items():
        print(f"\n{title}:\n\n| {' | '.join(HEADING)} |")
        print(f"|---|{'---:|' * (len(HEADING) - 1)}")
        for line in table(trace):
            print(f"| {' | '.join(line)} |", flush=True)
    began_s = time.process_time()
    found = forecast(large(20, 100), Rules("all", {}))
    spent_s = time.process_time() - began_s
    print(f"\n20 sites, {found.rounds} rounds, {found.hours / 24:.1f} days: {spent_s:.1f} s of CPU")


if __name__ == "__main__":
    main()
