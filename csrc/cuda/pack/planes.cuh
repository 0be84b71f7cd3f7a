#pragma once
#include "../values.cuh"
#include "abcfx/pack.h"

// From values to bit planes, for sources of any kind. A thread makes bytes: eight channels, one bit of each in every
// plane. Two ways through the image, by what is contiguous:
//   channels:  a thread takes eight of them, a byte of each plane; the eight threads of a word are next to each other
//   pixels:    a thread takes a word of a pixel, byte by byte; threads next to each other take pixels next to each other
// Padding is written by whoever would write a pixel there: every word of dst is written once. Counts are written where
// a group has one word; else they start as zeros, and words add to them.
namespace abcfx_cuda {

/// A pixel of the padded image.
struct Pixel {
  uint32_t line, x, width;
  uint32_t n, y, from;  ///< of src
  bool inside;          ///< not padding

  __device__ __forceinline__ Pixel(const abcfx_pack_args& args, uint32_t index) {
    width = (uint32_t)(args.left + args.width + args.right);
    line = index / width, x = index % width;
    const uint32_t height = (uint32_t)(args.top + args.height + args.bottom);
    n = line / height;
    y = line % height - (uint32_t)args.top;  // below 0 becomes large
    from = x - (uint32_t)args.left;
    inside = y < (uint32_t)args.height && from < (uint32_t)args.width;
  }
  __device__ __forceinline__ int64_t place(int64_t planes, int64_t q) const {
    return ((int64_t)line * planes + q) * width + x;
  }
};

/// Bit 8 q + b = bit q of byte b (Warren, Hacker's Delight: an 8 x 8 transpose).
__device__ __forceinline__ uint64_t transposed(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00aa00aa00aa00aa;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000cccc0000cccc;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000f0f0f0f0;
  return x ^ t ^ (t << 28);
}

/// Byte q: plane q of `many` (1 to 8) channels from c on. A Reader is made once in a thread, of the Source that a launch
/// passes: eight(pixel, c, many, value) gives the values, minus(value) the bits of one.
template <class Reader>
__device__ __forceinline__ uint64_t planes_of_eight(const Reader& source, const Pixel& pixel, int64_t c, int many) {
  float value[8];
  source.eight(pixel, c, many, value);
  uint64_t codes = 0;
#pragma unroll
  for (int b = 0; b < 8; ++b) {
    if (b < many) codes |= (uint64_t)source.minus(value[b]) << 8 * b;
  }
  return transposed(codes);
}

/// Where a thread works: word i of group g, `left` channels from `first` on.
struct Word {
  uint32_t g, i;
  int64_t first;
  int left;

