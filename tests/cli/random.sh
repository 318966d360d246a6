#!/usr/bin/env bash
# random: models out of a shape; and hybrid models through inspect, convert, quantize and export.
. "$(dirname "$0")/common.bash"
configs="$SALA_SOURCE/examples/configs"
tiny="$configs/minicpm-sala-tiny.json"

expect 0 "$SALA" random "$tiny" --type q4_0 --out a.gguf
has err "random weights, Q4_0"
empty out
expect 0 "$SALA" random "$tiny" b.gguf --type q4_0 --seed 0 --json
json out 'j["weights"] == 484992 and j["out_bytes"] > 0 and j["seed"] == 0'
same a.gguf b.gguf
expect 0 "$SALA" random "$tiny" --type q4_0 --seed 1 --out c.gguf -q
empty err
cmp -s a.gguf c.gguf && fail "another seed writes the same file"

# Texts of any bytes come back; the model runs.
feed 0 'A text\nwith \303\244, \xf0\x9f\x98\x80 and\ttabs' "$SALA" tokenize a.gguf --ids
mv out ids
expect 0 "$SALA" detokenize a.gguf -f ids
printf 'A text\nwith \303\244, \xf0\x9f\x98\x80 and\ttabs' >want
head -c "$(wc -c <want)" out >got
same got want
expect 0 "$SALA" run a.gguf -p "hello" -n 8 -q
expect 0 "$SALA" template a.gguf -p "hello"
has out "<|im_start|>user"

expect 0 "$SALA" inspect a.gguf
has out "mixers       S LLLL S LL (S sparse, L lightning)"
has out "lightning    4 heads of 16"
has out "1M"
expect 0 "$SALA" inspect a.gguf --json -c 64K
json out 'j["mixers"]["layers"].count("lightning") == 6 and j["mixers"]["sparse"]["selected_blocks"] == 96'
json out '[k["kv_type"] for k in j["memory"]["table"]] == ["f16", "q8_0", "q4", "f32"]'
json out '[a["tokens"] for a in j["memory"]["table"][0]["at"]] == [32768, 262144, 1048576]'
json out 'j["memory"]["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 2 and j["memory"]["linear_state_bytes"] == 6 * 4 * 16 * 16 * 4'
json out 'j["memory"]["kv_bytes"] == 65536 * j["memory"]["kv_bytes_per_token"]'
json out 'j["memory"]["session_bytes"] == j["memory"]["kv_bytes"] + j["memory"]["compressed_bytes"] + j["memory"]["linear_bytes"]'

# A shape alone tells what the model would take.
expect 0 "$SALA" inspect "$configs/minicpm-sala-9b.json" --json
json out 'j["parameters"] == 9477203968 and j["memory"]["kv_bytes_per_token"] == 8192'
json out 'j["memory"]["compressed_bytes_per_token"] == 320 and j["memory"]["linear_state_bytes"] == 48 << 20'
expect 0 "$SALA" inspect "$configs/minicpm4-8b.json"
has out "configuration without weights"

# Kinds and numbers of layers.
expect 0 "$SALA" random "$tiny" --mixers dense --layers 3 --out dense.gguf -q
expect 0 "$SALA" inspect dense.gguf --json
json out 'j["shape"]["layers"] == 3 and "mixers" not in j'
expect 0 "$SALA" random "$configs/minicpm4-0.5b.json" --mixers sparse --layers 1 --type f16 --out sparse.gguf -q
expect 0 "$SALA" inspect sparse.gguf
has out "mixers       S (S sparse)"
expect 0 "$SALA" random "$tiny" --tokenizer a.gguf --type f32 --out f32.gguf -q

# There and back again.
expect 0 "$SALA" export f32.gguf --type f32 --out hf
expect 0 "$SALA" convert hf --type f32 --out back.gguf
"$SALA" logits f32.gguf --text "some words" --out 1.npy -q
"$SALA" logits hf --text "some words" --out 2.npy -q
"$SALA" logits back.gguf --text "some words" --out 3.npy -q
same 1.npy 2.npy
same 1.npy 3.npy
expect 0 "$SALA" quantize hf --type q8_0 --out q8.gguf
expect 0 "$SALA" run q8.gguf -p "hello" -n 4 -q

# So few of the tokens are used that the exported vocabulary is mostly holes.
python3 -c 'import json, sys
c = json.load(open(sys.argv[1])); c["vocab_size"], c["eos_token_id"] = 73448, [2, 73440]
json.dump(c, open("wide.json", "w"))' "$tiny"
expect 0 "$SALA" random wide.json --type bf16 --out wide.gguf -q
expect 0 "$SALA" export wide.gguf --type bf16 --out wide
json wide/tokenizer.json 'len(j["model"]["vocab"]) == 260 and max(j["model"]["vocab"].values()) == 73440'
expect 0 "$SALA" bench wide -p 4 -n 2 -t 1
expect 0 "$SALA" tokenize wide.gguf -p "hello <|im_end|>" --ids
mv out ids
expect 0 "$SALA" tokenize wide -p "hello <|im_end|>" --ids
same out ids

# A list of layers that is not that of the tensors.
python3 -c 'import json
c = json.load(open("hf/config.json")); c["mixer_types"][5] = "lightning-attn"; json.dump(c, open("hf/config.json", "w"))'
expect 1 "$SALA" convert hf --type f32 --out bad.gguf
has err "model.layers.5.self_attn."
has err "linear"
expect 1 "$SALA" inspect hf
has err "layer 5 is a lightning one"
expect 1 "$SALA" run hf -p hello -n 1
python3 -c 'import json
c = json.load(open("hf/config.json")); c["mixer_types"][5] = "lightening"; json.dump(c, open("hf/config.json", "w"))'
expect 1 "$SALA" convert hf --type f32 --out bad.gguf
has err 'nearest: "lightning"'

# Misuse and mistakes leave nothing.
expect 2 "$SALA" random "$tiny" --type q4_0
has err "--out"
expect 2 "$SALA" random "$tiny" --type q9_0 --out bad.gguf
expect 2 "$SALA" random "$tiny" --mixers sparce --out bad.gguf
expect 1 "$SALA" random missing.json --out bad.gguf
has err "missing.json"
expect 1 "$SALA" random "$tiny" --tokenizer missing.gguf --out bad.gguf
expect 0 "$SALA" random "$tiny" --dry-run --out bad.gguf
ls bad.gguf* >/dev/null 2>&1 && fail "something was left behind"
finish
