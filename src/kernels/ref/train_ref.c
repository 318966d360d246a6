/* The reference table of train_kernels.h. Compiled with SALA_TRAIN_F64 it is the double one, which has no families to
 * choose from and comes with its own sala_train_kernels_get(). */
#include "kernels/ref/train_impl.h"

#ifdef SALA_TRAIN_F64

bool sala_train_kernels_get(sala_train_kernels *out, const char *name, uint32_t cpu)
{
    (void)cpu;
    if (name && strcmp(name, "auto") != 0 && strcmp(name, "ref") != 0)
        return false;
    train_ref_fill(out);
    return true;
}

#else

#include "kernels/train_families.h"

void sala_train_fill_ref(sala_train_kernels *out)
{
    train_ref_fill(out);
}

#endif
