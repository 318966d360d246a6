# Sourced by the tests: a private folder in $work, a small checkpoint in $model, and words to check with.
set -u
name=$(basename "$0" .sh)
work="$SALA_BUILD/cli_$name"
rm -rf "$work"
mkdir -p "$work/home"
cd "$work" || exit 1
export HOME="$work/home" SALA_CACHE="$work/cache" HF_HOME="$work/hf" OLLAMA_MODELS="$work/ollama" TMPDIR="$work"
unset HF_HUB_CACHE HUGGINGFACE_HUB_CACHE XDG_CACHE_HOME
model="$work/model"
failures=0

make_model() { # directory, preset, further options
    python3 "$SALA_SOURCE/tests/fixtures/make_checkpoint.py" "$1" --preset "$2" "${@:3}" || exit 1
}

fail() {
    echo "FAILED: $*"
    [ ! -s out ] || { echo "--- stdout"; head -c 2000 out; echo; }
    [ ! -s err ] || { echo "--- stderr"; head -c 2000 err; }
    failures=$((failures + 1))
}

# expect RC command...: runs it with nothing on standard input; outputs are left in ./out and ./err.
expect() {
    local want=$1 rc=0
    shift
    "$@" >out 2>err </dev/null || rc=$?
    [ $rc -eq "$want" ] || fail "exit code $rc instead of $want: $*"
}
# feed RC TEXT command...: the same with TEXT (printf format) on standard input.
feed() {
    local want=$1 text=$2 rc=0
    shift 2
    # shellcheck disable=SC2059
    printf "$text" | "$@" >out 2>err || rc=$?
    [ $rc -eq "$want" ] || fail "exit code $rc instead of $want: $*"
}
# stops SIGNAL PID: a child that gets the signal ends with exit code 1.
stops() {
    local rc=0
    kill "-$1" "$2"
    wait "$2" || rc=$?
    [ $rc = 1 ] || fail "SIG$1: exit code $rc"
}
has() { grep -qF -- "$2" "$1" || fail "no '$2' in $1"; }
lacks() { ! grep -qF -- "$2" "$1" || fail "'$2' in $1"; }
same() { cmp -s "$1" "$2" || fail "$1 and $2 differ"; }
empty() { [ ! -s "$1" ] || fail "$1 is not empty"; }
# json FILE EXPRESSION: a Python expression over the parsed file, as `j`, must be true.
json() {
    python3 -c 'import json, math, sys
j = json.load(open(sys.argv[1]))
sys.exit(0 if eval(sys.argv[2]) else 1)' "$1" "$2" || fail "$1: not $2"
}
finish() {
    cd "$SALA_BUILD" || exit 1
    [ $failures -eq 0 ] && rm -rf "$work"
    [ $failures -eq 0 ]
    exit
}
