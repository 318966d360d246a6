#!/usr/bin/env bash
# read and ask: documents in sessions on disk. Kinds of documents, interruption at any moment, what must be refused.
. "$(dirname "$0")/common.bash"
"$SALA" random "$SALA_SOURCE/examples/configs/minicpm-sala-tiny.json" --type q4_0 --out tiny.gguf -q || exit 1
make_model "$model" qwen3
fixed=(--temp 0 -t 1 -q)
# Long enough for several pieces of 64 KiB; the sanitizers, which are ten times slower, read less of it.
case "$(sed -n 's/^SALA_SANITIZE:STRING=//p' "$SALA_BUILD/CMakeCache.txt")" in
"") chapters=60 ;;
*) chapters=18 ;;
esac
CHAPTERS=$chapters python3 - <<'PY'
import os
import random
random.seed(7)
words = [w for w in "the a king river stone went said house unto and of light day under heaven bread seven gate".split()]
with open("book.txt", "w") as f:
    for chapter in range(1, int(os.environ["CHAPTERS"]) + 1):
        f.write(f"Chapter {chapter}\n\n")
        for _ in range(12):
            f.write(" ".join(random.choice(words) for _ in range(14)).capitalize() + ".\n")
        f.write("\n")
PY

# ---- documents ----
show() { expect 0 "$SALA" read "$1" --show-text; }
printf '\xef\xbb\xbfa\r\nb\rc\n\xff\xe2\x82x\0y' >odd.txt
show odd.txt
printf 'a\nb\nc\n\xef\xbf\xbd\xef\xbf\xbdx\xef\xbf\xbdy' >want
same out want
has err "3 characters"
"$SALA" read - --show-text <odd.txt >piped 2>/dev/null
same piped want
python3 -c 'open("wide.txt", "wb").write("héllo\r\nwörld 😀\n".encode("utf-16"))'
show wide.txt
printf 'héllo\nwörld 😀\n' >want
same out want
cat >page.html <<'HTML'
<!DOCTYPE html><html><head><title>A &amp; B</title><style>p{}</style><script>if (a < b) document.write("<p>no</p>")</script></head>
<body><h1>Head   ing</h1><p>One <b>bo</b>ld
caf&eacute;.<p>Two<br>lines<ul><li>first<li>second</ul><pre>  keep
 this</pre><table><tr><td>1<td>2</table><noscript>no</noscript>end</body></html>
HTML
show page.html
printf 'A & B\n\nHead ing\n\nOne bold café.\n\nTwo\nlines\n\n- first\n- second\n\n  keep\n this\n\n1\t2\n\nend' >want
same out want
printf '<html><meta charset="iso-8859-1"><p>caf\xe9 \x93q\x94' >latin.html
show latin.html
printf 'café “q”' >want
same out want
printf '# Title\n\n*text* <b>as it is</b>\n' >note.md
show note.md
same out note.md

# PDF is read by pdftotext, played here by a script; without it the message names the package.
mkdir bin
cat >bin/pdftotext <<'SH'
#!/bin/sh
case $* in *broken*) exit 1 ;; esac
printf 'text of the PDF\n'
SH
chmod +x bin/pdftotext
printf '%%PDF-1.4 whatever\n' >paper.pdf
cp paper.pdf broken.pdf
PATH="$work/bin:$PATH" show paper.pdf
has out "text of the PDF"
PATH="$work/bin:$PATH" expect 1 "$SALA" read broken.pdf --show-text
has err "exit code 1"
PATH=/nonexistent expect 1 "$SALA" read paper.pdf --show-text
has err "poppler-utils"
printf 'PK\3\4' >zip.txt
expect 1 "$SALA" read zip.txt --show-text
has err "ZIP"
expect 1 "$SALA" read nowhere.txt --session s.sala -m tiny.gguf
has err nowhere.txt
expect 1 "$SALA" read . --session s.sala -m tiny.gguf
has err "directory"
: >empty.txt
expect 1 "$SALA" read empty.txt --session s.sala -m tiny.gguf
has err "no text"
expect 2 "$SALA" read book.txt -m tiny.gguf
has err "--session"
[ ! -e s.sala ] || fail "a session that nothing was read into"