  __device__ __forceinline__ Word(const abcfx_pack_args& args, uint32_t index, uint32_t words) {
    g = index / words, i = index % words;
    const int64_t channels = (uint32_t)args.channels / (uint32_t)args.groups, rest = channels - 64 * (int64_t)i;
    first = g * channels + 64 * (int64_t)i;
    left = (int)(rest < 64 ? rest : 64);
  }
};

__device__ __forceinline__ void add_count(int32_t* counts, int64_t place, int32_t count, uint32_t words) {
  if (words == 1) counts[place] = count;
  else if (count) atomicAdd(counts + place, count);
}

template <class Source>
__global__ void __launch_bounds__(256) pack_kernel_channels(const Source source, int32_t* counts, uint32_t pixels,
                                                            uint32_t words) {
  const abcfx_pack_args& args = source.args;
  const typename Source::Reader reader(source);
  const uint32_t groups = (uint32_t)args.groups, each = groups * words, byte = threadIdx.x % 8;
  const uint32_t index = blockIdx.x * 32 + threadIdx.x / 8;  // of the word
  const bool real = index / each < pixels;
  const Pixel pixel(args, real ? index / each : 0);
  const Word word(args, index % each, words);
  const int many = word.left - 8 * (int)byte < 8 ? word.left - 8 * (int)byte : 8;
  const bool some = real && pixel.inside && many > 0;
  const uint64_t bytes = some ? planes_of_eight(reader, pixel, word.first + 8 * byte, many) : 0;
#pragma unroll
  for (int q = 0; q < ABCFX_MAX_BASES; ++q) {
    if (q >= args.planes) continue;
    const uint32_t mine = bytes >> 8 * q & 255;
    const int64_t place = pixel.place(args.planes, q) * groups + word.g;
    if (real) ((uint8_t*)args.dst)[(place * words + word.i) * 8 + byte] = (uint8_t)mine;
    if (!counts) continue;
    int32_t count = __popc(mine);
#pragma unroll
    for (int far = 4; far; far /= 2) count += __shfl_xor_sync(~0u, count, far);
    if (real && byte == 0) add_count(counts, place, count, words);
  }
}

template <class Source>
__global__ void __launch_bounds__(256) pack_kernel_pixels(const Source source, int32_t* counts, uint32_t pixels,
                                                          uint32_t words) {
  const abcfx_pack_args& args = source.args;
  const typename Source::Reader reader(source);
  const uint32_t thread = blockIdx.x * 256 + threadIdx.x, groups = (uint32_t)args.groups;
  if (thread / pixels >= groups * words) return;
  const Pixel pixel(args, thread % pixels);
  const Word word(args, thread / pixels, words);
  uint64_t planes[ABCFX_MAX_BASES] = {};
  for (int c = 0; pixel.inside && c < word.left; c += 8) {
    const int many = word.left - c < 8 ? word.left - c : 8;
    const uint64_t bytes = planes_of_eight(reader, pixel, word.first + c, many);
#pragma unroll
    for (int q = 0; q < ABCFX_MAX_BASES; ++q) planes[q] |= (bytes >> 8 * q & 255) << c;
  }
#pragma unroll
  for (int q = 0; q < ABCFX_MAX_BASES; ++q) {
    if (q >= args.planes) continue;
    const int64_t place = pixel.place(args.planes, q) * groups + word.g;
    args.dst[place * words + word.i] = planes[q];
    if (counts) add_count(counts, place, __popcll(planes[q]), words);
  }
}

inline bool valid_image(const abcfx_pack_args& t) {
  return t.planes >= 1 && t.planes <= ABCFX_MAX_BASES && t.groups >= 1 && t.channels >= 0 &&
         t.channels % t.groups == 0 && t.images >= 0 && t.height >= 0 && t.width >= 0 && t.top >= 0 && t.left >= 0 &&
         t.bottom >= 0 && t.right >= 0 && (t.levels == ABCFX_CODED || t.levels == ABCFX_THERMOMETER) &&
         (t.gain == nullptr) == (t.offset == nullptr);
}

/// All of an image. Words are counted in 32 bits.
template <class Source>
int pack_image(const Source& source, int32_t* counts, void* stream) {
  const abcfx_pack_args& t = source.args;
  if (!valid_image(t)) return ABCFX_BAD_SHAPE;
  const int64_t words = (t.channels / t.groups + 63) / 64, width = t.left + t.width + t.right;
  const int64_t pixels = t.images * (t.top + t.height + t.bottom) * width, all = pixels * t.groups * words;
  if (all >= (int64_t)1 << 31 || t.channels >= (int64_t)1 << 31) return ABCFX_UNSUPPORTED;
  if (counts && words != 1) {
    const int status = zero(counts, pixels * t.planes * t.groups * 4, stream);
    if (status != ABCFX_OK) return status;
  }
  const uint32_t many = (uint32_t)pixels, each = (uint32_t)words;
  if (t.stride_c == 1) {
    return launch(pack_kernel_channels<Source>, dim3((unsigned)((all + 31) / 32)), 256, 0, stream, source, counts, many,
                  each);
  }
  return launch(pack_kernel_pixels<Source>, dim3((unsigned)((all + 255) / 256)), 256, 0, stream, source, counts, many,
                each);
}

}  // namespace abcfx_cuda
