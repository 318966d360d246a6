# sala data: pack, stats, show, and what goes wrong.
. "$(dirname "$0")/common.bash"

printf 'one\n---\ntwo\n---\n---\n' >a.txt
expect 0 "$SALA" data pack a.txt --separator --- --tokenizer bytes -o words --json
json out 'j["documents"] == 2 and j["tokens"] == 10 and j["empty_documents"] == 1'
expect 0 "$SALA" data stats words --json --seq-len 8 --check
json out 'j["documents"] == 2 and j["tokens"] == 10 and j["sources"][0]["path"] == "a.txt" and j["packing"]["sequences"] == 2'
expect 0 "$SALA" data show words 1
has out "two"
has err "document 1 of 2"
expect 0 "$SALA" data show words 0 --json
json out 'j["text"] == "one\n</s>" and j["tokens"][-1] == 257 and j["mask"] == [1] * 5'
expect 1 "$SALA" data show words 2
has err "they go from 0 to 1"
expect 1 "$SALA" data pack a.txt --tokenizer bytes -o words
has err "--force"
expect 0 "$SALA" data pack a.txt --tokenizer bytes -o words --force -q
empty err

# Compressed input, standard input, a model's own tokenizer.
gzip -k a.txt
expect 0 "$SALA" data pack a.txt.gz --separator --- --tokenizer bytes -o gz -q
feed 0 'x\ny\n' "$SALA" data pack - --format lines --tokenizer bytes -o rows --json
json out 'j["documents"] == 2'
make_model "$model" llama-tied
expect 0 "$SALA" data pack a.txt --tokenizer "$model" --no-eos -o tokens -q
expect 0 "$SALA" data show tokens
has out "one"

# Damage.
printf '{"text":"a"}\n{"text":\n{"text":"b"}\n' >bad.jsonl
expect 1 "$SALA" data pack bad.jsonl --tokenizer bytes -o bad
has err "bad.jsonl:2: "
[ ! -e bad ] || fail "left behind: bad"
expect 0 "$SALA" data pack bad.jsonl --tokenizer bytes -o bad --keep-going
has err "skipped: 1 record; the first: bad.jsonl:2: "
head -c 20 a.txt.gz >cut.gz
expect 1 "$SALA" data pack cut.gz --tokenizer bytes -o cut
has err "cut.gz: the file ends after 20 bytes"
printf 'X' | dd of=gz/shard-00000.sts bs=1 seek=4097 conv=notrunc 2>/dev/null
expect 1 "$SALA" data stats gz --check
has err "page 0 of tokens"
truncate -s 5000 gz/shard-00000.sts
expect 1 "$SALA" data stats gz
has err "its header says"
seq 200000 >long.txt
(ulimit -f 100; trap '' XFSZ; "$SALA" data pack long.txt --tokenizer bytes -o full >out 2>err)
[ $? = 1 ] || fail "a full disk: exit code"
has err "shard-00000.sts: could not be written"
[ ! -e full ] || fail "left behind: full"

# Misuse.
expect 2 "$SALA" data pakc
has err "did you mean 'sala data pack'"
expect 2 "$SALA" data pack a.txt -o x
has err "--tokenizer is missing"
expect 2 "$SALA" data pack a.txt --tokenizer bytes
has err "--out is missing"
expect 2 "$SALA" data stats
expect 1 "$SALA" data stats nowhere
has err "nowhere"
finish
