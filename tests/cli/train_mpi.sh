#!/usr/bin/env bash
# Training in several processes: two are one with the same batch, twice is the same bits, a dead rank is named by the
# others, and the run goes on from its last save.
. "$(dirname "$0")/common.bash"
command -v mpirun >/dev/null && [ -e "$(dirname "$SALA")/libsala_mpi.so" ] || { echo "no mpirun, or no plug-in for it"; exit 77; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_base_warn_component_unused=0
# Open MPI keeps memory of its own until the end; what we leak shows in every other test.
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0"

for i in $(seq 1 3000); do
    echo "Line $i of a text: the quick brown fox number $((i * 7919 % 1000)) jumps over dog $((i * 31 % 97))."
    [ $((i % 20)) -ne 0 ] || echo
done >text.txt
cat >run.yaml <<'YAML'
model: {tokenizer: bytes, family: llama, layers: 2, hidden: 32, heads: 2, feed_forward: 64, vocab: 264}
data:
  stages: [{steps: 20, seq_len: 64, batch: 4, sources: [{path: text.txt}]}]
optimizer: {lr: 0.003}
schedule: {warmup: 4}
compute: {precision: f32, threads: 1}
output: {save_every: 5, gguf: none}
YAML
losses() { sed -nE 's/.*"step":([0-9]+),"loss":([^,]*),"lr".*/\1 \2/p' "$1/metrics.jsonl"; }

expect 0 "$SALA" train run.yaml --out one
expect 0 mpirun -n 2 "$SALA" train run.yaml --out two
expect 0 mpirun -n 2 "$SALA" train run.yaml --out again
losses one >one.txt
losses two >two.txt
losses again >again.txt
same two.txt again.txt
[ "$(wc -l <two.txt)" = 20 ] || fail "two ranks wrote $(wc -l <two.txt) steps"
paste one.txt two.txt | awk '{ d = ($2 - $4) / $2; if (d < 0) d = -d; if (!(d <= 1e-5)) bad = 1 } END { exit bad }' ||
    fail "losses of one and two processes differ by more than 1e-5"
[ -e two/checkpoints/step-000000020/rank-0001.sck ] || fail "the second rank saved nothing"

# A save of two ranks goes on with one, and with three.
expect 0 mpirun -n 2 "$SALA" train run.yaml --out turns --stop-at 7
expect 0 "$SALA" train run.yaml --out turns --stop-at 13
expect 0 mpirun -n 3 "$SALA" train run.yaml --out turns
losses turns >turns.txt
paste one.txt turns.txt | awk '{ d = ($2 - $4) / $2; if (d < 0) d = -d; if (!(d <= 1e-4)) bad = 1 } END { exit bad }' ||
    fail "losses after changes of the number of ranks differ by more than 1e-4"

# A rank is killed: the others say which, and nothing is lost.
mpirun -n 2 "$SALA" train run.yaml --out dies --steps 100000 --set output.save_every=50 >out 2>err &
pid=$!
for _ in $(seq 300); do ls dies/checkpoints/step-*[0-9] >/dev/null 2>&1 && break; sleep 0.05; done
victim=$(pgrep -P "$pid" | tail -1)
kill -9 "$victim"
rc=0
wait $pid || rc=$?
[ $rc -ne 0 ] || fail "a run with a dead rank ended well"
has err "process $victim) is gone"
expect 0 mpirun -n 2 "$SALA" train run.yaml --out dies --steps 100000 --stop-at 1
has err "going on from step"

# An error of one rank ends all.
expect 1 mpirun -n 2 "$SALA" train run.yaml --out one --set optimizer.lr=0.5
has err "optimizer.lr"
finish
