/* Between dist.c and dist_load.c. */
#ifndef SALA_TRAIN_DIST_INTERNAL_H
#define SALA_TRAIN_DIST_INTERNAL_H

#include "train/dist.h"

extern const sala_dist_ops sala_dist_alone;

#endif
