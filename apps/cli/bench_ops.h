/* `sala bench --ops`: every CPU operation beside the limit of the machine that applies to it. */
#ifndef SALA_CLI_BENCH_OPS_H
#define SALA_CLI_BENCH_OPS_H

#include "cli.h"

int cli_bench_ops(const cli_options *o);

#endif
