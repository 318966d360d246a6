#!/usr/bin/env python3
"""Tokenizers against their originals: Hugging Face `tokenizers`, `sentencepiece` and llama.cpp.

Trains small tokenizers of every family on texts that Debian and Python packages carry, encodes many thousand strings with
both sides and compares ids, then decodes the ids with both sides. No tokenizer or text is fetched.

    tokenizer_parity.py DRIVER [--only NAME] [--strings N] [--gguf FILE] [--work DIR]

DRIVER is tests/parity/tok_driver.c, built. Needs tokenizers, sentencepiece; with --gguf also gguf and llama_cpp.
"""
import argparse
import glob
import gzip
import itertools
import json
import os
import random
import struct
import subprocess
import sys
import sysconfig
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LANGUAGES = [
    "All human beings are born free and equal in dignity and rights. They're endowed with reason and conscience.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos; ¿deben comportarse fraternalmente? ¡Sí!",
    "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом и совестью.",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心，並應以兄弟關係的精神互相對待。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。ｶﾞｷﾞｸﾞ",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "মানুষ জন্মগতভাবে স্বাধীন এবং সমান মর্যাদা ও অধিকারসম্পন্ন।",
    "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; ௧௨௩",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ๑๒๓",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. İSTANBUL ılık",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. ΣΊΣΥΦΟΣ",
    "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "Բոլոր մարդիկ ծնվում են ազատ ու հավասար՝ իրենց արժանապատվությամբ և իրավունքներով։",
    "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።",
    "for (int i = 0; i < n; ++i) {\n\tx[i] = a->b[i] * 3.14159e-10f; // don't\n}\r\n\r\n#define FOO(x) ((x) << 2)",
    "def f(x, *, y=None):\n    '''It's, I'LL, WE'VE, you'Re, he'd, 'ſ'''\n    return {**x, \"k\": [1, 22, 333, 4444, 55555]}",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇯🇵 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🤷🏻‍♂️ 1️⃣ ☃ ∑∫√ ½ ² Ⅷ ① ㊗ ﷺ ﬁ Å Å ḍ̇ ạ̈ e\u0301\u0302",
    "a\u200bb\u200cc\u200dd\ufeffe\u00adf\u2028g\u2029h\u0085i\u00a0j\u3000k\u2003l\u180em\u1680n",
]
EMOJI = "👩‍👩‍👧‍👦 👍🏽 🇩🇪 ❤️ 🤷🏻‍♂️ 🦀 🏳️‍🌈 ☃️".split()
GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
MINICPM5 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")
QWEN35 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def corpus():
    """English, code, many languages and made-up Chinese, about 3 MB; the same on every run."""
    rng = random.Random(1)
    texts = []
    for path in ["/usr/share/doc/jargon-text/jargon.txt.gz"]:
        if os.path.exists(path):
            texts.append(gzip.open(path, "rt", encoding="utf-8", errors="replace").read()[:1500000])
    lib = sysconfig.get_paths()["stdlib"]
    for path in sorted(glob.glob(lib + "/*.py"))[:60]:
        texts.append(open(path, encoding="utf-8", errors="replace").read()[:20000])
    texts.append(chinese(rng, 400000))
    texts += ["\n".join(LANGUAGES)] * 20
    return texts


def chinese(rng, n):
    """Words of one to four characters by Zipf's law, with punctuation: the statistics matter, not the sense."""
    chars = [chr(c) for c in range(0x4E00, 0x4E00 + 3500)]
    words = ["".join(rng.choice(chars) for _ in range(rng.choice([1, 2, 2, 2, 3, 4]))) for _ in range(6000)]
    weights = [1.0 / (i + 5) for i in range(len(words))]
    weights = list(itertools.accumulate(weights))
    out, size = [], 0
    while size < n:
        s = "".join(rng.choices(words, cum_weights=weights, k=rng.randint(3, 12))) + rng.choice("，。，。！？；：、\n")
        out.append(s)
        size += len(s)
    return "".join(out)


