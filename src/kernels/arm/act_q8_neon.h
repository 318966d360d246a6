/* Quantisation of activations (see act_q8.h), declared for the panel kernels. */
#ifndef SALA_KERNELS_ARM_ACT_Q8_NEON_H
#define SALA_KERNELS_ARM_ACT_Q8_NEON_H

#include "kernels/act_q8.h"

extern const sala_act_format sala_act_q8_neon;

#endif
