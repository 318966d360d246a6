/* The reference family once more: same source, same bits, wider registers. */
#define REF_NAME(name) name##_ref_avx512
#define REF_SUFFIX "_avx512"
#define REF_NEED SALA_CPU_AVX512
#include "kernels/families.h"
#include "kernels/ref/ref_impl.h"
