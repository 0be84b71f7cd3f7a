// AVX2: 32 bits of a plane become 32 bytes, planes become bytes of codes, and each eight codes eight values: by a table
// in a register up to three planes, else computed (coded) or gathered (thermometer).
#include <immintrin.h>
#include <string.h>

#include "walk.h"

#if !defined(__AVX2__)
#error "compile this file with -mavx2"
#endif

namespace {

/// value_of, in the way that suits the levels.
struct Register {
  __m256 table;
  explicit Register(const Job& job) : table(_mm256_load_ps(job.value)) {}
  __m256 operator()(__m256i code) const { return _mm256_permutevar8x32_ps(table, code); }
};

struct Computed {
  __m256 scale, shift;
  explicit Computed(const Job& job) : scale(_mm256_set1_ps(job.scale)), shift(_mm256_set1_ps(job.shift)) {}
  __m256 operator()(__m256i code) const {
    return _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(code), scale), shift);
  }
};

struct Gathered {
  const float* table;
  explicit Gathered(const Job& job) : table(job.value) {}
  __m256 operator()(__m256i code) const { return _mm256_i32gather_ps(table, code, 4); }
};

template <class Value, int PLANES>
struct Avx2 {
  Value value;
  int planes;
  int64_t plane_step;

  explicit Avx2(const Job& job) : value(job), planes((int)job.args->planes), plane_step(job.plane_step) {}

  /// Codes of 32 channels, of which bits(q) are those of plane q.
  template <class Bits>
  __m256i codes(const Bits& bits) const {
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    __m256i all = _mm256_setzero_si256();
    for (int q = 0; q < (PLANES ? PLANES : planes); ++q) {
      const __m256i word = _mm256_set1_epi32((int)bits(q));
      const __m256i minus = _mm256_and_si256(_mm256_shuffle_epi8(word, byte), bit);
      const __m256i plus = _mm256_cmpeq_epi8(minus, _mm256_setzero_si256());
      all = _mm256_or_si256(all, _mm256_and_si256(plus, _mm256_set1_epi8((char)(1 << q))));
    }
    return all;
  }

  void store(__m128i codes, int64_t count, float* dst) const {
    const __m256 values = value(_mm256_cvtepu8_epi32(codes));
    if (count >= 8) return _mm256_storeu_ps(dst, values);
    float copy[8];
    _mm256_storeu_ps(copy, values);
    for (int64_t c = 0; c < count; ++c) dst[c] = copy[c];
  }

  /// The first `count` of 32 values.
  void store(__m256i codes, int64_t count, float* dst) const {
    const __m128i low = _mm256_castsi256_si128(codes), high = _mm256_extracti128_si256(codes, 1);
    store(low, count, dst);
    if (count > 8) store(_mm_srli_si128(low, 8), count - 8, dst + 8);
    if (count > 16) store(high, count - 16, dst + 16);
    if (count > 24) store(_mm_srli_si128(high, 8), count - 24, dst + 24);
  }

  void word(const uint64_t* src, int64_t count, float* dst) const {
    for (int half = 0; 32 * half < count; ++half) {
      const auto bits = [&](int q) { return (uint32_t)(src[q * plane_step] >> 32 * half); };
      store(codes(bits), count - 32 * half, dst + 32 * half);
    }
  }

  static bool takes(int64_t channels) { return channels == 16; }

  /// Two pixels of 16 channels are 32 values that lie side by side.
  void pixels(const uint64_t* src, int64_t count, float* dst) const {
    for (int64_t x = 0; x < count; x += 2, dst += 32) {
      const int64_t second = x + 1 < count ? x + 1 : x;
      const auto bits = [&](int q) {
        const uint64_t* plane = src + q * plane_step;
        return (uint32_t)plane[x] | (uint32_t)plane[second] << 16;
      };
      store(codes(bits), 16 * (count - x), dst);
    }
  }
};

void unpack(const Job& job) {
  switch (job.args->planes) {
    case 1: return unpack_lines(job, Avx2<Register, 1>(job));
    case 2: return unpack_lines(job, Avx2<Register, 2>(job));
    case 3: return unpack_lines(job, Avx2<Register, 3>(job));
    default: return job.coded ? unpack_lines(job, Avx2<Computed, 0>(job)) : unpack_lines(job, Avx2<Gathered, 0>(job));
  }
}

}  // namespace

extern "C" int abcfx_unpack_avx2(const abcfx_unpack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  unpack(job_of(*args));
  return ABCFX_OK;
}
