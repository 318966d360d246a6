#!/bin/sh
# The table of gradient checks, as Markdown: for each operation and each model family the relative L2 distance of the gradient that
# came nearest to its limit, over doubles, floats and in bf16 (the worst kind of kernels of each). Usage: table.sh BUILD-DIR
set -e
dir=${1:?usage: table.sh BUILD-DIR}
for name in vectors models; do
    for number in f64 f32; do
        "$dir/test_grad_${name}_$number" 2>/dev/null | sed -n "s/^gradient/$name/p"
    done
done | awk -F '\t' '
    # fields: vectors or models, subject, numbers, kind, off, limit, worst gradient
    $3 == "f64" && $4 != "ref" { $3 = "f64 of bf16" }
    $1 == "vectors" && $3 == "f64 of bf16" { next }
    {
        if (!($2 in seen)) { seen[$2] = 1; order[++n] = $2; part[$2] = $1 }
        key = $2 SUBSEP $3
        if (!(key in off) || $5 / $6 > off[key] / limit[key]) { off[key] = $5; limit[key] = $6 }
    }
    function cell(subject, numbers,    key) {
        key = subject SUBSEP numbers
        return key in off ? sprintf("%s (%s)", off[key], limit[key]) : "-"
    }
    END {
        print "| operation or model | double | float | bf16 | bf16, sums in double |"
        print "|---|---|---|---|---|"
        for (i = 1; i <= n; i++) {
            s = order[i]
            printf "| %s | %s | %s | %s | %s |\n", s, cell(s, "f64"), cell(s, "f32"), cell(s, "bf16"), cell(s, "f64 of bf16")
        }
    }'
