#include "model/mixer.h"

const sala_mixer *sala_mixer_get(sala_mixer_kind kind)
{
    switch (kind) {
    case SALA_MIXER_DENSE:
        return &sala_mixer_dense;
    }
    return NULL;
}
