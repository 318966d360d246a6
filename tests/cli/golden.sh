#!/usr/bin/env bash
# Transcripts: each golden/*.t holds comments and, indented by two blanks, commands behind "$ " with what they print on
# both outputs and their exit code in brackets when it is not 0. "$MODEL" is a small checkpoint of a fixed seed.
# UPDATE=1 rewrites the files instead of comparing; read the difference before committing it.
set -u
here="$SALA_SOURCE/tests/cli/golden"
work="$SALA_BUILD/cli_golden"
rm -rf "$work"
mkdir -p "$work/run" "$work/tmp"
python3 "$SALA_SOURCE/tests/fixtures/make_checkpoint.py" "$work/run/model" --preset qwen3 || exit 1
export SALA_CACHE="$work/cache" HF_HOME="$work/hf" OLLAMA_MODELS="$work/ollama" HOME="$work" TMPDIR="$work/tmp"
unset HF_HUB_CACHE HUGGINGFACE_HUB_CACHE XDG_CACHE_HOME
MODEL=model
sala() { "$SALA" "$@"; }

play() {
    local line out rc
    while IFS= read -r line; do
        case $line in
        '  $ '*)
            printf '%s\n' "$line"
            out=$(
                eval "${line#'  $ '}" 2>&1 </dev/null
                printf '\n[%d]' $?
            )
            rc=${out##*$'\n'}
            out=${out%$'\n'*}
            # A newline at the end is the rule; its absence is shown.
            if [ -n "$out" ] && [ "${out: -1}" != $'\n' ]; then out+=' (no newline)'; else out=${out%$'\n'}; fi
            [ -z "$out" ] || sed "s|$work|WORK|g; s/^/  /" <<<"$out"
            [ "$rc" = '[0]' ] || printf '  %s\n' "$rc"
            ;;
        '  '*) ;;
        *) printf '%s\n' "$line" ;;
        esac
    done
}

failed=0
cd "$work/run" || exit 1
for t in "$here"/*.t; do
    name=$(basename "$t")
    play <"$t" >"$work/$name"
    if [ "${UPDATE:-}" = 1 ]; then
        cp "$work/$name" "$t"
    elif ! diff -u "$t" "$work/$name"; then
        failed=1
    fi
done
[ $failed = 0 ] && rm -rf "$work"
exit $failed