def strings(n, texts, seed=7):
    rng = random.Random(seed)
    out = ["", " ", "  ", "\n", "\0", "a\0b", "▁", "▁▁a", " ▁ b", "<s>", "<unk>", "<0x41>", "\ufffd", "\u0300", "'s", "'S", "I'ſ",
           "a" * 3000, " " * 2000, "\n" * 500, "ab" * 1500, "1" * 1000, "!" * 700, "中" * 1000, "a " * 1000, " a" * 1000]
    cps = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) != "Cn"
           and not 0xE000 <= c < 0xF900 and c < 0xF0000]
    # Every assigned character that Python knows, between a letter, a space, a number and itself.
    some = cps if n >= 20000 else rng.sample(cps, 2000)
    for i in range(0, len(some), 24):
        out.append("".join(f"a{chr(c)}b {chr(c)}1{chr(c)} {chr(c)}" if c < 0x3400 or c > 0xD7FF else chr(c) for c in some[i:i + 24]))
    pool = [0, 9, 10, 13, 32, 32, 32, 0x85, 0xA0, 0x3000, 0x200B, 0x200D, 0x2581, 0xFEFF, 0x300, 0x301, 0x1F600, 0x130, 0x131]
    specials = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<tool>", "\u2581", "it's", "WE'LL", "123456", "٣٤٥", "   ",
                "\r\n", "\n\n\n", "\t\t", "e\u0301", "한", "ﬁ", "Ⅷ"] + EMOJI
    while len(out) < n:
        kind = rng.randrange(6)
        if kind == 0:
            t = rng.choice(texts)
            i = rng.randrange(max(1, len(t) - 200))
            out.append(t[i:i + rng.randint(1, 200)])
        elif kind == 1:
            t = rng.choice(LANGUAGES)
            i = rng.randrange(len(t))
            out.append(t[i:i + rng.randint(1, 80)] + rng.choice(["", " ", "\n"]) + rng.choice(LANGUAGES)[:rng.randint(0, 30)])
        elif kind == 2:
            out.append("".join(chr(rng.choice(cps)) for _ in range(rng.randint(1, 20))))
        elif kind == 3:
            out.append("".join(chr(rng.choice(pool)) if rng.random() < 0.6 else rng.choice("ab1!'") for _ in range(rng.randint(1, 16))))
        elif kind == 4:
            out.append("".join(rng.choice(specials) + rng.choice(["", " ", "x"]) for _ in range(rng.randint(1, 8))))
        else:
            out.append("".join(chr(rng.randrange(0, 0x250)) for _ in range(rng.randint(1, 30))))
    return out


# ---- the other side ----

class Driver:
    def __init__(self, path):
        self.path = path

    def _run(self, kind, path, mode, payload):
        r = subprocess.run([self.path, kind, path] + mode, input=payload, capture_output=True)
        if r.returncode != 0:
            raise SystemExit(f"{kind} {path} {mode}: {r.stderr.decode(errors='replace')}")
        return r.stdout

    def encode(self, kind, path, texts, flags):
        data = [t.encode() for t in texts]
        out = self._run(kind, path, ["encode"] + flags, b"".join(struct.pack("<I", len(d)) + d for d in data))
        ids, at = [], 0
        for _ in texts:
            (n,) = struct.unpack_from("<I", out, at)
            ids.append(list(struct.unpack_from(f"<{n}i", out, at + 4)))
            at += 4 + 4 * n
        return ids

    def decode(self, kind, path, lists, flags):
        out = self._run(kind, path, ["decode"] + flags,
                        b"".join(struct.pack("<I", len(x)) + struct.pack(f"<{len(x)}i", *x) for x in lists))
        texts, at = [], 0
        for _ in lists:
            (n,) = struct.unpack_from("<I", out, at)
            texts.append(out[at + 4:at + 4 + n].decode())
            at += 4 + n
        return texts


FAILED = []


def compare(name, what, inputs, ours, theirs):
    bad = [i for i in range(len(inputs)) if ours[i] != theirs[i]]
    print(f"{name:28} {what:22} {len(inputs) - len(bad)}/{len(inputs)} equal", flush=True)
    for i in bad[:4]:
        print(f"   input  {inputs[i][:100]!r}\n   ours   {ours[i][:40]!r}\n   theirs {theirs[i][:40]!r}")
    if bad:
        FAILED.append((name, what, len(bad)))


