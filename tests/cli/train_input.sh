#!/usr/bin/env bash
# Training that meets trouble: loss spikes, full disks, wrong data and configs, signals; and starts from other models.
. "$(dirname "$0")/common.bash"

# A text that is learned quickly, with a piece of noise in the middle.
sentence='The quick brown fox jumps over the lazy dog while the cat sleeps.'
for i in $(seq 1 1200); do
    echo "$sentence"
    [ $((i % 20)) -ne 0 ] || echo
    if [ $i = 600 ]; then
        for k in $(seq 1 8); do printf '%s' $k | sha512sum | cut -c1-100 | tr -d '\n' | tr 'a-f0-9' 'QZ~@#%^&*XJKVWYP'; done
        printf '\n\n'
    fi
done >text.txt
cat >run.yaml <<'YAML'
model: {tokenizer: bytes, family: llama, layers: 1, hidden: 32, heads: 2, feed_forward: 64, vocab: 264}
data:
  packing: stream
  validation: {path: null}
  stages: [{steps: 250, seq_len: 128, batch: 4, sources: [{path: text.txt}]}]
optimizer: {lr: 0.01}
schedule: {warmup: 4, decay: {steps: 30}}
guards: {window: 16, spike_z: 50, patience: 1}
compute: {precision: f32, threads: 1}
output: {save_every: 5, keep_last: 10, gguf: none, tensorboard: false}
YAML
curve() { sed -E 's/,"(tokens_per_second|share_of_peak|seconds)":[^,}]*//g' "$1/metrics.jsonl"; }
# steps_of DIR N: every step from 1 to N is there once.
steps_of() {
    sed -nE 's/^\{"step":([0-9]+),"loss".*/\1/p' "$1/metrics.jsonl" >steps
    seq 1 "$2" >want_steps
    same steps want_steps
}

# ---- a spike: the run goes back and passes the data over, and does so again after being killed anywhere ----
expect 0 "$SALA" train run.yaml --out spike
has err "the loss jumped; going back from step"
has err "(1 of 3 times)"
has spike/metrics.jsonl '"kind":"rewind"'
steps_of spike 250
curve spike >want
RANDOM=11
for i in $(seq 20); do
    "$SALA" train run.yaml --out killed -q >out 2>err &
    pid=$!
    sleep "0.$((RANDOM % 3))$((RANDOM % 10))"
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null && break
done
expect 0 "$SALA" train run.yaml --out killed
curve killed >got
same want got
expect 0 "$SALA" train inspect killed --json
json out 'j["rewinds"] == 1'
# Where it does not help the run ends, and ends again: the count is in the save.
expect 1 "$SALA" train run.yaml --out hopeless --set guards.spike_z=0.0001 --set guards.window=4
has err "the loss jumps again after 3 times of going back; the last save is step"
[ "$(grep -c '"kind":"rewind"' hopeless/metrics.jsonl)" -le 3 ] || fail "more than 3 rewinds"
expect 1 "$SALA" train run.yaml --out hopeless --set guards.spike_z=0.0001 --set guards.window=4
has err "the loss jumps again after 3 times"
# A run that has no save yet goes on.
expect 0 "$SALA" train run.yaml --out none --steps 10 --set guards.spike_z=0.0001 --set guards.window=4 \
    --set output.save_every=0 --set optimizer.lr=0 --set schedule.decay.steps=0
has err "there is no save to go back to; going on"
sed -i 's/spike_z: 50/spike_z: 0/' run.yaml

# ---- no room: saving fails aloud, the run goes on, the last save decides ----
expect 0 "$SALA" train run.yaml --out room
curve room >want
expect 0 "$SALA" train run.yaml --out full --stop-at 1
(ulimit -f 150; trap '' XFSZ; exec "$SALA" train run.yaml --out full) >out 2>err </dev/null
[ $? = 1 ] || fail "a full disk: exit code"
has err "step 5 could not be saved"
has err "the run goes on and tries again"
has err "sala train: the last save, of step 250: "
[ "$(ls full/checkpoints)" = step-000000001 ] || fail "a failed save left $(ls full/checkpoints)"
expect 0 "$SALA" train run.yaml --out full
has err "going on from step 1"
curve full >got
same want got
# The same on a disk of its own that is really full, metrics included, and has room again later.
if unshare -rm true 2>/dev/null; then
    mkdir disk
    cat >small_disk.sh <<'SH'
mount -t tmpfs -o size=8m tmpfs disk || exit 77
"$SALA" train run.yaml --out disk/run --steps 800 --stop-at 1 -q
cat /dev/zero >disk/filler 2>/dev/null
"$SALA" train run.yaml --out disk/run --steps 800 >disk_out 2>disk_err &
pid=$!
for _ in $(seq 3000); do grep -q "wait in memory" disk_err && break; sleep 0.02; done
rm disk/filler
wait $pid
echo $? >disk_rc
cp -r disk/run on_disk
SH
    if unshare -rm bash small_disk.sh >out 2>err; then
        cp disk_err err
        [ "$(cat disk_rc)" = 0 ] || fail "a disk that had room again: exit code $(cat disk_rc)"
        has err "metrics can not be written (No space left on device); they wait in memory"
        has err "metrics are written again"
        steps_of on_disk 800
    fi
