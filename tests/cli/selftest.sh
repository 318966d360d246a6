#!/usr/bin/env bash
# selftest passes, leaves nothing behind, and speaks JSON.
. "$(dirname "$0")/common.bash"
expect 0 "$SALA" selftest
has out "checks passed"
expect 0 "$SALA" selftest --json
json out 'j["ok"] and j["failed"] == 0 and all(c["ok"] for c in j["checks"]) and any(c["group"] == "model" for c in j["checks"])'
[ -z "$(find . -name 'sala-selftest*')" ] || fail "left behind: $(find . -name 'sala-selftest*')"
TMPDIR=/nonexistent expect 1 "$SALA" selftest
finish
