#!/usr/bin/env bash
# `cmake --install` into an empty prefix, then the example program built against what it left, shared and static, and run
# on a small checkpoint. The answer must be the program's own.
set -eu
case "$(sed -n 's/^SALA_SANITIZE:STRING=//p' "$SALA_BUILD/CMakeCache.txt")" in
    "") ;;
    *) echo "skipped: installed libraries are checked in builds without sanitizers"; exit 77 ;;
esac
work="$SALA_BUILD/install_test"
rm -rf "$work"
mkdir -p "$work"
cmake --install "$SALA_BUILD" --prefix "$work/usr" >"$work/log"
for f in bin/sala include/sala.h share/man/man1/sala.1 share/bash-completion/completions/sala; do
    [ -s "$work/usr/$f" ] || { echo "not installed: $f"; cat "$work/log"; exit 1; }
done
pc=$(find "$work/usr" -name sala.pc)
lib=$(dirname "$(dirname "$pc")")
export PKG_CONFIG_PATH="$lib/pkgconfig"
version=$(pkg-config --modversion sala)
"$work/usr/bin/sala" version | grep -qF "$version" || { echo "pkg-config says $version, the program does not"; exit 1; }

python3 "$SALA_SOURCE/tests/fixtures/make_checkpoint.py" "$work/model" --preset llama-llama3
cc=${CC:-cc}
flags="-std=c11 -Wall -Wextra -Wpedantic -Werror"
# shellcheck disable=SC2046,SC2086
$cc $flags "$SALA_SOURCE/examples/complete.c" $(pkg-config --cflags --libs sala) -o "$work/shared"
# shellcheck disable=SC2046,SC2086
$cc $flags "$SALA_SOURCE/examples/complete.c" $(pkg-config --cflags sala) "$lib/libsala.a" \
    $(pkg-config --libs --static sala | sed 's/-lsala//g') -o "$work/static"
LD_LIBRARY_PATH="$lib" "$work/shared" "$work/model" "hello world" >"$work/a"
"$work/static" "$work/model" "hello world" >"$work/b"
"$work/usr/bin/sala" run "$work/model" -p "hello world" --raw -n 32 --temp 0 -q >"$work/c"
cmp "$work/a" "$work/b"
# The program ends its answer with a newline of its own at most; compare without it.
[ "$(cat "$work/a")" = "$(cat "$work/c")" ] || { echo "the example and the program differ:"; cat "$work/a" "$work/c"; exit 1; }
if LD_LIBRARY_PATH="$lib" "$work/shared" "$work/no-such-model" x >/dev/null 2>"$work/err"; then
    echo "a missing model was not noticed"
    exit 1
fi
grep -q no-such-model "$work/err"
rm -rf "$work"
