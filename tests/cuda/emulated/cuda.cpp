// The text of the CUDA sources, compiled for the CPU.
#include "emulated_launch.h"
//
#include "adjoint/adjoint.cu"
#include "adjoint/window.cu"
#include "bgemm/bgemm.cu"
#include "pack/pack.cu"
#include "pack/weights.cu"
#include "pool/pool.cu"
#include "positions/positions.cu"
#include "prepare/prepare.cu"
#include "round/round.cu"
#include "unpack/unpack.cu"
