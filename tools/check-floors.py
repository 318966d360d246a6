#!/usr/bin/env python3
"""Checks that files include only their own folder and lower floors. The table of floors is cmake/modules.cmake.

    tools/check-floors.py [--self-test]

Rules: a file of src/<module> may include "<own module>/..." and modules of a strictly lower floor; siblings of a floor
never include one another. Apps may include include/, os/, base/ and any module (they link the library statically), but
never one another's folder. Examples see <sala.h> only. Nothing under src/ or apps/ includes tests/ or bench/. Quoted
includes carry their folder ("base/base.h"), so that the first word names the floor; a file inside apps/<program> may name its
neighbours plainly.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def floors(text):
    body = re.search(r"set\(SALA_MODULES(.*?)\)", text, re.S)
    if not body:
        sys.exit("check-floors: cmake/modules.cmake has no set(SALA_MODULES ...)")
    words = re.sub(r"#.*", "", body.group(1)).split()
    return {words[i]: int(words[i + 1]) for i in range(0, len(words), 2)}


def check_include(table, path, quote, target):
    """None, or what is wrong with `#include target` in the file `path` (parts, relative to the root)."""
    first = target.split("/")[0]
    if path[0] == "examples":
        if quote == '"' or first in table:
            return "an example sees <sala.h> and system headers only"
        return None
    if quote == "<":
        return 'a header of ours is included with quotes: "%s"' % target if first in table and "/" in target else None
    if target == "sala.h":
        return None
    if path[0] == "src":
        module = path[1]
        if module not in table:
            return "folder src/%s is not in the table of cmake/modules.cmake" % module
        if first == module:
            return None
        if first not in table:
            return '"%s" does not start with the name of a module' % target
        if table[first] >= table[module]:
            return '%s (floor %d) must not include "%s" (floor %d)' % (module, table[module], target, table[first])
        return None
    if "/" not in target or first in table:
        return None
    return '"%s" is neither a neighbour nor a module' % target


def check_tree(root, table):
    wrong = []
    files = [f for top in ("src", "apps", "examples", "include") for f in sorted((root / top).rglob("*"))
             if f.suffix in (".c", ".h", ".inc")]
    for f in files:
        rel = f.relative_to(root)
        for number, line in enumerate(f.read_text(encoding="utf-8").splitlines(), 1):
            m = INCLUDE.match(line)
            why = check_include(table, rel.parts, *m.groups()) if m and rel.parts[0] != "include" else None
            if m and rel.parts[0] == "include" and (m.group(1) == '"' and m.group(2).split("/")[0] in table):
                why = "a public header includes nothing of ours"
            if why:
                wrong.append("%s:%d: %s" % (rel, number, why))
    return len(files), wrong


def self_test(table):
    low = min(table, key=table.get)
    high = max(table, key=table.get)
    assert check_include(table, ("src", low, "x.c"), '"', high + "/x.h")
    assert not check_include(table, ("src", high, "x.c"), '"', low + "/x.h")
    assert not check_include(table, ("src", low, "x.c"), '"', low + "/x.h")
    assert not check_include(table, ("src", low, "x.c"), "<", "stdio.h")
    assert check_include(table, ("src", high, "x.c"), '"', "x.h")
    assert check_include(table, ("examples", "x.c"), '"', low + "/x.h")
    same = {f: [m for m in table if table[m] == f] for f in table.values()}
    for pair in (m for m in same.values() if len(m) > 1):
        assert check_include(table, ("src", pair[0], "x.c"), '"', pair[1] + "/x.h")


def main():
    table = floors((ROOT / "cmake" / "modules.cmake").read_text(encoding="utf-8"))
    self_test(table)
    if "--self-test" in sys.argv:
        return 0
    count, wrong = check_tree(ROOT, table)
    print("\n".join(wrong) if wrong else "floors: %d files include lower floors only" % count)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
