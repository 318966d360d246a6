#!/usr/bin/env bash
# sala run as others call it: one answer on stdout, everything else on stderr, and orderly ends.
. "$(dirname "$0")/common.bash"
make_model "$model" qwen3
greedy=(--temp 0 --kernels ref)

# Only the answer on stdout; the line of timings on stderr.
expect 0 "$SALA" run "$model" -p hello -n 8 "${greedy[@]}"
cp out answer
has err "tok/s"
has err "peak memory"
expect 0 "$SALA" run "$model" -p hello -n 8 "${greedy[@]}" -q
same out answer
empty err
expect 0 "$SALA" run -m "$model" -p hello -n 8 "${greedy[@]}" --json
json out 'j["text"] == open("answer").read() and j["generated_tokens"] == 8 and j["stop"] == "length"'
json out 'j["prompt_tokens"] > 0 and j["peak_rss_bytes"] > 0'
expect 0 "$SALA" run "$model" -p hello -n 0 "${greedy[@]}"
empty out

# The same text from a file, from standard input, in pieces, and through the template by hand.
printf 'hello\n' >prompt.txt
expect 0 "$SALA" run "$model" -f prompt.txt -n 8 "${greedy[@]}"
same out answer
feed 0 'hello\n' "$SALA" run "$model" -n 8 "${greedy[@]}"
same out answer
"$SALA" template "$model" -p hello >rendered
expect 0 "$SALA" run "$model" -p "$(cat rendered)
" --raw -n 8 "${greedy[@]}"
same out answer
expect 0 "$SALA" run "$model" -p "one

two" -n 8 "${greedy[@]}"
cp out joined
feed 0 'one\n' "$SALA" run "$model" -p two -n 8 "${greedy[@]}"
same out joined
for chunk in 1 3; do
    expect 0 "$SALA" run "$model" -p hello -n 8 "${greedy[@]}" --chunk $chunk
    same out answer
done

# Seeds: the same one repeats itself, others differ.
expect 0 "$SALA" run "$model" -p hello -n 24 --temp 2 --top-k 0 --top-p 1 -s 5 --kernels ref
cp out five
expect 0 "$SALA" run "$model" -p hello -n 24 --temp 2 --top-k 0 --top-p 1 -s 5 --kernels ref
same out five
expect 0 "$SALA" run "$model" -p hello -n 24 --temp 2 --top-k 0 --top-p 1 -s 6 --kernels ref
! cmp -s out five || fail "seeds 5 and 6 give the same text"

# Log-probabilities, bias, stop strings.
expect 0 "$SALA" run "$model" -p hello -n 4 "${greedy[@]}" --logprobs 3 --json
json out 'len(j["tokens"]) == 4 and all(len(t["top"]) == 3 and t["top"][0]["id"] == t["id"] and t["logprob"] < 0 for t in j["tokens"])'
first=$(python3 -c 'import json; print(json.load(open("out"))["tokens"][0]["id"])')
expect 0 "$SALA" run "$model" -p hello -n 4 "${greedy[@]}" --logprobs 0 --json --logit-bias "$first-inf"
json out "j['tokens'][0]['id'] != $first and j['tokens'][0]['top'] == []"
expect 0 "$SALA" run "$model" -p hello -n 3 "${greedy[@]}" --logprobs 2
has err logprob
expect 0 "$SALA" run "$model" -p hello -n 40 "${greedy[@]}" --json --ignore-eos
stop=$(python3 -c 'import json; t = json.load(open("out"))["text"]; print(t[len(t) // 2:][:3], end="")')
expect 0 "$SALA" run "$model" -p hello -n 40 "${greedy[@]}" --json --ignore-eos --stop "$stop"
json out 'j["stop"] == "stop"'
STOP=$stop json out '__import__("os").environ["STOP"] not in j["text"]'

# Limits: a small context ends the answer; one beyond the training is a warning; one beyond memory an error.
expect 0 "$SALA" run "$model" -p hello -c 24 "${greedy[@]}" --ignore-eos --json
json out 'j["stop"] == "context" and j["prompt_tokens"] + j["generated_tokens"] in (24, 25)'
expect 1 "$SALA" run "$model" -p "hello hello hello hello" -c 5 "${greedy[@]}"
has err "-c"
expect 0 "$SALA" run "$model" -p hello -c 200 -n 2 "${greedy[@]}"
has err "warning"
expect 1 "$SALA" run "$model" -p hello -c 1000000000000 -n 2 "${greedy[@]}"
has err "memory"
empty out

# A model without a template goes on as raw text, and says so.
cp -r "$model" plain
rm plain/chat_template.jinja 2>/dev/null
python3 - <<'PY'
import json
c = json.load(open("plain/tokenizer_config.json"))
c.pop("chat_template", None)
json.dump(c, open("plain/tokenizer_config.json", "w"))
PY
expect 0 "$SALA" run plain -p hello -n 8 "${greedy[@]}"
has err "no chat template"
cp out raw
expect 0 "$SALA" run plain -p hello -n 8 "${greedy[@]}" --raw
same out raw
lacks err "no chat template"

# Text in the prompt is never a control token in a chat: rendered by hand and recognised, the prompt is shorter.
expect 0 "$SALA" run "$model" -p '<|im_end|>' -n 1 "${greedy[@]}" --json
chat=$(python3 -c 'import json; print(json.load(open("out"))["prompt_tokens"])')
expect 0 "$SALA" run "$model" -p "$("$SALA" template "$model" -p '<|im_end|>')
" -n 1 "${greedy[@]}" --json --raw
json out "j['prompt_tokens'] < $chat"

# Ends: a closed pipe is silent, a full disk is not, SIGINT stops in order; the exit code is 1 each time.
{
    "$SALA" run "$model" -p hello -n 2000 -c 4000 --ignore-eos "${greedy[@]}" 2>err
    echo $? >rc
} | head -c 1 >/dev/null
[ "$(cat rc)" = 1 ] || fail "closed pipe: exit code $(cat rc)"
lacks err "could not write"
if [ -e /dev/full ]; then
    rc=0
    "$SALA" run "$model" -p hello -n 8 "${greedy[@]}" >/dev/full 2>err || rc=$?
    [ $rc = 1 ] || fail "full disk: exit code $rc"
    has err "standard output"
fi
rm -f out # what an earlier command left is no sign that this one has begun
"$SALA" run "$model" -p hello -n -1 -c 200000 --ignore-eos "${greedy[@]}" >out 2>err </dev/null &
pid=$!
for _ in $(seq 100); do [ -s out ] && break; sleep 0.1; done
stops INT $pid
has err "interrupted"
[ -s out ] || fail "nothing was written before SIGINT"

# Bad models.
expect 1 "$SALA" run nothing -p x
has err "nothing"
head -c 3000 "$model/model.safetensors" >short && mkdir cut && cp "$model"/*.json cut && mv short cut/model.safetensors
expect 1 "$SALA" run cut -p x
has err "safetensors"
# -n is a bound: it asks for no memory that is not there.
expect 0 "$SALA" run "$model" -p hello -n 99999999999 "${greedy[@]}" --stop "$(head -c 5 answer)"
# -c 0 is the trained context, as in llama.cpp.
expect 0 "$SALA" run "$model" -p hello -n 8 "${greedy[@]}" -c 0
same out answer
finish
