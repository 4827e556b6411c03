#!/usr/bin/env python3
"""How long until a client can write again after a `kill -9` of the active: ipicsha, keepalived, and Patroni.

Needs root, for network namespaces. Everything runs in namespaces and folders of its own, which are removed at the
end. What is missing of keepalived, etcd and Patroni is installed from Debian and PyPI; what cannot be installed is
skipped with a line that says so. The exit code is 1 only when ipicsha itself fails.
"""

import argparse
import datetime
import os
import pathlib
import platform
import shlex
import signal
import statistics
import sys
import traceback

import systems

ROOT = pathlib.Path(__file__).resolve().parents[2]

WHAT_IS_COMPARABLE = """\
What is comparable: the same machine, the same kind of network (namespaces and veth pairs), the same fault (`kill -9`
of every process of the active in one go, at a random moment between two heartbeats), the same clock, and a client that
tries until it succeeds: every 5 ms (keepalived: a new connection with a limit of 50 ms; ipicsha: a row into the
database), every 20 ms for Patroni. What is not: keepalived moves an address and has no data, so its answer says only
that a service without state is reached again, while the other two count rows. The clients of ipicsha and Patroni ask
the standby itself and need no address that moves; an `[[address]]` of ipicsha or a proxy before Patroni comes on top,
as do real networks, and services that must be started first. The fault is kinder than a machine without power: the kernel lives,
answers with resets and closes connections at once, from which Patroni gains (its standby asks the leader once more
before it takes over) and ipicsha and keepalived nothing, as they wait for silence. A keepalived that is killed leaves
the address on the interface of its machine; as a dead machine would not, the benchmark deletes it there right after
the kill, and that takes some milliseconds, which are counted. keepalived runs at its best: priorities 254 and 253, so
that the standby waits 3 advertisements and next to nothing more; with the usual 100 it is 0.6 of an advertisement
more. Patroni's fastest settings are the smallest that its own validation takes; its etcd runs on a third machine that
survives, which ipicsha does without, and so it may have two active servers where the link is cut and nothing died.
*Lost* are rows that were acknowledged before the kill and are not on the new active half a second after its first
write; *for good* those that are not there either when the old active is back (ipicsha merges them, Patroni discards
them)."""


class Setting:
    """One row of the table."""

    def __init__(self, key, system, text, rounds, make):
        self.key, self.system, self.text, self.rounds, self.make = key, system, text, rounds, make
        self.results = []
        self.skipped = None


def settings(lab, binary):
    """All rows, in the order in which they are measured."""
    make = (
        lambda: systems.Ipicsha(lab, binary, 0.2, 5),
        lambda: systems.Ipicsha(lab, binary, 0.2, 3),
        lambda: systems.Keepalived(lab, 2, 1),
        lambda: systems.Keepalived(lab, 3, 0.2),
        lambda: systems.Patroni(lab, fastest=True),
        lambda: systems.Patroni(lab, fastest=False),
    )
    rows = (
        ("ipicsha-1.0", "ipicsha", "fast, 0.2 s x 5 (D = 1 s)", 5),
        ("ipicsha-0.6", "ipicsha", "fast, 0.2 s x 3 (D = 0.6 s)", 5),
        ("keepalived-1", "keepalived (no data)", "VRRPv2, advert_int 1", 5),
        ("keepalived-0.2", "keepalived (no data)", "VRRPv3, advert_int 0.2", 5),
        ("patroni-fastest", "Patroni", "fastest", 3),
        ("patroni-default", "Patroni", "default", 1),
    )
    return [Setting(*row, one) for row, one in zip(rows, make)]


def arguments():
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = "ipicsha-1.0, ipicsha-0.6, keepalived-1, keepalived-0.2, patroni-fastest, patroni-default"
    parser.add_argument("--ipicsha", default=ROOT / "target/release/ipicsha", help="the binary to measure")
    parser.add_argument("--rounds", type=int, help="kills per row (default: 5, Patroni 3 and 1)")
    parser.add_argument("--quick", action="store_true", help="one kill per row")
    parser.add_argument("--only", metavar="NAME,...", help=f"rows whose name begins so, or so: {names}")
    parser.add_argument("--output", type=pathlib.Path, help="default: benches/results/<today>-takeover.md")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds = 1
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    chosen.output = chosen.output or ROOT / f"benches/results/{today}-takeover.md"
    return today, chosen


