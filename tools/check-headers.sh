#!/bin/sh
# Checks that every header compiles on its own, and that the public ones are C++-clean too. Left out: *_impl.h, bodies
# that are included several times.
#   tools/check-headers.sh
set -eu
cd "$(dirname "$0")/.."
cc=${CC:-gcc}
flags="-std=c11 -D_GNU_SOURCE -Isrc -Iinclude -Wall -Wextra -Wpedantic -Werror -fsyntax-only"
flags="$flags $(pkg-config --cflags jansson libpcre2-8 libutf8proc nettle)"
count=0 bad=0
for h in include/*.h src/*/*.h src/*/*/*.h; do
    [ -e "$h" ] || continue
    case "$h" in
        *_impl.h) continue ;; # a body that is included several times with other macros, no interface
        src/*/arm/*) case "$(uname -m)" in aarch64 | arm64) ;; *) continue ;; esac ;;
        src/*/x86/*) case "$(uname -m)" in x86_64) ;; *) continue ;; esac ;;
    esac
    # An ISA header is compiled with the flags that its suffix names.
    isa=
    case "$h" in
        *_avx2.h) isa="-mavx2 -mfma -mf16c -mbmi2" ;;
        *_avx512*.h) isa="-mavx2 -mfma -mf16c -mbmi2 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni" ;;
    esac
    include=${h#src/}
    include=${include#include/}
    count=$((count + 1))
    # shellcheck disable=SC2086
    if ! printf '#include "%s"\ntypedef int sala_not_empty;\n' "$include" | "$cc" $flags $isa -x c -; then
        echo "check-headers: $h does not compile on its own" >&2
        bad=1
    fi
done
if command -v clang++ >/dev/null 2>&1 || command -v clang++-14 >/dev/null 2>&1; then
    cxx=$(command -v clang++ || command -v clang++-14)
    for h in include/*.h; do
        printf 'extern "C++" {}\n#include "%s"\n' "${h#include/}" | "$cxx" -std=c++17 -nostdinc++ -Iinclude -Wall -Wextra \
            -Werror -fsyntax-only -x c++ - || { echo "check-headers: $h is not clean in C++" >&2; bad=1; }
    done
fi
[ $bad -eq 0 ] && echo "headers: $count compile on their own"
exit $bad
