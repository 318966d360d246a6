#!/bin/sh
# Checks (or with --fix brings about) the layout that .clang-format asks for. Version 14 only: others differ in details.
set -eu
cd "$(dirname "$0")/.."
tool=$(command -v clang-format-14 || true)
if [ -z "$tool" ]; then
    tool=$(command -v clang-format || true)
    case "$("${tool:-false}" --version 2>/dev/null || true)" in
        *"version 14."*) ;;
        *) echo "check-format: clang-format 14 is not installed; run tools/install-deps.sh" >&2; exit 1 ;;
    esac
fi
list=$(git ls-files -co --exclude-standard -- 'include/*.h' 'src/*.[ch]' 'apps/*.[ch]' 'tests/*.[ch]' 'examples/*.[ch]' 2>/dev/null ||
    find include src apps tests examples -name '*.[ch]')
if [ "${1:-}" = --fix ]; then
    printf '%s\n' "$list" | xargs "$tool" -i
else
    printf '%s\n' "$list" | xargs "$tool" --dry-run -Werror
    echo "format: $(printf '%s\n' "$list" | wc -l) files as .clang-format asks"
fi
