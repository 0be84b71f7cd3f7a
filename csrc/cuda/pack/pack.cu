// Bit planes of activations, one pass. Two ways through the image, by what is contiguous:
//   channels:  a warp takes 64 channels of a pixel, lane l channels l and l + 32; a vote of the warp is half a word
//   otherwise: a thread takes a pixel, and lanes are pixels next to each other; a word is made bit by bit in a register
// Padding is written by whoever would write a pixel there: every word of dst and of counts is written once.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../launch.cuh"

namespace abcfx_cuda {
namespace {

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(__half x) { return __half2float(x); }
__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }

/// The code of a value, complemented: bit q is the bit of plane q. No fused multiply-add, as abcfx/pack.h asks.
struct Levels {
  float shift, inverse, top, threshold[ABCFX_MAX_BASES];
  unsigned all;
  int planes;
  bool coded;

  __device__ __forceinline__ explicit Levels(const abcfx_pack_args& args)
      : shift(0), inverse(0), all((1u << args.planes) - 1), planes((int)args.planes), coded(args.levels == ABCFX_CODED) {
    top = (float)all;
    if (coded) shift = args.shift[0], inverse = __fdiv_rn(1.0f, args.scale[0]);
    for (int q = 0; q < ABCFX_MAX_BASES; ++q) {
      threshold[q] = !coded && q < planes ? __fsub_rn(0.5f, args.shift[q]) : 0.0f;
    }
  }

  __device__ __forceinline__ unsigned minus(float x) const {
    unsigned code = 0;
    if (coded) {
      const float t = __fmul_rn(__fsub_rn(x, shift), inverse), low = t > 0.0f ? t : 0.0f;
      code = (unsigned)rintf(low < top ? low : top);
    } else {
#pragma unroll
      for (int q = 0; q < ABCFX_MAX_BASES; ++q) code |= (unsigned)(q < planes && x >= threshold[q]) << q;
    }
    return ~code & all;
  }
};

template <class T>
__device__ __forceinline__ unsigned minus_at(const abcfx_pack_args& args, const Levels& levels, int64_t at, int64_t c) {
  const float x = wide(((const T*)args.src)[at + c * args.stride_c]);
  return levels.minus(args.gain ? __fadd_rn(__fmul_rn(x, args.gain[c]), args.offset[c]) : x);
}

/// A pixel of the padded image: its place in src (-1: padding), and where its words and counts of plane 0 begin.
struct Pixel {
  int64_t src;
  uint32_t line, x, width;

