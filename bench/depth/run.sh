#!/usr/bin/env bash
# Speed and memory from an empty session to a million tokens: the hybrid in the 9B and 0.5B shapes, a dense model of 0.5B,
# and the 9B shape with full attention everywhere. Weights are random (the shapes cost what they cost whatever the weights
# are); depths are filled, not read. Writes the tables, the JSON and the chart.
#   MODELS: where the random models are kept (build/bench/models; 12 GB); OUT: where results go (build/bench/depth)
#   DEPTHS, THREADS: as for `sala bench`
set -euo pipefail
cd "$(dirname "$0")/../.."
sala=${SALA:-$PWD/build/release/sala}
models=${MODELS:-build/bench/models} out=${OUT:-build/bench/depth}
depths=${DEPTHS:-0,8K,32K,128K,256K,1M}
mkdir -p "$models" "$out"

# name, config, mixers
make_model() {
    [ -e "$models/$1.gguf" ] || "$sala" random "examples/configs/$2.json" --type q4_0 --mixers "$3" --out "$models/$1.gguf"
}
make_model sala-9b minicpm-sala-9b config
make_model sala-0.5b minicpm-sala-0.5b config
make_model dense-0.5b minicpm4-0.5b dense
make_model full-9b minicpm-sala-9b dense

"$sala" bench "$models"/{sala-9b,sala-0.5b,dense-0.5b,full-9b}.gguf -p 64 -n 16 -d "$depths" --repeat 2 \
    ${THREADS:+-t "$THREADS"} --plot "$out/depth.svg" "$@" | tee "$out/depth.txt"
