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

/// A byte tensor of five dimensions, innermost first. strides[i] is the distance in bytes of dimension i + 1.
struct Map {
  cuuint64_t dims[5], strides[4];
  cuuint32_t box[5], steps[5];
};

bool encode(CUtensorMap* out, const void* data, const Map& m) {
  static const Encode encoder = find_encoder();
  return encoder && encoder(out, CU_TENSOR_MAP_DATA_TYPE_UINT8, 5, const_cast<void*>(data), m.dims, m.strides, m.box,
                            m.steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/// a as {bytes, x, plane, y, image}. A strided box spans (n - 1) * stride + 1 pixels and keeps every stride-th.
Map map_of_a(const abcfx_hopper_args& t, const Box& box, int planes) {
  const cuuint64_t pixel = t.groups * t.words * 8, line = pixel * t.padded_w, row = line * t.activation_bases;
  const cuuint32_t sw = t.stride_w, sh = t.stride_h;
  return {{pixel, cuuint64_t(t.padded_w), cuuint64_t(t.activation_bases), cuuint64_t(t.padded_h), cuuint64_t(t.images)},
          {pixel, line, row, row * t.padded_h},
          {kChunkBytes, (box.w - 1) * sw + 1, cuuint32_t(planes), (box.h - 1) * sh + 1, cuuint32_t(box.images)},
          {1, sw, 1, sh, 1}};
}

/// w as {bytes of a tap, tap, column, plane, group}: past the end of a tap TMA writes zeros, so that whatever a holds
/// there (the next group, say) adds nothing to the AND.
Map map_of_w(const abcfx_hopper_args& t, int tile_cols, int planes) {
  const cuuint64_t taps = t.kernel_h * t.kernel_w, tap = t.words * 8, col = tap * taps, plane = col * t.cols;
  return {{tap, taps, cuuint64_t(t.cols), cuuint64_t(t.weight_bases), cuuint64_t(t.groups)},
          {tap, col, plane, plane * t.weight_bases},
          {kChunkBytes, 1, cuuint32_t(tile_cols), cuuint32_t(planes), 1},
          {1, 1, 1, 1, 1}};
}

Problem problem_of(const abcfx_hopper_args& t, int tile_cols) {
  Problem p = {};
  Space& s = p.space;
  s.box = choose_box(t.images, t.out_h, t.stride_w);
  s.images = t.images, s.out_h = t.out_h, s.out_w = t.out_w, s.cols = t.cols, s.groups = t.groups;
  s.tiles_w = ceil_div(t.out_w, s.box.w), s.tiles_h = ceil_div(t.out_h, s.box.h);
  s.tiles_images = ceil_div(t.images, s.box.images), s.tiles_cols = ceil_div(t.cols, tile_cols);
  s.taps_w = t.kernel_w, s.taps = t.kernel_h * t.kernel_w;
  s.bytes = t.words * 8, s.chunks = ceil_div(s.bytes, kChunkBytes);
  p.out = {t.alpha, t.beta,   t.alpha_sum, t.row_sum, t.column_base, t.base,     t.gain,
           t.offset, t.class_h, t.class_w,   t.dst,     t.classes_w};
  p.weight_bases = int(t.weight_bases), p.activation_bases = int(t.activation_bases);
  p.stride_h = int(t.stride_h), p.stride_w = int(t.stride_w);
  p.dilation_h = int(t.dilation_h), p.dilation_w = int(t.dilation_w);
  return p;
}

template <class S, class T>
int launch(const abcfx_hopper_args& t, cudaStream_t stream) {
  const Problem problem = problem_of(t, S::cols);
  CUtensorMap a, w;
  if (!encode(&a, t.a, map_of_a(t, problem.space.box, S::N)) || !encode(&w, t.w, map_of_w(t, S::cols, S::M)))
    return ABCFX_UNSUPPORTED;
  int device = 0, processors = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess ||
      cudaFuncSetAttribute(hopper_bgemm<S, T>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(S::shared_bytes)) !=
          cudaSuccess)
    return ABCFX_UNSUPPORTED;
  const int64_t tiles = tile_count(problem.space);
  const unsigned blocks = unsigned(tiles < processors ? tiles : processors);
  hopper_bgemm<S, T><<<blocks, kThreads, S::shared_bytes, stream>>>(a, w, problem);
  return cudaGetLastError() == cudaSuccess ? ABCFX_OK : ABCFX_UNSUPPORTED;
}

template <class S>
int launch_typed(const abcfx_hopper_args& t, cudaStream_t stream) {
  switch (t.type) {
    case ABCFX_HOPPER_F32: return launch<S, float>(t, stream);
    case ABCFX_HOPPER_F16: return launch<S, __half>(t, stream);
    case ABCFX_HOPPER_BF16: return launch<S, __nv_bfloat16>(t, stream);
    default: return ABCFX_BAD_SHAPE;
  }
}

bool in_range(int64_t v, int64_t low, int64_t high) { return v >= low && v <= high; }

bool sizes_agree(const abcfx_hopper_args& t) {
  const bool positive = t.images > 0 && t.out_h > 0 && t.out_w > 0 && t.groups > 0 && t.words > 0 && t.cols > 0 &&
                        t.kernel_h > 0 && t.kernel_w > 0 && t.stride_h > 0 && t.stride_w > 0 && t.dilation_h > 0 &&
                        t.dilation_w > 0;
  const bool bases = in_range(t.weight_bases, 1, ABCFX_MAX_BASES) && in_range(t.activation_bases, 1, ABCFX_MAX_BASES);
  return positive && bases && (t.out_h - 1) * t.stride_h + (t.kernel_h - 1) * t.dilation_h < t.padded_h &&
         (t.out_w - 1) * t.stride_w + (t.kernel_w - 1) * t.dilation_w < t.padded_w && (t.gain == nullptr) == (t.offset == nullptr);
}

/// What TMA can address: 16-byte pitches and bases, element strides to 8, coordinates of 31 bits.
bool addressable(const abcfx_hopper_args& t) {
  const auto aligned = [](const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; };
  const int64_t most = int64_t(1) << 30;
  const bool small = t.padded_w < most && t.padded_h < most && t.images < most && t.cols < most &&
                     t.groups * t.words < most / 8 && t.kernel_h * t.kernel_w < most;
  return t.words % 2 == 0 && aligned(t.a) && aligned(t.w) && t.stride_h <= 8 && t.stride_w <= 8 && small;
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

int abcfx_hopper_bgemm(const struct abcfx_hopper_args* args, void* stream) {
  using namespace abcfx_hopper;
  if (!sizes_agree(*args)) return ABCFX_BAD_SHAPE;
  if (!addressable(*args) || !is_hopper()) return ABCFX_UNSUPPORTED;
  const cudaStream_t s = static_cast<cudaStream_t>(stream);
  const int64_t m = args->weight_bases, n = args->activation_bases;
  if (m == 1 && n == 1) return launch_typed<Shape<1, 1, 256, false>>(*args, s);
  if (m == 2 && n == 2) return launch_typed<Shape<2, 2, 64, false>>(*args, s);
  if (m == 3 && n == 3) return launch_typed<Shape<3, 3, 32, false>>(*args, s);
  return launch_typed<Shape<1, 1, 128, true>>(*args, s);
}