def measure(setting, lab, rounds, versions):
    """Fills in one row; gives whether nothing failed that must not."""
    try:
        system = setting.make()
        versions.update(system.versions)
        if setting.system == "Patroni":
            setting.text += " (" + ", ".join(f"{name} {value}" for name, value in system.timing.items()) + ")"
        for one in system.rounds(rounds or setting.rounds):
            setting.results.append(one)
            lost = "" if one.lost is None else f", lost {one.lost} of {one.acknowledged}"
            print(f"{setting.key}: {one.seconds:.3f} s{lost}", flush=True)
    except systems.Unavailable as why:
        setting.skipped = str(why)
        print(f"SKIPPED {setting.key}: {why}", flush=True)
    except Exception as error:  # whatever it is, the other rows are measured
        traceback.print_exc()
        show_logs(lab)
        setting.skipped = f"failed: {error}"
        print(f"SKIPPED {setting.key}: {setting.skipped}", flush=True)
    finally:
        lab.clear()
        for log in lab.home.glob("*.log"):
            log.unlink()
    return setting.system != "ipicsha" or setting.skipped is None


def show_logs(lab):
    """The last lines of all logs, for a row that failed."""
    for log in sorted(lab.home.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-15:]
        print(f"--- {log.name}", *lines, sep="\n", file=sys.stderr)


def lost_text(results):
    """Lost rows of all rounds together."""
    if any(one.lost is None for one in results):
        return "-"
    lost, good = sum(one.lost for one in results), sum(one.lost_for_good for one in results)
    acknowledged = sum(one.acknowledged for one in results)
    return f"{lost} of {acknowledged} (for good {good})"


def table(rows):
    """The table of the report."""
    lines = ["| system | setting | median | slowest | lost rows |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        if row.results:
            seconds = [one.seconds for one in row.results]
            figures = f"{statistics.median(seconds):.2f} s | {max(seconds):.2f} s | {lost_text(row.results)}"
            if row.skipped:
                figures += f"; then {row.skipped}"
        else:
            figures = f"- | - | SKIPPED: {row.skipped}"
        lines.append(f"| {row.system} | {row.text} | {figures} |")
    return "\n".join(lines)


def machine():
    """What the figures were measured on, and whether anything else was running."""
    processor = "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.split(": ")[1]
    load = os.getloadavg()[0]
    nice = os.nice(0)
    idle = "otherwise idle" if load < 0.3 else "NOT idle: figures are upper bounds"
    return (
        f"{os.cpu_count()} cores ({processor}), Linux {platform.release()}, load before the run {load:.2f} "
        f"({idle}), nice {nice}, Python {platform.python_version()}"
    )


def report(today, where, rows, versions):
    """The whole file."""
    command = shlex.join(["python3", "benches/takeover/takeover.py", *sys.argv[1:]])
    version_text = ", ".join(f"{name} {version}" for name, version in versions.items())
    every = "\n".join(
        f"- {row.system}, {row.text}: " + ", ".join(f"{one.seconds:.3f}" for one in row.results)
        for row in rows
        if row.results
    )
    return (
        f"# Takeover, {today}\n\n{today}: {where}.\n{version_text}.\nCommand: `{command}`\n\n"
        "Time from `kill -9` of all processes of the active until a client can write again (keepalived: until it is\n"
        f"answered again).\n\n{table(rows)}\n\nEvery round, in seconds:\n\n{every}\n\n{WHAT_IS_COMPARABLE}\n"
    )


def interrupted(number, _frame):
    """A signal ends the run as an error does: with everything removed."""
    raise SystemExit(128 + number)


def main():
    """One run."""
    today, chosen = arguments()
    if os.geteuid() != 0:
        sys.exit("error: network namespaces need root\nnext: run it as root")
    binary = pathlib.Path(chosen.ipicsha).resolve()
    if not binary.exists():
        sys.exit(f"error: there is no {chosen.ipicsha}\nnext: cargo build --release --package ipicsha, or --ipicsha FILE")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    where, versions, good = machine(), {}, True
    lab = systems.Lab()
    try:
        wanted = tuple((chosen.only or "").split(","))
        rows = [row for row in settings(lab, binary) if row.key.startswith(wanted)]
        if not rows:
            sys.exit(f"error: no row is named {chosen.only}\nnext: --help lists them")
        for row in rows:
            good = measure(row, lab, chosen.rounds, versions) and good
    finally:
        lab.close()
    text = report(today, where, rows, versions)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(text)
    print(f"\n{table(rows)}\n\nSaved to {chosen.output}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
