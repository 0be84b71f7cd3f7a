// AVX2. Values become bytes (x86_avx2_methods.h), 32 at a time. Contiguous channels: half a word of a plane is the sign
// bits of 32 bytes. Contiguous pixels: eight channels of 32 pixels give bytes of eight bits, eight of which are a word.
#include <type_traits>

#include "x86_avx2_methods.h"

#if !defined(__AVX2__) || !defined(__F16C__)
#error "compile this file with -mavx2 -mf16c"
#endif

namespace {

/// Eight registers of codes, byte by byte -> W of bits: bit r of byte p of planes[q] is bit q of byte p of rows[r].
/// Rows of W bits share registers, W of them remain; then the W x W bits of every W rows are transposed.
template <int W>
inline void transpose_bits(const __m256i rows[8], __m256i planes[W]) {
  for (int j = 0; j < W; ++j) {
    planes[j] = rows[j];
    for (int r = W; r < 8; r += W) planes[j] = _mm256_or_si256(planes[j], _mm256_slli_epi16(rows[r + j], r));
  }
  for (int s = W / 2; s; s /= 2) {
    const __m256i low = _mm256_set1_epi8(s == 4 ? 0x0f : s == 2 ? 0x33 : 0x55);  // bits whose index lacks s
    for (int j = 0; j < W; ++j) {
      if (j & s) continue;
      const __m256i differ = _mm256_xor_si256(_mm256_srli_epi16(planes[j], s), planes[j + s]);
      const __m256i swap = _mm256_and_si256(differ, low);
      planes[j + s] = _mm256_xor_si256(planes[j + s], swap);
      planes[j] = _mm256_xor_si256(planes[j], _mm256_slli_epi16(swap, s));
    }
  }
}

/// Byte p of eight registers, side by side: out[i] holds pixels 2i, 2i + 1, 16 + 2i, 17 + 2i.
inline void interleave(const __m256i rows[8], __m256i out[8]) {
  __m256i pairs[8], fours[8];
  for (int i = 0; i < 4; ++i) {
    pairs[i] = _mm256_unpacklo_epi8(rows[2 * i], rows[2 * i + 1]);
    pairs[4 + i] = _mm256_unpackhi_epi8(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {  // pixels 0 to 7 of a lane, then 8 to 15
    fours[i] = _mm256_unpacklo_epi16(pairs[i], pairs[i + 1]);
    fours[i + 1] = _mm256_unpackhi_epi16(pairs[i], pairs[i + 1]);
    fours[i + 2] = _mm256_unpacklo_epi16(pairs[i + 2], pairs[i + 3]);
    fours[i + 3] = _mm256_unpackhi_epi16(pairs[i + 2], pairs[i + 3]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      out[i + 2 * j] = _mm256_unpacklo_epi32(fours[i + j], fours[i + j + 2]);
      out[i + 2 * j + 1] = _mm256_unpackhi_epi32(fours[i + j], fours[i + j + 2]);
    }
  }
}

template <class T, class Method, int PLANES, bool WITH_AFFINE>
struct Kernel {
  using Value = T;
  static constexpr bool AFFINE = WITH_AFFINE, ANY_COUNT = false;
  static constexpr int TILE = 32;
  static constexpr int ROOM = PLANES ? PLANES : ABCFX_MAX_BASES;
  static constexpr Meets EACH = AFFINE ? Meets::EACH : Meets::NEVER, ALL = AFFINE ? Meets::ALL : Meets::NEVER;

  Method method;
  int64_t plane_step;

  explicit Kernel(const Job& job) : method(job.levels), plane_step(job.plane_step) {}

  static constexpr bool is_short(int64_t channels) { return channels <= 32 && channels % 8 == 0 && channels > 0; }

  /// The bits of 32 values in every plane: set where it is +1.
  template <int OCTETS>
  static void plus_of(const Method& method, const Octets<T>& octets, uint32_t plus[ROOM]) {
    __m256i bytes[ROOM];
    method.template bytes<EACH, OCTETS>(octets, bytes);
    if (Method::SHARED) bytes[0] = Method::natural(bytes[0]);
    for (int q = 0; q < (PLANES ? PLANES : method.planes); ++q) {
      const __m256i own = Method::SHARED ? _mm256_slli_epi16(bytes[0], 7 - q) : Method::natural(bytes[q]);
      plus[q] = (uint32_t)_mm256_movemask_epi8(own);
    }
  }

  static Octets<T> contiguous(const T* src, const Affine& affine) {
    Octets<T> octets;
    octets.together = true;
    for (int i = 0; i < 4; ++i) octets.at[i] = src + 8 * i, octets.affine[i] = affine.from(8 * i);
    return octets;
  }

  NOINLINE void words(const T* src, const Affine& affine, int64_t n, uint64_t* dst) const {
    const Method local = method;  // nothing written through dst can change it: it stays in registers
    const int64_t step = plane_step;
    for (int64_t i = 0; i < n; ++i, src += 64, ++dst) {
      uint32_t low[ROOM], high[ROOM];
      plus_of<4>(local, contiguous(src, affine.from(64 * i)), low);
      plus_of<4>(local, contiguous(src + 32, affine.from(64 * i + 32)), high);
      for (int q = 0; q < (PLANES ? PLANES : local.planes); ++q) dst[q * step] = ~(low[q] | (uint64_t)high[q] << 32);
    }
  }

  /// Half a word of 0 to 4 octets.
  void half(const T* src, const Affine& affine, int64_t octets, uint32_t plus[ROOM]) const {
    if (octets == 1) plus_of<1>(method, contiguous(src, affine), plus);
    if (octets == 2) plus_of<2>(method, contiguous(src, affine), plus);
    if (octets == 3) plus_of<3>(method, contiguous(src, affine), plus);
    if (octets >= 4) plus_of<4>(method, contiguous(src, affine), plus);
  }

  NOINLINE void word(const T* src, const Affine& affine, int64_t count, uint64_t* dst) const {
    uint32_t low[ROOM] = {}, high[ROOM] = {};
    half(src, affine, (count + 7) / 8, low);
    half(src + 32, affine.from(32), (count + 7) / 8 - 4, high);
    for (int q = 0; q < (PLANES ? PLANES : method.planes); ++q) {
      dst[q * plane_step] = ~(low[q] | (uint64_t)high[q] << 32) & low_bits(count);
    }
  }

  /// Two words of 16 channels, or four of 8, share the 32 values of one step.
  template <int EACH_OCTETS>
  NOINLINE void short_words(const T* src, int64_t step, const Affine& affine, int64_t n, uint64_t* dst) const {
    constexpr int SHARE = 4 / EACH_OCTETS;
    const Method local = method;
    for (int64_t i = 0; i < n; i += SHARE) {
      Octets<T> octets = contiguous(src + i * step, affine);
      octets.together = SHARE == 1;
      for (int j = 0; SHARE > 1 && j < 4; ++j) {  // past the last word: the last one again
        const int64_t word = i + j / EACH_OCTETS < n ? i + j / EACH_OCTETS : n - 1;
        octets.at[j] = src + word * step + 8 * (j % EACH_OCTETS);
        octets.affine[j] = affine.from(8 * (j % EACH_OCTETS));
      }
      uint32_t plus[ROOM];
      plus_of<SHARE * EACH_OCTETS>(local, octets, plus);
      for (int j = 0; j < SHARE && i + j < n; ++j) {
        for (int q = 0; q < (PLANES ? PLANES : local.planes); ++q) {
          dst[q * plane_step + i + j] = ~(plus[q] >> (8 * EACH_OCTETS * j)) & (uint32_t)low_bits(8 * EACH_OCTETS);
        }
      }
    }
  }

  void short_words(const T* src, int64_t step, const Affine& affine, int64_t channels, int64_t n, uint64_t* dst) const {
    if (channels == 8) return short_words<1>(src, step, affine, n, dst);
    if (channels == 16) return short_words<2>(src, step, affine, n, dst);
    if (channels == 24) return short_words<3>(src, step, affine, n, dst);
    return short_words<4>(src, step, affine, n, dst);
  }

  /// Eight channels of 32 pixels: bit r of byte p of out[q] is plane q of channel r of pixel p.
  static void eight_channels(const Method& method, const T* src, int64_t step, const Affine& affine, int64_t count,
                             __m256i out[ROOM]) {
    const int planes = PLANES ? PLANES : method.planes;
    if constexpr (Method::SHARED) {
      constexpr int W = PLANES == 2 ? 2 : PLANES == 3 || PLANES == 4 ? 4 : 8;
      __m256i rows[8], bits[W];
      for (int r = 0; r < 8; ++r) {
        rows[r] = _mm256_setzero_si256();
        if (r < count) method.template bytes<ALL, 4>(pixels_of(src + r * step, affine.from(r)), rows + r);
      }
      transpose_bits<W>(rows, bits);
      for (int q = 0; q < planes; ++q) out[q] = Method::natural(bits[q]);
    } else {
      for (int q = 0; q < planes; ++q) out[q] = _mm256_setzero_si256();
      for (int r = 0; r < 8; ++r) {
        if (r >= count) break;
        __m256i plus[ROOM];
        method.template bytes<ALL, 4>(pixels_of(src + r * step, affine.from(r)), plus);
        const __m256i bit = _mm256_set1_epi8((char)(1 << r));
        for (int q = 0; q < planes; ++q) out[q] = _mm256_or_si256(out[q], _mm256_and_si256(plus[q], bit));
      }
      for (int q = 0; q < planes; ++q) out[q] = Method::natural(out[q]);
    }
  }

  static Octets<T> pixels_of(const T* src, const Affine& affine) {
    Octets<T> octets;
    octets.together = true;
    for (int i = 0; i < 4; ++i) octets.at[i] = src + 8 * i, octets.affine[i] = affine;
    return octets;
  }

  NOINLINE void tile(const T* src, int64_t step, const Affine& affine, int64_t count, int64_t, const int64_t* at,
            uint64_t* dst) const {
    const Method local = method;
    const int planes = PLANES ? PLANES : local.planes;
    __m256i bytes[ROOM][8];
    for (int k = 0; k < 8; ++k) {
      __m256i out[ROOM] = {};
      if (8 * k < count) eight_channels(local, src + 8 * k * step, step, affine.from(8 * k), count - 8 * k, out);
      for (int q = 0; q < planes; ++q) bytes[q][k] = out[q];
    }
    const __m256i real = _mm256_set1_epi64x((int64_t)low_bits(count));
    for (int q = 0; q < planes; ++q, dst += plane_step) {
      __m256i words[8];
      interleave(bytes[q], words);
      for (int i = 0; i < 8; ++i) {
        const __m256d four = _mm256_castsi256_pd(_mm256_andnot_si256(words[i], real));
        const __m128d first = _mm256_castpd256_pd128(four), second = _mm256_extractf128_pd(four, 1);
        _mm_storel_pd((double*)(dst + at[2 * i]), first);
        _mm_storeh_pd((double*)(dst + at[2 * i + 1]), first);
        _mm_storel_pd((double*)(dst + at[16 + 2 * i]), second);
        _mm_storeh_pd((double*)(dst + at[17 + 2 * i]), second);
      }
    }
  }
};

template <class T, class Method, int PLANES, bool AFFINE>
int run(const Job& job) {
  return walk(job, Kernel<T, Method, PLANES, AFFINE>(job));
}

/// Thresholds where one comparison is all that a plane takes; two planes of 16-bit codes take three between them.
template <class T, bool AFFINE>
int pack(const Job& job) {
  const bool coded = job.levels.coded, simple = !coded || monotone(job.levels);
  const int planes = job.levels.planes;
  if constexpr (sizeof(T) == 2 && !AFFINE) {
    if (planes == 1 && simple) return run<T, Keys<T, 1, false>, 1, AFFINE>(job);
    if (planes == 2 && simple && coded) return run<T, Keys<T, 2, true>, 2, AFFINE>(job);
    if (planes == 2 && !coded) return run<T, Keys<T, 2, false>, 2, AFFINE>(job);
    if (!coded) return run<T, Keys<T, 0, false>, 0, AFFINE>(job);
  } else {
    if (planes == 1 && simple) return run<T, Compared<T, 1>, 1, AFFINE>(job);
    if (planes == 2 && coded) return run<T, Steps<T, 2>, 2, AFFINE>(job);
    if (planes == 2) return run<T, Compared<T, 2>, 2, AFFINE>(job);
    if (!coded) return run<T, Compared<T, 0>, 0, AFFINE>(job);
  }
  if (planes == 3) return run<T, Steps<T, 3>, 3, AFFINE>(job);
  if (planes == 4) return run<T, Steps<T, 4>, 4, AFFINE>(job);
  return run<T, Steps<T, 0>, 0, AFFINE>(job);
}

}  // namespace

extern "C" int abcfx_pack_avx2(const abcfx_pack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Job job = job_of(*args);
  return with_type(job, [&](auto type) {
    using T = std::remove_cvref_t<decltype(*type)>;
    return args->gain ? pack<T, true>(job) : pack<T, false>(job);
  });
}
