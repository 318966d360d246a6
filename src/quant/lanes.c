/* The portable instance of the passes, and the choice between the instances. */
#define LANE_OPS sala_lane_ops_plain
#include "quant/lanes_body.h"

#include "os/os.h"

const sala_lane_ops *sala_lane_ops_get(void)
{
#if defined(__x86_64__)
    if (sala_os_cpu_features() & SALA_CPU_AVX2)
        return &sala_lane_ops_avx2;
#endif
    return &sala_lane_ops_plain;
}
