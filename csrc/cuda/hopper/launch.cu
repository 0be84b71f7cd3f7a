#include <cuda_runtime.h>

#include "epilogue.cuh"
#include "hopper.h"

namespace abcfx_hopper {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

/// The driver's encoder, found at run time: nothing here links against libcuda.
Encode find_encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
  const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
  return error == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(found) : nullptr;
}

bool encode(CUtensorMap* out, const void* data, const Map& m) {
  static const Encode encoder = find_encoder();
  return encoder && encoder(out, CU_TENSOR_MAP_DATA_TYPE_UINT8, 5, const_cast<void*>(data), m.dims, m.strides, m.box,
                            m.steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class S, class T>
int launch(const abcfx_cuda_bgemm_args& t, cudaStream_t stream) {
  const Problem problem = problem_of(t, S::cols);
  CUtensorMap a, w;
  if (!encode(&a, t.a, map_of_a(t, problem.space.box, S::N)) || !encode(&w, t.w, map_of_w(t, S::cols, S::M)))
    return ABCFX_UNSUPPORTED;
  int device = 0, processors = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess ||
      cudaFuncSetAttribute(hopper_bgemm<S, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(S::shared_bytes)) !=
          cudaSuccess)
    return ABCFX_CUDA_FAILED;
  const int tiles = tile_count(problem.space);
  const unsigned blocks = unsigned(tiles < processors ? tiles : processors);
  hopper_bgemm<S, T><<<blocks, kThreads, S::shared_bytes, stream>>>(a, w, problem);
  return cudaGetLastError() == cudaSuccess ? int(ABCFX_OK) : int(ABCFX_CUDA_FAILED);
}

template <class S>
int launch_typed(const abcfx_cuda_bgemm_args& t, cudaStream_t stream) {
  switch (t.dst_type) {
    case ABCFX_F32: return launch<S, float>(t, stream);
    case ABCFX_F16: return launch<S, __half>(t, stream);
    case ABCFX_BF16: return launch<S, __nv_bfloat16>(t, stream);
    default: return ABCFX_BAD_SHAPE;
  }
}

bool is_hopper() {
  int device = 0, major = 0, minor = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess && major == 9 &&
         minor == 0;
}

}  // namespace
}  // namespace abcfx_hopper

int abcfx_hopper_bgemm(const struct abcfx_cuda_bgemm_args* args) {
  using namespace abcfx_hopper;
  if (args->images * args->out_h * args->out_w * args->groups * args->cols == 0) return ABCFX_OK;
  if (!sizes_agree(*args)) return ABCFX_BAD_SHAPE;
  if (!addressable(*args) || !is_hopper()) return ABCFX_UNSUPPORTED;
  const cudaStream_t s = static_cast<cudaStream_t>(args->stream);
  const int64_t m = args->weight_bases, n = args->activation_bases;
  if (m == 1 && n == 1) return launch_typed<Shape<1, 1, 256, false>>(*args, s);
  if (m == 2 && n == 2) return launch_typed<Shape<2, 2, 64, false>>(*args, s);
  if (m == 3 && n == 3) return launch_typed<Shape<3, 3, 32, false>>(*args, s);
  return launch_typed<Shape<1, 1, 128, true>>(*args, s);
}
