/* The number that activations, gradients and parameters are made of: f32. The double build (tests/grad) compiles
 * model/layer.c, the mixers and grad/ a second time with SALA_TRAIN_F64, to compare derivatives with more digits than
 * f32 has. */
#ifndef SALA_TENSOR_NUM_H
#define SALA_TENSOR_NUM_H

#ifdef SALA_TRAIN_F64
typedef double sala_num;
#else
typedef float sala_num;
#endif

#endif
