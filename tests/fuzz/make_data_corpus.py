#!/usr/bin/env python3
"""Seeds for fuzz_shard, fuzz_bins, fuzz_inflow and fuzz_documents; sums are put right by the targets.

    tests/fuzz/make_data_corpus.py
"""
import gzip
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "corpus"


def put(kind, name, data):
    folder = HERE / kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def up(n):
    return (n + 4095) // 4096 * 4096


def shard(vocab, counts, mask):
    tokens, width = sum(counts), 2 if vocab <= 65536 else 4
    section, bits = tokens * width, (tokens + 7) // 8 if mask else 0
    mask_at = 4096 + up(section) if mask else 0
    index = 4096 + up(section) + up(bits)
    sums = index + 16 * len(counts)
    pages = (1 if section else 0, 1 if bits else 0)
    size = sums + 8 * sum(pages)
    head = b"SALATOKS" + struct.pack("<4I8Q2IQ16xQ", 1, int(mask), width, vocab, 7, len(counts), tokens, 4096, mask_at,
                                     index, sums, size, *pages, 0, 0)
    body = bytearray(size - 4096)
    for i in range(tokens):
        struct.pack_into("<H" if width == 2 else "<I", body, i * width, i % vocab)
    if mask:
        body[mask_at - 4096:mask_at - 4096 + bits] = b"\x55" * (bits - 1) + b"\x01"
    at = 0
    for i, n in enumerate(counts):
        struct.pack_into("<QII", body, index - 4096 + 16 * i, at, n, 0)
        at += n
    return b"\x01" + head + bytes(body)


def bins(packing, pieces, firsts, tokens):
    head = b"SALABINS" + struct.pack("<2I6Q", 1, packing, len(pieces), len(firsts) - 1, tokens, 0, 0, 0)
    body = b"".join(struct.pack("<2I2Q", 0, n, at, start) for n, at, start in pieces)
    return bytes([1 | packing << 1]) + head + body + struct.pack("<%dQ" % len(firsts), *firsts)


put("shard", "plain", shard(100, [3, 4], False))
put("shard", "mask", shard(100, [3, 6], True))
put("shard", "wide", shard(70000, [5], False))
put("shard", "empty", shard(100, [], False))
put("shard", "unsealed", b"\x00" + shard(100, [3], False)[1:])
put("bins", "best-fit", bins(0, [(8, 0, 0), (7, 8, 8), (8, 15, 0), (8, 23, 8), (8, 31, 16)], [0, 1, 2, 3, 4, 5], 39))
put("bins", "stream", bins(1, [(9, 0, 0), (7, 8, 8), (2, 15, 0)], [0, 1, 3], 16))
put("bins", "outside", bins(0, [(8, 36, 21)], [0, 1], 8))
put("inflow", "text", b"plain text\n")
put("inflow", "gzip", gzip.compress(b"hello\n" * 20, mtime=0))
put("inflow", "members", gzip.compress(b"a", mtime=0) + gzip.compress(b"b", mtime=0) + b"\0\0")
# zstd: a frame of one raw block, and a skippable one in front of a run-length block.
raw = b"\x28\xb5\x2f\xfd\x20\x05" + struct.pack("<I", 5 << 3 | 1)[:3] + b"hello"
put("inflow", "zstd", raw)
put("inflow", "zstd-frames", raw + b"\x50\x2a\x4d\x18\x02\0\0\0xx" + b"\x28\xb5\x2f\xfd\x20\x09" +
    struct.pack("<I", 9 << 3 | 3)[:3] + b"z")
for i, text in enumerate([b"one\n---\ntwo\n\nthree", b"a\nb\r\n\nc", b'{"text":"a\\ud800b"}\n{"text":"\xff"}\n{"x":1}\n',
                          b"\xef\xbb\xbf\xe2\x82\xac" * 9, b""]):
    for kind in (0, 1, 2, 3, 13):
        put("documents", "%d-%d" % (i, kind), bytes([kind, 20 if i % 2 else 5]) + text)
