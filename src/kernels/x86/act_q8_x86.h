/* Quantisation of activations (see act_q8.h), declared for the panel kernels. All variants give the same bits. */
#ifndef SALA_KERNELS_X86_ACT_Q8_X86_H
#define SALA_KERNELS_X86_ACT_Q8_X86_H

#include "kernels/act_q8.h"

extern const sala_act_format sala_act_q8_avx2;

#endif