# ---- plan ----
expect 0 "$SALA" read book.txt -m tiny.gguf --dry-run
has err "memory for"
has err "tokens"
expect 1 "$SALA" read book.txt -m tiny.gguf --session s.sala -c 900G
has err "cannot fit"
has err "session"
expect 1 "$SALA" read book.txt -m tiny.gguf --session s.sala -c 10
has err "-c"

# ---- the whole in one go, and killed three times on the way ----
expect 0 "$SALA" read book.txt -m tiny.gguf --session whole.sala --json -t 1
json out 'j["document"]["complete"] and j["document"]["sha256"] == __import__("hashlib").sha256(open("book.txt", "rb").read()).hexdigest()'
json out 'j["tokens"] == j["read_tokens"] == j["document"]["tokens"] > 10000'
size() { stat -c %s "$1" 2>/dev/null || echo 0; }
# begin SESSION SAVE_EVERY CHUNK: reads in the background until the session has grown; $pid.
begin() {
    local before
    before=$(size "$1")
    "$SALA" read book.txt -m tiny.gguf --session "$1" --save-every "$2" --chunk "$3" -t 1 >/dev/null 2>err_of_reader &
    pid=$!
    for _ in $(seq 2000); do
        [ "$(size "$1")" -le "$((before + 32768))" ] || break
        sleep 0.01
    done
}
end() { # signal
    kill -"$1" $pid 2>/dev/null
    wait $pid 2>/dev/null
}
# Killed in its very first save, by a limit on the size of files: what it leaves is as good as no session.
(ulimit -f 8; exec "$SALA" read note.md -m tiny.gguf --session first.sala -t 1 -q >/dev/null 2>&1)
[ -s first.sala ] || fail "nothing was written before the limit"
expect 1 "$SALA" ask first.sala "x"
expect 0 "$SALA" read note.md -m tiny.gguf --session first.sala -t 1
expect 0 "$SALA" ask first.sala "x" "${fixed[@]}" -n 2
for _ in 1 2 3; do
    begin killed.sala 256 16
    sleep 0.1
    end 9
done
# Ctrl-C saves first, whatever --save-every says.
begin int.sala 2K 4
end 9
begin int.sala 2K 4
end INT
has err_of_reader "goes on from there"
for s in killed int; do
    expect 0 "$SALA" read book.txt --session $s.sala -t 1