def check_hf(driver, name, tok, texts, work, config=None):
    path = os.path.join(work, name + ".json")
    tok.save(path)
    full = path
    ours = driver.encode("json", full, texts, ["parse"])
    theirs = [e.ids for e in tok.encode_batch(texts, add_special_tokens=False)]
    compare(name, "encode", texts, ours, theirs)
    compare(name, "encode with special", texts[:500], driver.encode("json", full, texts[:500], ["parse", "special"]),
            [e.ids for e in tok.encode_batch(texts[:500], add_special_tokens=True)])
    tok.encode_special_tokens = True
    compare(name, "specials as text", texts, driver.encode("json", full, texts, []),
            [e.ids for e in tok.encode_batch(texts, add_special_tokens=False)])
    tok.encode_special_tokens = False
    for skip in (False, True):
        # Runs of byte pieces that are no text at all are decoded differently on purpose (see tokenizer_decode.c); ids of
        # real texts never hold such runs.
        compare(name, "decode" + (" skip" if skip else ""), theirs, driver.decode("json", full, theirs, ["skip"] if skip else []),
                tok.decode_batch(theirs, skip_special_tokens=skip))


SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def train_bpe(texts, size, pre, alphabet=None, specials=SPECIALS, **model):
    tok = Tokenizer(models.BPE(**model))
    tok.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False,
                                  initial_alphabet=alphabet or [], limit_alphabet=3000)
    tok.train_from_iterator(texts, trainer)
    return tok


def byte_level(texts, size, regexes, **kw):
    steps = [pre_tokenizers.Split(Regex(r), "isolated") if r != "digits" else pre_tokenizers.Digits(individual_digits=True)
             for r in regexes]
    pre = pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok = train_bpe(texts, size, pre, pre_tokenizers.ByteLevel.alphabet(), **kw)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    return tok


def llama_like(texts, size, normalizer=None, pre=None, **flags):
    """Trained with words cut at U+2581, used without cutting, as conversions of SentencePiece models are."""
    words = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex("[\u3001\u3002\uff01\uff0c\n]"), "isolated")])
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    base = train_bpe(texts, size, words, specials=specials)
    state = json.loads(base.to_str())
    vocab = state["model"]["vocab"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["model"]["merges"]]
    # Every way to make a piece, in the order of the pieces.
    by_piece, order = {}, []
    for a, b in merges:
        if a + b not in by_piece:
            by_piece[a + b] = True
            order.append(a + b)
    full = [(p[:i], p[i:]) for p in order for i in range(1, len(p)) if p[:i] in vocab and p[i:] in vocab]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=full, unk_token="<unk>", fuse_unk=flags.get("fuse_unk", True),
                               byte_fallback=flags.get("byte_fallback", True)))
    tok.normalizer = normalizer
    if pre is not None:
        tok.pre_tokenizer = pre
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tok.add_tokens([AddedToken("<tool>", normalized=False)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tok.token_to_id("<s>"))])
    return tok


