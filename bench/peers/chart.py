"""The comparison as a picture: for prefill and decode, a pair (or more) of bars a row, each row to its own scale."""

COLOURS = ("#1b6ca8", "#9aa7b1", "#d8b365")


def _text(x, y, s, extra=""):
    s = s.replace("&", "&amp;").replace("<", "&lt;")
    return '<text x="%.1f" y="%.1f"%s>%s</text>' % (x, y, " " + extra if extra else "", s)


def svg(rows, engines, title):
    """rows as in the JSON report; engines in the order of the bars, ours first."""
    bar, label, span, tail = 13, 150, 230, 110
    step = (bar + 2) * len(engines) + 12
    panels = [k for k in ("prefill", "decode") if any(r["kind"] == k for r in rows)]
    most = max(sum(r["kind"] == k for r in rows) for k in panels)
    panel, top = label + span + tail, 84
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">'
           % (20 + panel * len(panels), top + step * most + 16), '<rect width="100%" height="100%" fill="#fff"/>',
           _text(20, 24, title, 'font-size="15" font-weight="bold"')]
    for i, name in enumerate(engines):
        out.append('<rect x="%d" y="36" width="12" height="12" fill="%s"/>' % (20 + 110 * i, COLOURS[i % len(COLOURS)]))
        out.append(_text(37 + 110 * i, 47, name))
    for p, kind in enumerate(panels):
        x0, mine = 20 + panel * p, [r for r in rows if r["kind"] == kind]
        out.append(_text(x0, top - 12, "%s, tokens/s" % kind, 'font-weight="bold"'))
        for i, r in enumerate(mine):
            y, best = top + step * i, max(e["median"] for e in r["engines"].values())
            out.append(_text(x0, y + 11, r["work"]))
            out.append(_text(x0, y + 26, "%d at depth %d" % (r["n"], r["depth"]), 'font-size="10" fill="#555"'))
            for j, name in enumerate(engines):
                if name not in r["engines"]:
                    continue
                v, by = r["engines"][name]["median"], y + (bar + 2) * j
                out.append('<rect x="%d" y="%.1f" width="%.1f" height="%d" fill="%s"/>' % (
                    x0 + label, by, max(1, span * v / best), bar, COLOURS[j % len(COLOURS)]))
                out.append(_text(x0 + label + span * v / best + 4, by + 11, "%.0f" % v if v >= 100 else "%.1f" % v,
                                 'font-size="11"'))
            if r.get("ratio"):
                out.append(_text(x0 + label + span + tail - 16, y + 11, "\u00d7 %.2f" % r["ratio"],
                                 'text-anchor="end" font-weight="bold"'))
    return "\n".join(out + ["</svg>", ""])