  __device__ __forceinline__ Pixel(const abcfx_pack_args& args, uint32_t index) {
    width = (uint32_t)(args.left + args.width + args.right);
    line = index / width, x = index % width;
    const uint32_t height = (uint32_t)(args.top + args.height + args.bottom), n = line / height;
    const int64_t y = line - n * height - args.top, from = x - args.left;
    const bool real = y >= 0 && y < args.height && from >= 0 && from < args.width;
    src = real ? n * args.stride_n + y * args.stride_h + from * args.stride_w : -1;
    inside = real;
  }
  bool inside;
  __device__ __forceinline__ int64_t place(int planes, int q) const {
    return ((int64_t)line * planes + q) * width + x;
  }
};

template <class T, bool WARP>
__global__ void __launch_bounds__(256) pack_kernel(const abcfx_pack_args args, int32_t* counts, int64_t pixels) {
  const int64_t thread = (int64_t)blockIdx.x * 256 + threadIdx.x, index = WARP ? thread / 32 : thread;
  if (index >= pixels) return;  // whole warps where they vote
  const int64_t channels = (uint32_t)args.channels / (uint32_t)args.groups, words = (channels + 63) / 64;
  const int lane = threadIdx.x % 32;
  const Levels levels(args);
  const Pixel pixel(args, index);
  for (int64_t g = 0; g < args.groups; ++g) {
    int32_t count[ABCFX_MAX_BASES] = {};
    for (int64_t i = 0; i < words; ++i) {
      const int64_t first = g * channels + 64 * i, left = channels - 64 * i, many = left < 64 ? left : 64;
      uint64_t word[ABCFX_MAX_BASES] = {};
      if (pixel.inside) {
        if constexpr (WARP) {
          const unsigned low = lane < many ? minus_at<T>(args, levels, pixel.src, first + lane) : 0;
          const unsigned high = lane + 32 < many ? minus_at<T>(args, levels, pixel.src, first + lane + 32) : 0;
#pragma unroll
          for (int q = 0; q < ABCFX_MAX_BASES; ++q) {
            if (q >= levels.planes) continue;
            word[q] = __ballot_sync(~0u, low >> q & 1);
            word[q] |= (uint64_t)__ballot_sync(~0u, high >> q & 1) << 32;
          }
        } else {
          for (int b = 0; b < many; ++b) {
            const unsigned minus = minus_at<T>(args, levels, pixel.src, first + b);
#pragma unroll
            for (int q = 0; q < ABCFX_MAX_BASES; ++q) word[q] |= (uint64_t)(minus >> q & 1) << b;
          }
        }
      }
#pragma unroll
      for (int q = 0; q < ABCFX_MAX_BASES; ++q) {
        if (q >= levels.planes) continue;
        count[q] += __popcll(word[q]);
        if (!WARP || lane == 0) args.dst[(pixel.place(levels.planes, q) * args.groups + g) * words + i] = word[q];
      }
    }
#pragma unroll
    for (int q = 0; q < ABCFX_MAX_BASES; ++q) {
      if (q >= levels.planes || !counts || (WARP && lane != 0)) continue;
      counts[pixel.place(levels.planes, q) * args.groups + g] = count[q];
    }
  }
}

template <class T>
int pack(const abcfx_pack_args& args, int32_t* counts, void* stream) {
  const int64_t height = args.top + args.height + args.bottom, width = args.left + args.width + args.right;
  const int64_t pixels = args.images * height * width;
  if (args.stride_c == 1) {
    return launch(pack_kernel<T, true>, dim3((unsigned)((pixels + 7) / 8)), 256, 0, stream, args, counts, pixels);
  }
  return launch(pack_kernel<T, false>, dim3((unsigned)((pixels + 255) / 256)), 256, 0, stream, args, counts, pixels);
}

bool valid_image(const abcfx_pack_args& t) {
  return t.planes >= 1 && t.planes <= ABCFX_MAX_BASES && t.groups >= 1 && t.channels >= 0 &&
         t.channels % t.groups == 0 && t.images >= 0 && t.height >= 0 && t.width >= 0 && t.top >= 0 && t.left >= 0 &&
         t.bottom >= 0 && t.right >= 0 && (t.levels == ABCFX_CODED || t.levels == ABCFX_THERMOMETER) &&
         (t.gain == nullptr) == (t.offset == nullptr);
}

/// Pixels and channels are counted in 32 bits.
bool within_reach(const abcfx_pack_args& t) {
  const int64_t height = t.top + t.height + t.bottom, width = t.left + t.width + t.right;
  return t.images * height * width < (int64_t)1 << 31 && t.channels < (int64_t)1 << 31;
}

}  // namespace
}  // namespace abcfx_cuda

int abcfx_cuda_pack(const abcfx_pack_args* args, int32_t* counts, void* stream) {
  using namespace abcfx_cuda;
  if (!valid_image(*args)) return ABCFX_BAD_SHAPE;
  if (!within_reach(*args)) return ABCFX_UNSUPPORTED;
  switch (args->dtype) {
    case ABCFX_F32: return pack<float>(*args, counts, stream);
    case ABCFX_F16: return pack<__half>(*args, counts, stream);
    case ABCFX_BF16: return pack<__nv_bfloat16>(*args, counts, stream);
    default: return ABCFX_BAD_SHAPE;
  }
}