fi

# ---- signals save and end as signals do; one run at a time ----
for sig in TERM INT; do
    "$SALA" train run.yaml --out signal$sig --steps 100000 --set schedule.warmup=4 -q >out 2>err &
    pid=$!
    for _ in $(seq 400); do [ -s signal$sig/metrics.jsonl ] && break; sleep 0.01; done
    expect 1 "$SALA" train run.yaml --out signal$sig --steps 100000
    has err "process $pid trains in"
    kill -$sig $pid
    rc=0
    wait $pid || rc=$?
    [ $rc = $((128 + $(kill -l $sig))) ] || fail "SIG$sig: exit code $rc"
    step=$(tail -1 signal$sig/metrics.jsonl | sed -E 's/.*"step":([0-9]+).*/\1/')
    expect 0 "$SALA" train run.yaml --out signal$sig --steps 100000 --stop-at 1
    has err "going on from step $step"
done

# ---- done is done; what is missing is written again; --fresh starts over ----
expect 0 "$SALA" train run.yaml --out room
has err "all 250 steps are done already"
lacks err "wrote"
expect 1 "$SALA" train run.yaml --out room --steps 300
has err "Its steps from 221 on had a falling learning rate; to go on from before them, use another --out and --branch room/checkpoints/step-000000220"
[ -e room/checkpoints/step-000000220 ] || fail "the save to branch from is not there"
rm -r room/model
expect 0 "$SALA" train run.yaml --out room
has err "wrote room/model"
expect 0 "$SALA" train run.yaml --out room --fresh --stop-at 3
lacks err "going on"
steps_of room 3

# ---- what moves numbers stays as it was, what auto came to included ----
has room/checkpoints/step-000000003/meta.json 'compute.rows_per_pass: 2048'
expect 1 "$SALA" train run.yaml --out room --set compute.rows_per_pass=256
has err "compute.rows_per_pass: 2048 then, 256 now (--set compute.rows_per_pass=256)"
expect 0 "$SALA" train run.yaml --out room --set compute.rows_per_pass=2048 --stop-at 4
expect 1 "$SALA" train run.yaml --out room --set optimizer.lr=0.03
has err "room holds a run with another config: optimizer.lr: 0.01 then, 0.03 now (--set optimizer.lr=0.03). Use another --out, or --fresh"
sed 's/lr: 0.01/lr: 0.01, clip: 2/' run.yaml >clip.yaml
expect 1 "$SALA" train clip.yaml --out room
has err "optimizer.clip: 1 then, 2 now (clip.yaml:6:23)"
cp text.txt other.txt
echo "One line more." >>other.txt
sed 's/text.txt/other.txt/' run.yaml >other.yaml
expect 1 "$SALA" train other.yaml --out room
has err "data.stages.0.sources.0.path"
expect 0 "$SALA" train run.yaml --out room -t 2 --stop-at 5 --set output.log_every=7 --set output.keep_last=2
# In bf16 what is made again has other bits, and belongs to the run too.
if "$SALA" version | grep -q avx512bf16 || grep -q avx512_bf16 /proc/cpuinfo 2>/dev/null; then
    expect 0 "$SALA" train run.yaml --out half --set compute.precision=bf16 --stop-at 2
    has half/checkpoints/step-000000002/meta.json 'compute.recompute: none'
    expect 1 "$SALA" train run.yaml --out half --set compute.precision=bf16 --set compute.recompute=layer
    has err "compute.recompute: none then, layer now"
    expect 1 "$SALA" train run.yaml --out half
    has err "compute.precision: bf16 then, f32 now"
fi

# ---- configs ----
sed 's/optimizer:/optimiser:/' run.yaml >typo.yaml
expect 1 "$SALA" train typo.yaml --out x
has err 'typo.yaml:6:1: there is no key "optimiser"; the nearest is "optimizer"'
sed 's/warmup: 4/warmpu: 4/' run.yaml >typo.yaml
expect 1 "$SALA" train typo.yaml --out x
has err 'typo.yaml:7:12: there is no key "schedule.warmpu"; the nearest is "schedule.warmup"'
sed 's/seq_len: 128/seq_len: many/' run.yaml >typo.yaml
expect 1 "$SALA" train typo.yaml --out x
has err 'typo.yaml:5:'
has err 'data.stages.0.seq_len is "many"; expected a whole number >= 2'
printf 'model: {\n' >torn.yaml
expect 1 "$SALA" train torn.yaml --out x
has err "torn.yaml:2"
expect 1 "$SALA" train nowhere.yaml --out x
has err "nowhere.yaml"
expect 1 "$SALA" train run.yaml --out missing --set data.stages.0.sources.0.path=nothing.txt
has err "nothing.txt: no directory of shards, and no file"
[ ! -e missing ] || fail "a source that is not there left a directory behind"
expect 1 "$SALA" train run.yaml --dry-run --set data.stages.0.sources.0.path=nothing.txt
has err "nothing.txt: no directory of shards, and no file"
expect 1 "$SALA" train run.yaml --out x --set compute.memory=1M
has err "training needs at least"
expect 0 "$SALA" train run.yaml --dry-run --json
json out 'j["dry_run"] and j["steps"] == 250 and j["tokens"] == 250 * 128 * 4 and j["parameters"] > 264 * 32'
json out 'all(0 < v < s["memory"]["total"] for s in j["stages"] for k, v in s["memory"].items() if k not in ("total", "packs"))'
json out 'all(sum(v for k, v in s["memory"].items() if k != "total") == s["memory"]["total"] for s in j["stages"])'
sed 's/family: llama/family: minicpm, mup: {dim_base: 64}/' run.yaml >narrow.yaml
expect 0 "$SALA" train narrow.yaml --dry-run
has err "hint: model.hidden 32 is below model.mup.dim_base 64"
expect 0 "$SALA" train run.yaml --dry-run
lacks err "hint"
[ ! -e x/checkpoints ] || fail "a refused config began a run"

