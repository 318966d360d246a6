#!/usr/bin/env python3
"""Writes the seed corpus of fuzz_session_file beside this file. The form of an input is told in fuzz_session_file.c; its
flags let the target compute the checksums."""
import os
import struct

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus", "session_file")
UNIT, HEAD = 4096, 288


def header(generation, table, n_pages, units, version=2):
    size = HEAD + 16 * n_pages if table else 0
    return b"SALASESS" + struct.pack("<IIQQQQQQ", version, UNIT, generation, table * UNIT, size, 0,
                                     units * UNIT if table else 64, 0)


def table(generation, description, sections, pages):
    """description: (unit, bytes); sections: (page bytes, pages); pages: units."""
    out = struct.pack("<QQQQ", generation, description[0] * UNIT, description[1], 0)
    for i in range(16):
        out += struct.pack("<QQ", *(sections[i] if i < len(sections) else (0, 0)))
    for unit in pages:
        out += struct.pack("<QQ", unit * UNIT, 0)
    return out


def put(name, flags, slots, units):
    os.makedirs(FOLDER, exist_ok=True)
    data = bytes([flags]) + b"".join(s.ljust(64, b"\0") for s in slots)
    data += b"".join(u.ljust(512, b"\0") for u in units)
    with open(os.path.join(FOLDER, name), "wb") as f:
        f.write(data.rstrip(b"\0") if flags == 0 else data)


first = header(0, 0, 0, 0)
text = b'{"format":1,"length":3}'
put("begun", 1, [first, b""], [])
put("one", 3, [first, header(1, 4, 1, 5)], [b"page", text, table(1, (3, len(text)), [(100, 1)], [2])])
put("empty_description", 3, [first, header(1, 3, 1, 4)], [b"page", table(1, (0, 0), [(4096, 1)], [2])])
two = [b"a" * 512, b"b" * 512, text, table(1, (4, len(text)), [(512, 1), (300, 1)], [2, 3]),
       b"c" * 512, text, table(2, (7, len(text)), [(512, 1), (300, 1)], [2, 6])]
put("two", 3, [header(2, 8, 2, 9), header(1, 5, 2, 9)], two)
put("falls_back", 3, [header(2, 8, 2, 10), header(1, 5, 2, 9)], two)
put("bad_pages", 1, [header(2, 8, 2, 9), header(1, 5, 2, 9)], two)
put("sums_wrong", 0, [header(2, 8, 2, 9), header(1, 5, 2, 9)], two)
put("overlap", 3, [first, header(1, 3, 2, 4)], [b"page", table(1, (0, 0), [(4000, 2)], [2, 2])])
put("wide_pages", 3, [first, header(1, 8, 3, 9)],
    [b"x" * 512] * 6 + [table(1, (0, 0), [(8192, 2), (0, 0), (5000, 1)], [2, 4, 6])])
put("later_version", 1, [first, header(1, 3, 1, 4, version=3)], [b"page", table(1, (0, 0), [(4096, 1)], [2])])
put("many_claimed", 1, [first, header(1, 3, 1, 4)], [b"page", table(1, (0, 0), [(1 << 31, 1 << 23)], [2])])
put("last_generation", 1, [header(2**63 - 2, 3, 1, 4), header(2**63 - 3, 3, 1, 4)],
    [b"page", table(2**63 - 2, (0, 0), [(4096, 1)], [2])])