def llama_trained(texts, size, normalizer, pre=None, **flags):
    """The trainer's own merges: one way to make most pieces, so that scores cannot say what the merges do."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=flags.get("fuse_unk", True), byte_fallback=flags.get("byte_fallback", True),
                               ignore_merges=flags.get("ignore_merges", False)))
    tok.normalizer = normalizer
    if pre is not None:
        tok.pre_tokenizer = pre
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=pieces, show_progress=False, limit_alphabet=500, max_token_length=24)
    tok.train_from_iterator([line[:300] for t in texts for line in t.split("\n")], trainer)
    # The trainer made added tokens of the byte pieces, which they are not.
    state = json.loads(tok.to_str())
    state["added_tokens"] = [a for a in state["added_tokens"] if not a["content"].startswith("<0x")]
    tok = Tokenizer.from_str(json.dumps(state))
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tok.add_tokens([AddedToken("<tool>", normalized=False)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tok.token_to_id("<s>"))])
    return tok


def hf_families(texts, size):
    legacy = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    yield "gpt2", lambda: byte_level(texts, size, [GPT2])
    yield "smollm", lambda: byte_level(texts, size, ["digits", GPT2])

    def llama3():
        tok = byte_level(texts, size, [LLAMA3], ignore_merges=True)
        tok.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tok.token_to_id("<s>"))])])
        return tok
    yield "llama3", llama3

    def qwen2():
        tok = byte_level(texts, size, [QWEN2])
        tok.normalizer = normalizers.NFC()
        tok.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("it's", single_word=True, normalized=True),
                        AddedToken("ﬁ", lstrip=True, rstrip=True, normalized=False)])
        return tok
    yield "qwen2", qwen2
    yield "minicpm5", lambda: byte_level(texts, size, [r"\p{N}{1,3}", MINICPM5])
    yield "qwen35", lambda: byte_level(texts, size, [QWEN35])
    yield "o200k", lambda: byte_level(texts, size, [O200K])

    def prefix_space():
        tok = train_bpe(texts, size, pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.ByteLevel.alphabet())
        tok.decoder = decoders.ByteLevel()
        return tok
    yield "bytelevel-prefix-space", prefix_space
    yield "llama-legacy", lambda: llama_like(texts, size, legacy)
    yield "llama-first", lambda: llama_like(texts, size, None, pre_tokenizers.Metaspace("▁", "first", split=False))
    yield "llama-always-split", lambda: llama_like(texts, size, None, pre_tokenizers.Metaspace("▁", "always", split=True))
    yield "llama-never", lambda: llama_like(texts, size, normalizers.Replace(" ", "▁"))
    yield "llama-unk-fused", lambda: llama_like(texts[:1], size, legacy, byte_fallback=False)
    yield "llama-unk-single", lambda: llama_like(texts[:1], size, legacy, byte_fallback=False, fuse_unk=False)

    some = texts[:1] + texts[-25:]
    yield "llama-trained", lambda: llama_trained(some, size, legacy)
    yield "llama-trained-whole", lambda: llama_trained(some, size, normalizers.Replace(" ", "▁"), ignore_merges=True)
    yield "llama-trained-unk", lambda: llama_trained(some, size, legacy, byte_fallback=False, fuse_unk=False)
    yield "llama-trained-words", lambda: llama_trained(some, size, None, pre_tokenizers.Metaspace())
    yield "llama-trained-first", lambda: llama_trained(some, size, None, pre_tokenizers.Metaspace("▁", "first", split=False))

    def words():
        tok = train_bpe(texts, size, pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(), pre_tokenizers.Punctuation()]),
                        unk_token="<unk>")
        tok.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()])
        return tok
    yield "words", words

    def unigram(norm):
        tok = Tokenizer(models.Unigram())
        tok.pre_tokenizer = pre_tokenizers.Metaspace()
        tok.normalizer = norm
        tok.train_from_iterator(texts[:8] + [texts[-25]], trainers.UnigramTrainer(vocab_size=size, special_tokens=SPECIALS, unk_token="<unk>",
                                                                 show_progress=False))
        tok.decoder = decoders.Metaspace()
        return tok
    yield "unigram", lambda: unigram(normalizers.NFKC())
    for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
        for invert in (False, True):
            def split(b=behavior, i=invert):
                tok = llama_like(texts[:1], 1000, None, pre_tokenizers.Sequence([
                    pre_tokenizers.Split(Regex(r"[0-9aeiou]"), b, invert=i), pre_tokenizers.Split("t", b, invert=i)]))
                return tok
            yield f"split-{behavior}{'-invert' if invert else ''}", split


def check_spm(driver, name, texts, strings_, work, size, **options):
    import sentencepiece as spm
    prefix = os.path.join(work, name)
    lines = [line for t in texts for line in t.split("\n") if line.strip()]
    if not os.path.exists(prefix + ".model"):
        with open(prefix + ".txt", "w", encoding="utf-8") as f:
            f.write("\n".join(line[:2000].replace("\0", "") for line in lines))
        spm.SentencePieceTrainer.train(input=prefix + ".txt", model_prefix=prefix, vocab_size=size, minloglevel=2,
                                       character_coverage=0.995, num_threads=2, input_sentence_size=20000,
                                       shuffle_input_sentence=False, **options)
    sp = spm.SentencePieceProcessor(model_file=prefix + ".model")
    theirs = [sp.encode(s) for s in strings_]
    compare(name, "encode", strings_, driver.encode("spm", prefix + ".model", strings_, []), theirs)
    compare(name, "decode", theirs, driver.decode("spm", prefix + ".model", theirs, []), [sp.decode(t) for t in theirs])
    return prefix + ".model"


SPM = {
    "spm-bpe-bytes": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False),
    "spm-bpe-nmt": dict(model_type="bpe", normalization_rule_name="nmt_nfkc"),
    "spm-bpe-user": dict(model_type="bpe", byte_fallback=True, user_defined_symbols=["<tool>", "it's", "  ", "ﬁ", "abc", "bcd"]),
    "spm-unigram-nmt": dict(model_type="unigram", normalization_rule_name="nmt_nfkc"),
    "spm-unigram-bytes": dict(model_type="unigram", byte_fallback=True, normalization_rule_name="identity",
                              remove_extra_whitespaces=False, user_defined_symbols=["<tool>", "it's", "the"]),
    "spm-unigram-suffix": dict(model_type="unigram", treat_whitespace_as_suffix=True, normalization_rule_name="nfkc_cf"),
}


def gguf_strings(reader, key):
    field = reader.fields[key]
    return [bytes(field.parts[i]).decode() for i in field.data]


def hf_of_gguf(path):
    """The Hugging Face tokenizer that a byte-level GGUF file with pre-tokenizer smollm stands for."""
    from gguf import GGUFReader
    r = GGUFReader(path)
    tokens = gguf_strings(r, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in gguf_strings(r, "tokenizer.ggml.merges")]
    types = [int(r.fields["tokenizer.ggml.token_type"].parts[i][0]) for i in r.fields["tokenizer.ggml.token_type"].data]
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])
    tok.add_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, types) if k == 4])
    return tok


def llama_cpp_ids(path, texts, parse):
    import llama_cpp
    m = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    return [m.tokenize(t.encode(), add_bos=False, special=parse) for t in texts]


def check_written(driver, name, kind, path, texts, work, by_score=True):
    """What sala writes as GGUF must tokenise the same when sala and llama.cpp read it; llama.cpp only if scores do."""
    out = os.path.join(work, name + ".gguf")
    info = driver._run(kind, path, ["info"], b"").decode()
    rows = int(info.split(" ids")[0].split()[-1]) + 7
    driver._run(kind, path, ["gguf", out, str(rows)], b"")
    ours = driver.encode(kind, path, texts, ["parse"])
    compare(name, "written, read by us", texts, driver.encode("gguf", out, texts, ["parse"]), ours)
    # NUL ends a text in llama.cpp's Python binding on some paths, so texts with it are left out.
    clean = [i for i, t in enumerate(texts) if "\0" not in t]
    theirs = llama_cpp_ids(out, [texts[i] for i in clean], True)
    if by_score:
        compare(name, "written, llama.cpp", [texts[i] for i in clean], [ours[i] for i in clean], theirs)
    else:
        same = sum(ours[i] == b for i, b in zip(clean, theirs))
        print(f"{name:28} {'loaded by llama.cpp':22} {same}/{len(clean)} equal, as far as scores can")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("driver")
    p.add_argument("--only", default="")
    p.add_argument("--strings", type=int, default=20000)
    p.add_argument("--size", type=int, default=6000)
    p.add_argument("--gguf")
    p.add_argument("--llama-cpp", action="store_true")
    p.add_argument("--work", default="/tmp/sala-tokenizers")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    texts = corpus()
    many = strings(a.strings, texts)
    driver = Driver(a.driver)
    if a.gguf:
        hf = hf_of_gguf(a.gguf)
        compare("gguf", "encode", many, driver.encode("gguf", a.gguf, many, ["parse"]), [e.ids for e in hf.encode_batch(many)])
        ids = [e.ids for e in hf.encode_batch(many)]
        compare("gguf", "decode", ids, driver.decode("gguf", a.gguf, ids, []), hf.decode_batch(ids, skip_special_tokens=False))
        some = [t for t in many if "\0" not in t][:4000]
        compare("gguf", "encode, llama.cpp", some, driver.encode("gguf", a.gguf, some, ["parse"]), llama_cpp_ids(a.gguf, some, True))
    for name, make in hf_families(texts, a.size):
        if a.only not in name:
            continue
        path = os.path.join(a.work, name + ".json")
        tok = Tokenizer.from_file(path) if os.path.exists(path) else make()
        check_hf(driver, name, tok, many if not name.startswith("split-") else many[:3000], a.work)
        if a.llama_cpp and name in ("gpt2", "smollm", "llama3", "llama-legacy", "llama-never"):
            check_written(driver, name, "json", path, many[-4000:], a.work)
        if a.llama_cpp and name.startswith("llama-trained"):
            check_written(driver, name, "json", path, many[-4000:], a.work, by_score=False)
    for name, options in SPM.items():
        if a.only not in name:
            continue
        path = check_spm(driver, name, texts, many, a.work, a.size, **options)
        if a.llama_cpp and name in ("spm-bpe-bytes",):
            check_written(driver, name, "spm", path, many[-4000:], a.work)
    if FAILED:
        print("different:", FAILED)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
