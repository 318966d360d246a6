#!/usr/bin/env bash
# A run that is killed anywhere and started again has the metrics of one that never was; configs that differ are refused;
# what comes out runs.
. "$(dirname "$0")/common.bash"

# A text of its own, so that nothing else needs to be installed.
for i in $(seq 1 6000); do
    echo "Line $i of a text: the quick brown fox number $((i * 7919 % 1000)) jumps over dog $((i * 31 % 97))."
    [ $((i % 20)) -ne 0 ] || echo
done >text.txt
cat >run.yaml <<'YAML'
model:
  tokenizer: bytes
  family: minicpm-sala
  layers: 2
  mixers: [sparse, lightning]
  hidden: 32
  heads: 2
  head_dim: 16
  kv_heads: 1
  feed_forward: 64
  vocab: 264
  mup: {dim_base: 32}
  sparse: "topk=2,window=16,dense-len=32,block=16,init=1,kernel=8,stride=4"
data:
  stages:
    - {steps: 30, seq_len: 64, batch: 4, sources: [{path: text.txt}]}
    - {steps: 30, seq_len: 96, batch: 2, sources: [{path: text.txt}], sparse: "topk=3"}
optimizer: {lr: 0.01}
schedule: {warmup: 4, decay: {steps: 20}}
compute: {precision: f32, threads: 2}
output: {save_every: 5, eval_every: 20, sample_every: 30, prompts: ["Line 1"], gguf: f32, dtype: f32}
YAML
# What a run computes: lines without what time does.
curve() { sed -E 's/,"(tokens_per_second|share_of_peak|seconds)":[^,}]*//g' "$1/metrics.jsonl"; }

expect 0 "$SALA" train run.yaml --out whole
curve whole >want
[ "$(grep -c '"loss"' want)" -ge 60 ] || fail "fewer than 60 steps"
has want '"step":60,"kind":"eval"'
has whole/samples.jsonl '"prompt":"Line 1"'

# Killed at random moments, the first perhaps before the first save.
RANDOM=7
tries=0
while [ $tries -lt 20 ]; do
    tries=$((tries + 1))
    "$SALA" train run.yaml --out killed -q >out 2>err &
    pid=$!
    sleep "0.$((RANDOM % 9))$((RANDOM % 10))"
    kill -9 $pid 2>/dev/null || true
    wait $pid 2>/dev/null && break
done
expect 0 "$SALA" train run.yaml --out killed
curve killed >got
same want got
cmp -s whole/model/model.safetensors killed/model/model.safetensors || fail "weights differ"
# Again: it is done.
expect 0 "$SALA" train run.yaml --out killed
has err "done already"

# Signals save and stop; --stop-at too.
"$SALA" train run.yaml --out signal -q >out 2>err &
pid=$!
for _ in $(seq 200); do [ -s signal/metrics.jsonl ] && break; sleep 0.02; done
kill -TERM $pid
rc=0
wait $pid || rc=$?
[ $rc = 143 ] || [ $rc = 0 ] || fail "SIGTERM: exit code $rc"
expect 0 "$SALA" train run.yaml --out signal --stop-at 33
[ $rc = 0 ] || has err "stopped behind step"
expect 0 "$SALA" train run.yaml --out signal
curve signal >got
same want got

# A damaged save gives way to the one before it, aloud.
cp -r killed damaged
rm -rf damaged/model damaged/model.gguf
head -c 5000 killed/checkpoints/step-000000060/rank-0000.sck >damaged/checkpoints/step-000000060/rank-0000.sck
expect 0 "$SALA" train run.yaml --out damaged
has err "step-000000060 is damaged (rank-0000.sck:"
has err "going on from step 55"
curve damaged >got
same want got
for save in damaged/checkpoints/*; do echo x >"$save/meta.json"; done
expect 1 "$SALA" train run.yaml --out damaged
has err "all saves of"

# Another config is refused with the difference; a longer run whose rates so far are the same goes on.
expect 1 "$SALA" train run.yaml --out whole --set optimizer.lr=0.02
has err "optimizer.lr: 0.01 then, 0.02 now (--set optimizer.lr=0.02)"
expect 0 "$SALA" train run.yaml --out longer --stop-at 35
expect 0 "$SALA" train run.yaml --out longer --steps 70 --stop-at 40
has err "going on from step 35"
expect 0 "$SALA" train run.yaml --out whole --fresh --steps 3 --set output.gguf=none
[ "$(grep -c '"lr"' whole/metrics.jsonl)" = 3 ] || fail "--fresh kept old steps"

# A branch: the decay of another run's stable part.
expect 0 "$SALA" train run.yaml --out branch --branch longer/checkpoints/step-000000040 --set schedule.decay.steps=5
has err "branching from step 40"
head -1 branch/metrics.jsonl >first
has first '"step":41'

# Data of another vocabulary, a config with a typo, no place.
expect 1 "$SALA" train run.yaml --out x --set model.layer=3
has err "nearest is \"model.layers\""
expect 2 "$SALA" train run.yaml
has err "--out"
expect 0 "$SALA" train run.yaml --dry-run
has err "memory"
expect 0 "$SALA" train --keys
has out "optimizer.lr"
expect 0 "$SALA" train plot killed signal -o loss.svg --smooth 5
has loss.svg "<svg"
expect 0 "$SALA" train inspect killed --json
json out 'j["step"] == 60'
rm -rf killed/model
expect 0 "$SALA" train export killed --type q8_0
[ -s killed/model/model.safetensors ] || fail "export wrote no model"

# What came out: directory and GGUF are the same model, and it runs.
"$SALA" tokenize signal/model -p 'Line 12 of a text: the quick brown' --ids >ids
expect 0 "$SALA" logits signal/model --tokens-file ids --out dir.npy
expect 0 "$SALA" logits signal/model.gguf --tokens-file ids --out gguf.npy
cmp -s dir.npy gguf.npy || fail "directory and GGUF give other logits"
expect 0 "$SALA" run signal/model.gguf --raw -p 'Line 12' -n 8 --temp 0
finish
