#!/usr/bin/env python3
"""What a comparison found, for people: a table with everything, a chart, and the short table that README.md quotes.

    report.py [REPORT.json]             prints the table
    report.py REPORT.json --publish     makes the report what is published: bench/results/peers.json, docs/images/peers.svg
                                        and the lines of README.md between its two marks
    report.py --check                   fails when chart or README.md are not those of bench/results/peers.json
"""
import argparse
import json
import pathlib
import sys

import chart

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "peers.json"
CHART = ROOT / "docs" / "images" / "peers.svg"
README = ROOT / "README.md"
BEGIN, END = "<!-- written by bench/peers/report.py -->\n", "<!-- up to here -->\n"


def engines(report):
    """Names, ours first."""
    return list(dict.fromkeys(name for row in report["rows"] for name in row["engines"]))


def title(report):
    m = report["machine"]
    return "%s, %d threads%s" % (m["cpu"], m["threads"], " (%s)" % ", ".join(m["flags"]) if m.get("flags") else "")


def markdown(cells):
    widths = [max(len(c[i]) for c in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|"] + lines[1:]) + "\n"


def as_json(report):
    return json.dumps(report, indent=1) + "\n"


def as_svg(report):
    return chart.svg(report["rows"], engines(report), title(report))


def as_text(report):
    """Tokens a second, the variant that won where there were several, share of the bandwidth."""
    names = engines(report)
    cells = [["work", "", "depth"] + names + ["ratio"]]
    for r in report["rows"]:
        line = [r["work"], "%s %d" % (r["kind"], r["n"]), str(r["depth"])]
        for name in names:
            e = r["engines"].get(name)
            if not e:
                line.append("-")
                continue
            notes = [e["variant"].replace("kv ", "")] if e.get("variant") else []
            notes += ["%.0f %%" % (100 * e["share_of_bandwidth"])] if "share_of_bandwidth" in e else []
            line.append("%.1f%s" % (e["median"], " (%s)" % ", ".join(notes) if notes else ""))
        cells.append(line + ["%.2f" % r["ratio"] if "ratio" in r else "-"])
    reading = report.get("read_bytes_per_second")
    return "%s\nllama-cpp-python %s; median of %d rounds%s\n\n%s\n\n%s" % (
        title(report), report["llama_cpp_python"], report["rounds"],
        "; reading memory: %.1f GB/s" % (reading / 1e9) if reading else "",
        "Tokens a second (variant, share of the read bandwidth); ratio to the better of the others.", markdown(cells))


def as_readme(report):
    """A line for each work and depth: prefill / decode of every engine. Of caches only what is not f16 is named."""
    names, places = engines(report), {}
    for r in report["rows"]:
        places.setdefault((r["work"], r["depth"]), {})[r["kind"]] = r
    cells = [["work", "depth"] + names + ["ratio"]]
    for (work, depth), rows in places.items():
        kinds = [rows.get(kind) for kind in ("prefill", "decode")]

        def speed(row, name):
            e = row and row["engines"].get(name)
            if not e:
                return "-"
            return ("%.0f" if e["median"] >= 100 else "%.1f") % e["median"] + (" (q8_0)" if "q8_0" in e["variant"] else "")

        cells.append([work, str(depth)] + [" / ".join(speed(row, name) for row in kinds) for name in names] +
                     [" / ".join("%.2f" % row["ratio"] if row and "ratio" in row else "-" for row in kinds)])
    lengths = {kind: sorted({r["n"] for r in report["rows"] if r["kind"] == kind}) for kind in ("prefill", "decode")}
    lengths = {kind: " and ".join(map(str, n)) for kind, n in lengths.items() if n}
    return "Tokens a second, %s. %s, llama-cpp-python %s, %s, median of %d rounds:\n\n%s" % (
        " / ".join("%s of %s" % item for item in lengths.items()), title(report), report["llama_cpp_python"],
        report["date"][:10], report["rounds"], markdown(cells))


def quoted(report):
    """README.md as it is with this report, or None without its marks."""
    before, begin, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    return before + begin + as_readme(report) + end + after if begin and end else None


def published(report):
    text = quoted(report)
    if text is None:
        raise SystemExit("report: README.md has no lines between %s and %s" % (BEGIN.strip(), END.strip()))
    report = dict(report, could_not_run=[{k: v for k, v in failed.items() if k != "why"}  # which names files of a machine
                                         for failed in report.get("could_not_run", [])])
    return {RESULTS: as_json(report), CHART: as_svg(report), README: text}


def publish(report):
    """Writes what is published; returns the paths."""
    files = published(report)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return list(files)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("report", nargs="?", default=str(RESULTS))
    ap.add_argument("--publish", action="store_true")
    ap.add_argument("--check", action="store_true")
    a = ap.parse_args()
    report = json.loads(pathlib.Path(a.report).read_text(encoding="utf-8"))
    if a.publish:
        publish(report)
    elif a.check:
        stale = [p for p, text in published(report).items() if p.read_text(encoding="utf-8") != text]
        for path in stale:
            print("report: %s is not what %s says; run bench/peers/report.py --publish"
                  % (path.relative_to(ROOT), pathlib.Path(a.report).name), file=sys.stderr)
        return 1 if stale else 0
    else:
        print(as_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
