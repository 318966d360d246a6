#!/usr/bin/env python3
"""What the training benchmark found, for people: tables with the bars that are asked for, and a chart.

    train_report.py [REPORT.json]           prints the tables
    train_report.py REPORT.json --publish   makes the report what is published: bench/results/train.json,
                                            docs/images/train.svg, and the lines between the marks of docs/performance.md and,
                                            if it has them, of README.md
    train_report.py --check                 fails when one of them is not that of bench/results/train.json
"""
import argparse
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "peers"))

from chart import COLOURS, _text  # noqa: E402
from report import as_json, markdown, title  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "train.json"
CHART = ROOT / "docs" / "images" / "train.svg"
DOCUMENTS = (ROOT / "docs" / "performance.md", ROOT / "README.md")
BEGIN, END = "<!-- written by bench/train/train_report.py -->\n", "<!-- end of what train_report.py writes -->\n"
GIB = float(1 << 30)
SPEED_BARS = {1024: 1.5, 8192: 2.0}  # times PyTorch
SHARE_BAR, SHARE_AT = 0.60, 1024     # of the peak of products
MEMORY_BAR, FLAT_BAR = 0.40, 1.10    # of PyTorch's; cost per token at the longest against the shortest


def bar(good, text):
    return text if good else text + " (missed)"


def work_name(r):
    model = "hybrid, sparse" if r["model"] == "sparse" else r["model"]
    return "%s, %d x %d, %s" % (model, r["batch"], r["seq_len"], r["precision"])


def step_table(report):
    cells = [["training step", "sala, tokens/s", "PyTorch", "ratio", "share of peak", "sala, GiB", "PyTorch", "ratio",
              "losses differ by"]]
    for r in report["rows"]:
        ours, theirs = r["engines"]["sala"], r["engines"]["torch"]
        share = "%.1f %%" % (100 * ours["share_of_peak"])
        if r["seq_len"] == SHARE_AT:
            share = bar(ours["share_of_peak"] >= SHARE_BAR, share)
        cells.append([work_name(r), "%.0f" % ours["median"], "%.0f" % theirs["median"],
                      bar(r["ratio"] >= SPEED_BARS[r["seq_len"]], "%.2f" % r["ratio"]), share,
                      "%.2f" % (ours["peak_rss_bytes"] / GIB), "%.2f" % (theirs["peak_rss_bytes"] / GIB),
                      bar(r["memory_ratio"] <= MEMORY_BAR, "%.2f" % r["memory_ratio"]), "-" if r["loss_difference"] is None else "%.1e" % r["loss_difference"]])
    return markdown(cells)


def long_table(report):
    cells = [["hybrid with sparse layers, tokens", "tokens/s", "µs a token", "of the shortest", "GiB"]]
    for r in report["long"]:
        cells.append(["%d, %s" % (r["tokens"], r["precision"]), "%.0f" % r["median"], "%.0f" % (1e6 * r["cost"]),
                      bar(r["against_shortest"] <= FLAT_BAR, "%.2f" % r["against_shortest"]),
                      "%.2f" % (r["peak_rss_bytes"] / GIB)])
    return markdown(cells)


def as_text(report):
    who = {"sala": "products of sala", "torch": "PyTorch"}
    peaks = ["%s %.0f GFLOP/s (%s)" % (precision, max(by.values()) / 1e9, who[max(by, key=by.get)])
             for precision, by in report["product_peak"].items() if by]
    parts = ["%s, %s: median of %d steps%s%s; peak of products: %s. Bars: %s times PyTorch, %.0f %% of the peak at %d, "
             "%.1f of its memory, %.2f times the cost of the shortest.\n" % (
                 title(report), report["date"][:10], report["steps"],
                 ", %d rounds" % report["rounds"] if report["rounds"] > 1 else "",
                 "; PyTorch %s" % report["torch"] if report["torch"] else "", ", ".join(peaks),
                 " and ".join("%.1f (%d)" % (v, k) for k, v in SPEED_BARS.items()), 100 * SHARE_BAR, SHARE_AT, MEMORY_BAR,
                 FLAT_BAR)]
    parts += [step_table(report)] if report["rows"] else []
    parts += [long_table(report)] if report["long"] else []
    return "\n".join(parts)


# ---- the picture -----------------------------------------------------------------------------------------------------


def bars(out, x0, top, head, rows, form):
    """rows: (name, [value of each engine], note). Every row to the scale of the panel."""
    label, span, thick = 214, 190, 13
    most = max(v for _, values, _ in rows for v in values)
    out.append(_text(x0, top - 12, head, 'font-weight="bold"'))
    y = top
    for name, values, note in rows:
        out.append(_text(x0, y + 11, name))
        for j, v in enumerate(values):
            out.append('<rect x="%d" y="%.1f" width="%.1f" height="%d" fill="%s"/>' % (
                x0 + label, y, max(1, span * v / most), thick, COLOURS[j]))
            out.append(_text(x0 + label + span * v / most + 4, y + 11, form(v), 'font-size="11"'))
            y += thick + 2
        out.append(_text(x0 + label + span + 88, y - 19 if len(values) > 1 else y - 4, note,
                         'text-anchor="end" font-weight="bold"'))
        y += 10
    return y


def as_svg(report):
    out, bottom, panel = [], 0, 516
    pairs = [(work_name(r), r["engines"]["sala"], r["engines"]["torch"], r) for r in report["rows"]]
    columns = 0
    if pairs:
        bottom = bars(out, 20, 84, "tokens a second", [(n, [a["median"], b["median"]], "\u00d7 %.2f" % r["ratio"])
                                                       for n, a, b, r in pairs], lambda v: "%.0f" % v)
        bars(out, 20 + panel, 84, "peak of memory, GiB", [
            (n, [a["peak_rss_bytes"] / GIB, b["peak_rss_bytes"] / GIB], "\u00d7 %.2f" % r["memory_ratio"])
            for n, a, b, r in pairs], lambda v: "%.2f" % v)
        columns = 2
    if report["long"]:
        bottom = max(bottom, bars(out, 20 + panel * columns, 84, "the hybrid, \u00b5s a token", [
            ("%d K tokens, %s" % (r["tokens"] // 1024, r["precision"]), [1e6 * r["cost"]], "\u00d7 %.2f" % r["against_shortest"])
            for r in report["long"]], lambda v: "%.0f" % v))
        columns += 1
    head = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">' % (
                20 + panel * columns, bottom + 10), '<rect width="100%" height="100%" fill="#fff"/>',
            _text(20, 24, "Training step: " + title(report), 'font-size="15" font-weight="bold"')]
    for i, name in enumerate(("sala", "PyTorch")):
        head.append('<rect x="%d" y="36" width="12" height="12" fill="%s"/>' % (20 + 110 * i, COLOURS[i]))
        head.append(_text(37 + 110 * i, 47, name))
    return "\n".join(head + out + ["</svg>", ""])


# ---- what is published -----------------------------------------------------------------------------------------------


def published(report):
    files = {RESULTS: as_json(report), CHART: as_svg(report)}
    for path in DOCUMENTS:
        before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if begin and end:
            files[path] = before + begin + as_text(report) + end + after
    return files


def publish(report):
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
            print("train_report: %s is not what %s says; run bench/train/train_report.py --publish"
                  % (path.relative_to(ROOT), pathlib.Path(a.report).name), file=sys.stderr)
        return 1 if stale else 0
    else:
        print(as_text(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