done
ask() { "$SALA" ask "$1" "${@:2}" "${fixed[@]}" --json --logprobs 3 -n 12 --ignore-eos >out 2>err </dev/null || fail "ask $1"; }
strip() { python3 -c 'import json, sys
j = json.load(open("out"))
print({k: v for k, v in j.items() if "seconds" not in k})'; }
ask whole.sala "What did the king say?"
strip >want
json out 'len(j["tokens"]) == 12 and j["question"] == "What did the king say?" and j["session_tokens"] > 10000'
for s in killed int; do
    ask $s.sala "What did the king say?"
    strip >got
    same got want
done

# Read again: nothing to do. Another document: only with --append.
expect 0 "$SALA" read book.txt --session whole.sala
has err "already"
sed 's/Chapter 1$/Chapter I/' book.txt >other.txt
expect 1 "$SALA" read other.txt --session whole.sala
has err "--append"
cp whole.sala two.sala
expect 0 "$SALA" read note.md --session two.sala --append --json
json out 'j["document"]["name"] == "note.md" and j["document"]["behind"] == "gap"'
ask two.sala "What did the king say?"
strip >got
! cmp -s got want || fail "the second document made no difference"

# ---- a document that changed while it was not read to its end ----
begin half.sala 512 16
end 9
cp half.sala keep.sala
expect 1 "$SALA" read other.txt --session half.sala
has err "differs from what was read before byte"
expect 1 "$SALA" read note.md --session half.sala --append
has err "without --append"
expect 1 "$SALA" ask half.sala "x" --keep -t 1
has err "finish reading"
same half.sala keep.sala

# ---- questions ----
expect 0 "$SALA" ask whole.sala "hello" "${fixed[@]}" -n 5 --ignore-eos
cp out one
feed 0 'hello\n\nhello\n' "$SALA" ask whole.sala "${fixed[@]}" -n 5 --ignore-eos
{ cat one; echo; cat one; } >want2
same out want2
expect 0 "$SALA" ask whole.sala "hello" --temp 0 -t 1 -n 5 --ignore-eos
has err "tok/s"
same out one
expect 2 "$SALA" ask whole.sala
has err "question"
# With --keep the next question sees this one; without, the file does not change.
cp whole.sala kept.sala
expect 0 "$SALA" ask kept.sala "hello" "${fixed[@]}" -n 5 --ignore-eos --keep
same out one
! cmp -s kept.sala whole.sala || fail "--keep kept nothing"
cp kept.sala again.sala
ask kept.sala "And then?"
strip >with
ask whole.sala "And then?"
strip >without
! cmp -s with without || fail "the kept exchange made no difference"
same kept.sala again.sala

# ---- what must be refused ----
expect 1 "$SALA" ask nothing.sala "x"
has err nothing.sala
expect 1 "$SALA" ask tiny.gguf "x"
expect 1 "$SALA" read book.txt -m tiny.gguf --session tiny.gguf
"$SALA" random "$SALA_SOURCE/examples/configs/minicpm-sala-tiny.json" --type q8_0 --out second.gguf -q
expect 1 "$SALA" ask whole.sala "x" -m second.gguf
has err "model"
expect 1 "$SALA" ask whole.sala "x" -m "$model"
expect 1 "$SALA" read book.txt --session half.sala --kv q8_0
has err "--kv"
expect 1 "$SALA" read book.txt --session half.sala --sparse off
has err "--sparse"
head -c 8192 whole.sala >short.sala # no table of contents is left, of no save
expect 1 "$SALA" ask short.sala "x"
# Two processes: one reads, the other may not.
begin half.sala 64 1
expect 1 "$SALA" read book.txt --session half.sala
has err "process"
end 9
# Two that ask get along.
"$SALA" ask whole.sala hello "${fixed[@]}" -n 5 --ignore-eos >a &
"$SALA" ask whole.sala hello "${fixed[@]}" -n 5 --ignore-eos >b
wait
same a one
same b one

# ---- a chat model, its template, and what a question looks at ----
expect 0 "$SALA" read note.md -m "$model" --session chat.sala --system "Be brief." --kernels ref
expect 0 "$SALA" ask chat.sala "hello" --temp 0 -q -n 8 --kernels ref
cp out chat
{ cat note.md; printf '\n\nhello'; } >turn
expect 0 "$SALA" run "$model" -f turn --system "Be brief." --temp 0 -q -n 8 --kernels ref
python3 -c 'import sys; a, b = (open(f).read().strip() for f in ("chat", "out")); sys.exit(a != b)' || fail "ask differs from run on the same turn"
expect 0 "$SALA" inspect --attention whole.sala -p "What did the king say?" --plot heat.svg
has out "which blocks of 64 tokens"
has out "all  "
python3 -c 'import xml.dom.minidom as m; m.parse("heat.svg")' || fail "heat.svg is not XML"
expect 0 "$SALA" inspect --attention whole.sala --json
json out 'all(abs(sum(l["shares"]) - 1) < 1e-6 for l in j["layers"]) and len(j["layers"]) == 2 and j["top"][0]["share"] > 0'
expect 1 "$SALA" inspect --attention chat.sala
has err "selects blocks"
finish
