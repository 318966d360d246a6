/* The passes of lanes.h for AVX2; only ever called on CPUs that have it. */
#define LANE_OPS sala_lane_ops_avx2
#include "quant/lanes_body.h"
