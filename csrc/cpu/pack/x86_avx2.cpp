// AVX2. As in the AVX-512 variant, a value becomes a code of one byte; with 32 codes in a register, half a word of
// plane q is the sign bits of the codes shifted left by 7 - q.
#include <immintrin.h>

#include "image.h"

#if !defined(__AVX2__)
#error "compile this file with -mavx2"
#endif

namespace {

struct Quantizer {
  __m256 shift, inverse, top, threshold[ABCFX_MAX_BASES];
  int planes;

  explicit Quantizer(const Levels& levels)
      : shift(_mm256_set1_ps(levels.shift)),
        inverse(_mm256_set1_ps(levels.inverse)),
        top(_mm256_set1_ps(levels.top)),
        planes(levels.planes) {
    for (int q = 0; q < planes; ++q) threshold[q] = _mm256_set1_ps(levels.threshold[q]);
  }
};

/// vmaxps returns its second operand if the first is NaN: code 0. vcvtps2dq rounds half to even.
template <bool CODED>
inline __m256i code_of(const Quantizer& quantizer, __m256 x) {
  if (CODED) {
    const __m256 t = _mm256_mul_ps(_mm256_sub_ps(x, quantizer.shift), quantizer.inverse);
    return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(t, _mm256_setzero_ps()), quantizer.top));
  }
  __m256i code = _mm256_setzero_si256();
  for (int q = 0; q < quantizer.planes; ++q) {
    const __m256i plus = _mm256_castps_si256(_mm256_cmp_ps(x, quantizer.threshold[q], _CMP_GE_OQ));
    code = _mm256_or_si256(code, _mm256_and_si256(plus, _mm256_set1_epi32(1 << q)));
  }
  return code;
}

/// The first `count` of eight floats; reads nothing past them.
inline __m256 load(const float* src, int64_t count) {
  if (count >= 8) return _mm256_loadu_ps(src);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(src, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(count < 0 ? 0 : count)), lane));
}

/// Half `half` of the words of one pixel, from the codes of its channels 32 half to 32 half + 31.
inline void store_planes(const Job& job, __m256i codes, uint64_t real, int half, uint64_t* dst) {
  for (int q = 0; q < job.levels.planes; ++q) {
    const __m256i shifted = _mm256_sll_epi16(codes, _mm_cvtsi32_si128(7 - q));
    const uint64_t minus = (uint32_t)~_mm256_movemask_epi8(shifted);
    uint64_t* word = dst + q * job.plane_step;
    *word = half ? *word | ((minus << 32) & real) : minus & real;
  }
}

/// The 32 codes of contiguous channels. Two saturating packs interleave the four vectors by 128-bit lanes; the
/// permutation puts the dwords back in order.
template <bool CODED>
inline __m256i codes_of_channels(const Quantizer& quantizer, const float* src, int64_t count) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256i code[4];
  for (int i = 0; i < 4; ++i) code[i] = code_of<CODED>(quantizer, load(src + 8 * i, count - 8 * i));
  const __m256i low = _mm256_packus_epi32(code[0], code[1]), high = _mm256_packus_epi32(code[2], code[3]);
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
}

/// t[r] dword c <-> t[c] dword r.
inline void transpose_dwords(__m256i t[8]) {
  __m256i u[8];
  for (int i = 0; i < 8; i += 2) {
    u[i] = _mm256_unpacklo_epi32(t[i], t[i + 1]);
    u[i + 1] = _mm256_unpackhi_epi32(t[i], t[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {  // t[i + k] lane j = column 4 j + k of rows i to i + 3
    t[i] = _mm256_unpacklo_epi64(u[i], u[i + 2]);
    t[i + 1] = _mm256_unpackhi_epi64(u[i], u[i + 2]);
    t[i + 2] = _mm256_unpacklo_epi64(u[i + 1], u[i + 3]);
    t[i + 3] = _mm256_unpackhi_epi64(u[i + 1], u[i + 3]);
  }
  for (int k = 0; k < 4; ++k) {
    u[k] = _mm256_permute2x128_si256(t[k], t[k + 4], 0x20);
    u[k + 4] = _mm256_permute2x128_si256(t[k], t[k + 4], 0x31);
  }
  for (int i = 0; i < 8; ++i) t[i] = u[i];
}

/// Up to 8 pixels x 64 channels of an image whose pixels are contiguous (NCHW), 32 channels at a time: the codes of
/// four channels share a dword, one 8 x 8 transposition of dwords gives every pixel its 32 codes in order.
template <bool CODED>
inline void pack_tile(const Job& job, const Quantizer& quantizer, const float* src, int64_t pixels, int64_t count,
                      uint64_t* dst) {
  for (int half = 0; half < 2; ++half) {
    __m256i codes[8];
    for (int i = 0; i < 8; ++i) {
      codes[i] = _mm256_setzero_si256();
      for (int c = 0; c < 4; ++c) {
        const int64_t channel = 32 * half + 4 * i + c;
        if (channel >= count) continue;
        const __m256i code = code_of<CODED>(quantizer, load(src + channel * job.args->stride_c, pixels));
        codes[i] = _mm256_or_si256(codes[i], _mm256_slli_epi32(code, 8 * c));
      }
    }
    transpose_dwords(codes);
    for (int64_t x = 0; x < pixels; ++x) store_planes(job, codes[x], low_bits(count), half, dst + x * job.pixel);
  }
}

template <bool CODED>
int pack(const Job& job) {
  const abcfx_pack_args& args = *job.args;
  const Quantizer quantizer(job.levels);
  return for_each_line(job, [&](const float* src, uint64_t* dst) {
    if (args.stride_c != 1 && args.stride_w == 1) {
      for (int64_t x = args.pixel_begin; x < args.pixel_end; x += 8) {
        const int64_t pixels = args.pixel_end - x < 8 ? args.pixel_end - x : 8;
        for_each_word(job, [&](int64_t channel, int64_t count, int64_t place) {
          const float* values = src + channel * args.stride_c + x;
          pack_tile<CODED>(job, quantizer, values, pixels, count, dst + x * job.pixel + place);
        });
      }
      return;
    }
    for (int64_t x = args.pixel_begin; x < args.pixel_end; ++x) {
      for_each_word(job, [&](int64_t channel, int64_t count, int64_t place) {
        const float* values = src + x * args.stride_w + channel * args.stride_c;
        float gathered[64];
        if (args.stride_c != 1) {
          for (int64_t c = 0; c < count; ++c) gathered[c] = values[c * args.stride_c];
          values = gathered;
        }
        for (int half = 0; half < 2; ++half) {
          const __m256i codes = codes_of_channels<CODED>(quantizer, values + 32 * half, count - 32 * half);
          store_planes(job, codes, low_bits(count), half, dst + x * job.pixel + place);
        }
      });
    }
  });
}

}  // namespace

extern "C" int abcfx_pack_avx2(const abcfx_pack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Job job = job_of(*args);
  return job.levels.coded ? pack<true>(job) : pack<false>(job);
}
