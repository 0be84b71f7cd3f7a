// AVX2: a 64 x 64 bit transpose in sixteen registers, and the byte order of the lookup layout by interleaving.
#include <immintrin.h>

#include "columns.h"

#if !defined(__AVX2__)
#error "compile this file with -mavx2"
#endif

namespace {

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/// Swaps squares of side S between registers S apart: bits whose index has S in the first, and lacks it in the second.
template <int S>
inline void swap_squares(__m256i (&rows)[16]) {
  constexpr long long LOW = S == 8 ? 0x00ff00ff00ff00ff : S == 4 ? 0x0f0f0f0f0f0f0f0f
                                            : S == 2 ? 0x3333333333333333 : 0x5555555555555555;
  const __m256i low = _mm256_set1_epi64x(LOW);
  UNROLL for (int i = 0; i < 16; ++i) {
    if (i & S) continue;
    const __m256i differ = _mm256_xor_si256(_mm256_srli_epi64(rows[i], S), rows[i + S]);
    const __m256i swap = _mm256_and_si256(differ, low);
    rows[i + S] = _mm256_xor_si256(rows[i + S], swap);
    rows[i] = _mm256_xor_si256(rows[i], _mm256_slli_epi64(swap, S));
  }
}

struct V {
  /// Register i holds rows i, 16 + i, 32 + i, 48 + i: four stages transpose each 16 x 16 square between registers, then
  /// the 4 x 4 squares of 16 bits that are left lie within each register.
  static void transpose(const uint64_t* const (&rows)[GROUP], int64_t count, int64_t delta, uint64_t* columns) {
    __m256i part[16];
    if (count == GROUP) {
      UNROLL for (int i = 0; i < 16; ++i) {
        part[i] = _mm256_set_epi64x((long long)rows[48 + i][delta], (long long)rows[32 + i][delta],
                                    (long long)rows[16 + i][delta], (long long)rows[i][delta]);
      }
    } else {
      alignas(32) uint64_t words[16][4] = {};
      for (int64_t r = 0; r < count; ++r) words[r % 16][r / 16] = rows[r][delta];
      for (int i = 0; i < 16; ++i) part[i] = _mm256_load_si256((const __m256i*)words[i]);
    }
    swap_squares<8>(part);
    swap_squares<4>(part);
    swap_squares<2>(part);
    swap_squares<1>(part);
    // 16-bit piece b of row l to piece l of row b: pairs of rows become 32-bit units, which are then gathered
    const __m256i pair = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15,  //
                                          0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    const __m256i gather = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    UNROLL for (int i = 0; i < 16; ++i) {
      const __m256i out = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(part[i], pair), gather);
      const __m128d first = _mm_castsi128_pd(_mm256_castsi256_si128(out));
      const __m128d second = _mm_castsi128_pd(_mm256_extracti128_si256(out, 1));
      _mm_storel_pd((double*)(columns + i), first);
      _mm_storeh_pd((double*)(columns + 16 + i), first);
      _mm_storel_pd((double*)(columns + 32 + i), second);
      _mm_storeh_pd((double*)(columns + 48 + i), second);
    }
  }

  static __m256i two(const uint64_t* low, const uint64_t* high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)low)),
                                   _mm_loadu_si128((const __m128i*)high), 1);
  }

  /// Vector o is bytes o of columns 0, 16, 1, 17, ...: columns c and 16 + c are interleaved, then the 16-bit pairs of
  /// eight c a lane are transposed.
  static void place(const uint64_t* columns, int64_t octets, uint8_t* dst) {
    __m256i a[8], b[8];
    UNROLL for (int c = 0; c < 8; c += 2) {
      const __m256i even = two(columns + c, columns + 8 + c), odd = two(columns + 16 + c, columns + 24 + c);
      a[c] = _mm256_unpacklo_epi8(even, odd);
      a[c + 1] = _mm256_unpackhi_epi8(even, odd);
    }
    UNROLL for (int i = 0; i < 4; ++i) {  // pieces 0 to 3, then 4 to 7, of two columns
      b[i] = _mm256_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
      b[4 + i] = _mm256_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4) {  // pieces 0, 1, then 2, 3, of four columns
      a[i] = _mm256_unpacklo_epi32(b[i], b[i + 1]);
      a[i + 1] = _mm256_unpacklo_epi32(b[i + 2], b[i + 3]);
      a[i + 2] = _mm256_unpackhi_epi32(b[i], b[i + 1]);
      a[i + 3] = _mm256_unpackhi_epi32(b[i + 2], b[i + 3]);
    }
    UNROLL for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_epi64(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 1]);
    }
    if (octets == 8) {
      UNROLL for (int o = 0; o < 8; ++o) _mm256_storeu_si256((__m256i*)(dst + 32 * o), b[o]);
    } else {
      for (int64_t o = 0; o < octets; ++o) _mm256_storeu_si256((__m256i*)(dst + 32 * o), b[o]);
    }
  }
};

}  // namespace

extern "C" int abcfx_positions_avx2(const abcfx_positions_args* args) { return pack_positions<V>(*args); }
