/* What train_dispatch.c chooses from. Later ones of the list overwrite what earlier ones filled in. */
#ifndef SALA_KERNELS_TRAIN_FAMILIES_H
#define SALA_KERNELS_TRAIN_FAMILIES_H

#include "kernels/families.h"
#include "kernels/train_kernels.h"

void sala_train_fill_ref(sala_train_kernels *out);
#if SALA_KERNELS_X86
void sala_train_fill_avx2(sala_train_kernels *out);
void sala_train_fill_avx512(sala_train_kernels *out);
void sala_train_fill_avx512bf16(sala_train_kernels *out);
#elif SALA_KERNELS_ARM
void sala_train_fill_neon(sala_train_kernels *out);
#endif

#endif