# ---- starting from a model: what is loaded is what inference computes ----
cat >config.json <<'JSON'
{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":264,"hidden_size":64,"intermediate_size":96,
 "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":256,"rms_norm_eps":1e-6,
 "rope_theta":10000,"hidden_act":"silu","tie_word_embeddings":false,"bos_token_id":256,"eos_token_id":257}
JSON
cat >fine.yaml <<'YAML'
data:
  validation: {path: null}
  stages: [{steps: 1, seq_len: 128, batch: 2, sources: [{path: text.txt}]}]
optimizer: {lr: 0, clip: 0}
compute: {precision: f32, threads: 1}
output: {sample_every: 1, prompts: ["The quick"], dtype: f32, gguf: f32}
YAML
for type in f32 q8_0 q4_k_m; do
    expect 0 "$SALA" random config.json from-$type.gguf --type $type -q
done
expect 0 "$SALA" convert from-f32.gguf from-dir -q
"$SALA" tokenize from-dir -p "$sentence" --ids >ids
for from in from-f32.gguf from-q8_0.gguf from-q4_k_m.gguf from-dir; do
    expect 0 "$SALA" train fine.yaml --out "of-$from" --set model.from=$from
    for result in model model.gguf; do
        expect 0 "$SALA" logits "of-$from/$result" --tokens-file ids --out now.npy
        expect 0 "$SALA" logits $from --tokens-file ids --out then.npy
        python3 - <<'PY' || fail "logits of of-$from/$result are not those of $from"
import struct, sys
def read(name):
    data = open(name, "rb").read()
    start = 10 + struct.unpack("<H", data[8:10])[0]
    return struct.unpack("<%df" % ((len(data) - start) // 4), data[start:])
a, b = read("now.npy"), read("then.npy")
far, size = max(abs(x - y) for x, y in zip(a, b)), max(map(abs, b))
print("largest difference %g of %g" % (far, size))
sys.exit(0 if len(a) == len(b) and size > 0 and far <= 1e-5 * size else 1)
PY
    done
    # The same text from the training pass and from inference.
    expect 0 "$SALA" run $from --raw -p "The quick" -n 64 --temp 0 --kernels ref -q
    cp out text.run
    python3 - "of-$from/samples.jsonl" text.run <<'PY' || fail "sample of $from"
import json, sys
sample = json.loads(open(sys.argv[1], encoding="utf-8").readline())["text"]
text = open(sys.argv[2], encoding="utf-8", errors="replace").read()
strip = lambda s: s.replace("\ufffd", "").strip()
sys.exit(0 if strip(sample)[:40] and strip(text).startswith(strip(sample)[:40]) else print(repr(sample), repr(text)) or 1)
PY
done

# ---- data of another vocabulary ----
expect 0 "$SALA" data pack text.txt --tokenizer bytes -o packed -q
make_model "$model" llama-tied
expect 1 "$SALA" train fine.yaml --out x --set model.from="$model" --set data.stages.0.sources.0.path=packed
has err "packed: the shards were packed with another tokenizer"
expect 1 "$SALA" train fine.yaml --dry-run --set model.from="$model" --set data.stages.0.sources.0.path=packed
has err "another tokenizer"
expect 1 "$SALA" train fine.yaml --out x --set model.from=text.txt
has err "model.from"

# ---- models by the names of 'sala list', as other verbs take them ----
mkdir -p "$SALA_CACHE/models"
cp from-f32.gguf "$SALA_CACHE/models/named.gguf"
expect 0 "$SALA" train fine.yaml --dry-run --set model.from=named.gguf
expect 1 "$SALA" train fine.yaml --dry-run --set model.from=unnamed
has err "unnamed"

# ---- a damaged shard ends the run before a step learns from it ----
cp -r packed bad
printf 'X' | dd of=bad/shard-00000.sts bs=1 seek=4200 conv=notrunc 2>/dev/null
expect 1 "$SALA" train run.yaml --out y --set data.stages.0.sources.0.path=bad
has err "bad/shard-00000.sts"
finish
