#!/bin/sh
# Checks that every global symbol that the libraries define starts with sala_, so that they mix with any program.
#   tools/check-symbols.sh BUILD_DIR
set -eu
build=${1:?usage: check-symbols.sh BUILD_DIR}
bad=0
for lib in "$build"/libsala.a "$build"/libsala.so; do
    [ -e "$lib" ] || { echo "check-symbols: $lib is not there; build first" >&2; exit 1; }
    case "$lib" in
        *.so) dynamic=-D ;;
        *) dynamic= ;;
    esac
    # shellcheck disable=SC2086  # nothing or one word
    all=$(nm $dynamic --defined-only --extern-only "$lib" 2>/dev/null | awk 'NF == 3 { print $3 }' | sort -u)
    wrong=$(printf '%s\n' "$all" | grep -v '^sala_' | grep -v -E '^(_init|_fini|__bss_start|_edata|_end)$' || true)
    count=$(printf '%s\n' "$all" | grep -c '^sala_' || true)
    if [ -n "$wrong" ]; then
        echo "check-symbols: $lib defines global symbols without the prefix sala_:" >&2
        printf '%s\n' "$wrong" | sed 's/^/  /' >&2
        bad=1
    elif [ "$count" -eq 0 ]; then
        echo "check-symbols: $lib defines no symbol at all" >&2
        bad=1
    else
        echo "symbols: $count in ${lib##*/}, all with the prefix"
    fi
done
exit $bad
