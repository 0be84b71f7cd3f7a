// AVX-512. A value becomes a code of one byte (image.h, Levels); with the 64 codes of a word in one register, plane q
// is one instruction: test bit q of every byte.
#include <immintrin.h>

#include "image.h"

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this file with -mavx512f -mavx512bw -mavx512dq -mavx512vl"
#endif

namespace {

/// Levels, broadcast: sixteen values at a time.
struct Quantizer {
  __m512 shift, inverse, top, threshold[ABCFX_MAX_BASES];
  __m512i bit[ABCFX_MAX_BASES];  ///< 1 << q in every byte
  int planes;

  explicit Quantizer(const Levels& levels)
      : shift(_mm512_set1_ps(levels.shift)),
        inverse(_mm512_set1_ps(levels.inverse)),
        top(_mm512_set1_ps(levels.top)),
        planes(levels.planes) {
    for (int q = 0; q < planes; ++q) {
      threshold[q] = _mm512_set1_ps(levels.threshold[q]);
      bit[q] = _mm512_set1_epi8((char)(1 << q));
    }
  }
};

/// vmaxps returns its second operand if the first is NaN: code 0. vcvtps2dq rounds half to even.
template <bool CODED>
inline __m512i code_of(const Quantizer& quantizer, __m512 x) {
  if (CODED) {
    const __m512 t = _mm512_mul_ps(_mm512_sub_ps(x, quantizer.shift), quantizer.inverse);
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(t, _mm512_setzero_ps()), quantizer.top));
  }
  __m512i code = _mm512_setzero_si512();
  for (int q = 0; q < quantizer.planes; ++q) {
    const __mmask16 plus = _mm512_cmp_ps_mask(x, quantizer.threshold[q], _CMP_GE_OQ);
    code = _mm512_mask_or_epi32(code, plus, code, _mm512_set1_epi32(1 << q));
  }
  return code;
}

/// One word of every plane of a pixel: the codes of its channels, of which the bits set in `real` exist.
inline void store_planes(const Quantizer& quantizer, int64_t plane_step, __m512i codes, uint64_t real, uint64_t* dst) {
  for (int q = 0; q < quantizer.planes; ++q, dst += plane_step) {
    *dst = _mm512_mask_testn_epi8_mask(real, codes, quantizer.bit[q]);
  }
}

/// The 64 codes of contiguous channels. Two saturating packs interleave the four vectors by 128-bit lanes; the
/// permutation puts dword d, the channels 4d to 4d + 3, back in order.
template <bool CODED>
inline __m512i codes_of_channels(const Quantizer& quantizer, const float* src, int64_t count) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i code[4];
  if (count == 64) {
    for (int i = 0; i < 4; ++i) code[i] = code_of<CODED>(quantizer, _mm512_loadu_ps(src + 16 * i));
  } else {
    const uint64_t real = low_bits(count);
    for (int i = 0; i < 4; ++i) {
      const __mmask16 mask = (__mmask16)(real >> (16 * i));
      code[i] = code_of<CODED>(quantizer, _mm512_maskz_loadu_ps(mask, src + 16 * i));
    }
  }
  const __m512i low = _mm512_packus_epi32(code[0], code[1]), high = _mm512_packus_epi32(code[2], code[3]);
  return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(low, high));
}

/// t[r] dword c <-> t[c] dword r.
inline void transpose_dwords(__m512i t[16]) {
  __m512i u[16];
  for (int i = 0; i < 16; i += 2) {
    u[i] = _mm512_unpacklo_epi32(t[i], t[i + 1]);
    u[i + 1] = _mm512_unpackhi_epi32(t[i], t[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // t[i + k] lane j = column 4 j + k of rows i to i + 3
    t[i] = _mm512_unpacklo_epi64(u[i], u[i + 2]);
    t[i + 1] = _mm512_unpackhi_epi64(u[i], u[i + 2]);
    t[i + 2] = _mm512_unpacklo_epi64(u[i + 1], u[i + 3]);
    t[i + 3] = _mm512_unpackhi_epi64(u[i + 1], u[i + 3]);
  }
  for (int k = 0; k < 4; ++k) {  // gather the lanes of one column from the four groups of rows
    const __m512i even_low = _mm512_shuffle_i32x4(t[k], t[k + 4], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(t[k], t[k + 4], 0xdd);
    const __m512i even_high = _mm512_shuffle_i32x4(t[k + 8], t[k + 12], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(t[k + 8], t[k + 12], 0xdd);
    u[k] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
    u[k + 8] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
    u[k + 4] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
    u[k + 12] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
  }
  for (int i = 0; i < 16; ++i) t[i] = u[i];
}

/// Up to 16 pixels x 64 channels of an image whose pixels are contiguous (NCHW). The codes of four channels share a
/// dword, so that one 16 x 16 transposition of dwords gives every pixel its 64 codes in order.
template <bool CODED>
inline void pack_tile(const Job& job, const Quantizer& quantizer, const float* src, int64_t pixels, int64_t count,
                      uint64_t* dst) {
  const __mmask16 mask = (__mmask16)low_bits(pixels);
  const int64_t step = job.args->stride_c;
  __m512i codes[16];
  for (int i = 0; i < 16; ++i) {
    __m512i four = _mm512_setzero_si512();
    for (int c = 0; c < 4; ++c) {
      if (4 * i + c >= count) continue;
      const __m512i code = code_of<CODED>(quantizer, _mm512_maskz_loadu_ps(mask, src + (4 * i + c) * step));
      four = _mm512_or_si512(four, _mm512_slli_epi32(code, 8 * c));
    }
    codes[i] = four;
  }
  transpose_dwords(codes);
  const uint64_t real = low_bits(count);
  for (int64_t x = 0; x < pixels; ++x) store_planes(quantizer, job.plane_step, codes[x], real, dst + x * job.pixel);
}

template <bool CODED>
int pack(const Job& job) {
  const abcfx_pack_args& args = *job.args;
  const Quantizer quantizer(job.levels);
  return for_each_line(job, [&](const float* src, uint64_t* dst) {
    if (args.stride_c != 1 && args.stride_w == 1) {
      for (int64_t x = args.pixel_begin; x < args.pixel_end; x += 16) {
        const int64_t pixels = args.pixel_end - x < 16 ? args.pixel_end - x : 16;
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
        const __m512i codes = codes_of_channels<CODED>(quantizer, values, count);
        store_planes(quantizer, job.plane_step, codes, low_bits(count), dst + x * job.pixel + place);
      });
    }
  });
}

}  // namespace

extern "C" int abcfx_pack_avx512vpopcnt(const abcfx_pack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Job job = job_of(*args);
  return job.levels.coded ? pack<true>(job) : pack<false>(job);
}
