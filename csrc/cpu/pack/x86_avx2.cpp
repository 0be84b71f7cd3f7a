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

struct Traits {
  static constexpr int TILE = 32, TILES = 8;
  static constexpr bool ANY_COUNT = false;
  static constexpr bool is_short(int64_t channels) { return channels == 16 || channels == 32; }
};

template <class T, class Method, int PLANES, bool AFFINE>
struct Quantize final : Kernel<T> {
  static constexpr int TILE = Traits::TILE;
  static constexpr int ROOM = PLANES ? PLANES : ABCFX_MAX_BASES;
  static constexpr Meets EACH = AFFINE ? Meets::EACH : Meets::NEVER, ALL = AFFINE ? Meets::ALL : Meets::NEVER;

  Method method;
  int64_t plane_step;

  explicit Quantize(const Job& job) : method(job.levels), plane_step(job.plane_step) {}

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

  /// Four octets in a row: of channels, each with its own affine, or of pixels of one channel.
  static Octets<T> contiguous(const T* src, const Affine& affine, bool each) {
    Octets<T> octets;
    octets.together = true;
    for (int i = 0; i < 4; ++i) {
      octets.at[i] = src + 8 * i;
      if (AFFINE) octets.affine[i] = each ? affine.from(8 * i) : affine;
    }
    return octets;
  }

  void words(const T* src, const Affine& affine, int64_t n, int64_t pixels, int64_t step, uint64_t* dst,
             int64_t dst_step) const override {
    const Method local = method;  // nothing written through dst can change it: it stays in registers
    const int64_t plane = plane_step;
    for (int64_t x = 0; x < pixels; ++x, src += step, dst += dst_step) {
      for (int64_t i = 0; i < n; ++i) {
        uint32_t low[ROOM], high[ROOM];
        plus_of<4>(local, contiguous(src + 64 * i, affine.from(64 * i), true), low);
        plus_of<4>(local, contiguous(src + 64 * i + 32, affine.from(64 * i + 32), true), high);
        for (int q = 0; q < (PLANES ? PLANES : local.planes); ++q) {
          dst[q * plane + i] = ~(low[q] | (uint64_t)high[q] << 32);
        }
      }
    }
  }

  /// Half a word of 0 to 4 octets.
  void half(const T* src, const Affine& affine, int64_t octets, uint32_t plus[ROOM]) const {
    if (octets == 1) plus_of<1>(method, contiguous(src, affine, true), plus);
    if (octets == 2) plus_of<2>(method, contiguous(src, affine, true), plus);
    if (octets == 3) plus_of<3>(method, contiguous(src, affine, true), plus);
    if (octets >= 4) plus_of<4>(method, contiguous(src, affine, true), plus);
  }

  void word(const T* src, const Affine& affine, int64_t count, uint64_t* dst) const override {
    uint32_t low[ROOM] = {}, high[ROOM] = {};
    half(src, affine, (count + 7) / 8, low);
    half(src + 32, affine.from(32), (count + 7) / 8 - 4, high);
    for (int q = 0; q < (PLANES ? PLANES : method.planes); ++q) {
      dst[q * plane_step] = ~(low[q] | (uint64_t)high[q] << 32) & low_bits(count);
    }
  }

  /// Words of 16 channels: two share the 32 values of one step. Words of 32: nothing but the lower half.
  template <int SHARE>
  void short_words(const T* src, int64_t step, const Affine& affine, int64_t n, uint64_t* dst) const {
    constexpr int CHANNELS = 32 / SHARE;
    const Method local = method;
    const int64_t plane = plane_step;
    for (; n >= SHARE; n -= SHARE, src += SHARE * step, dst += SHARE) {
      Octets<T> octets = contiguous(src, affine, true);
      if (SHARE == 2) {
        octets.together = false;
        for (int i = 0; i < 2; ++i) octets.at[2 + i] = src + step + 8 * i, octets.affine[2 + i] = octets.affine[i];
      }
      uint32_t plus[ROOM];
      plus_of<4>(local, octets, plus);
      for (int q = 0; q < (PLANES ? PLANES : local.planes); ++q) {
        for (int j = 0; j < SHARE; ++j) {
          dst[q * plane + j] = (uint32_t)(~plus[q] >> CHANNELS * j) & (uint32_t)low_bits(CHANNELS);
        }
      }
    }
    if (n) word(src, affine, CHANNELS, dst);
  }

  void short_words(const T* src, int64_t step, const Affine& affine, int64_t channels, int64_t n,
                   uint64_t* dst) const override {
    if (channels == 16) return short_words<2>(src, step, affine, n, dst);
    return short_words<1>(src, step, affine, n, dst);
  }

  /// Eight channels of 32 pixels: bit r of byte p of out[q] is plane q of channel r of pixel p. Past
  /// `count` channels it is the last one again.
  static void eight_channels(const Method& method, const T* src, int64_t step, const Affine& affine, int64_t count,
                             __m256i out[ROOM]) {
    const int planes = PLANES ? PLANES : method.planes;
    constexpr int W = !Method::SHARED ? 1 : PLANES == 2 ? 2 : PLANES == 3 || PLANES == 4 ? 4 : 8;
    __m256i rows[8], bits[ROOM > W ? ROOM : W];
    for (int r = 0; r < 8; ++r) {
      const int64_t channel = r < count ? r : count - 1;
      const T* row = src + channel * step;
      prefetch<TILE>(row + TILE);
      __m256i bytes[ROOM];
      method.template bytes<ALL, 4>(contiguous(row, affine.from(channel), false), bytes);
      if constexpr (Method::SHARED) {
        rows[r] = bytes[0];
      } else {
        for (int q = 0; q < planes; ++q) {
          const __m256i bit = _mm256_and_si256(bytes[q], _mm256_set1_epi8((char)(1 << r)));
          bits[q] = r ? _mm256_or_si256(bits[q], bit) : bit;
        }
      }
    }
    if constexpr (Method::SHARED) transpose_bits<W>(rows, bits);
    for (int q = 0; q < planes; ++q) out[q] = Method::natural(bits[q]);
  }

  /// Eight channels of all tiles, then the next eight: eight streams of memory at a time, not sixty-four, whose lines
  /// would share few sets of the first cache where images have a power of two of pixels.
  void tiles(const T* src, int64_t step, const Affine& affine, int64_t count, int64_t pixels, const int64_t* at,
             uint64_t* dst) const override {
    const Method local = method;
    const int planes = PLANES ? PLANES : local.planes;
    const int64_t tiles = (pixels + TILE - 1) / TILE;
    const auto start = [=](int64_t tile) { return TILE * tile + TILE < pixels ? TILE * tile : pixels - TILE; };
    __m256i bytes[Traits::TILES][ROOM][8];
    for (int k = 0; k < 8; ++k, src += 8 * step) {
      for (int64_t t = 0; t < tiles; ++t) {
        __m256i out[ROOM];
        for (int q = 0; q < planes; ++q) out[q] = _mm256_setzero_si256();
        if (8 * k < count) eight_channels(local, src + start(t), step, affine.from(8 * k), count - 8 * k, out);
        for (int q = 0; q < planes; ++q) bytes[t][q][k] = out[q];
      }
    }
    const __m256i real = _mm256_set1_epi64x((int64_t)low_bits(count));
    for (int q = 0; q < planes; ++q, dst += plane_step) {
      for (int64_t t = 0; t < tiles; ++t) store_words(bytes[t][q], real, at + start(t), dst);
    }
  }

  /// The words of 32 pixels, from bytes of bits that are set where the plane is +1.
  static void store_words(const __m256i bytes[8], __m256i real, const int64_t* at, uint64_t* dst) {
    __m256i words[8];
    interleave(bytes, words);
    for (int i = 0; i < 8; ++i) {
      const __m256d four = _mm256_castsi256_pd(_mm256_andnot_si256(words[i], real));
      const __m128d first = _mm256_castpd256_pd128(four), second = _mm256_extractf128_pd(four, 1);
      _mm_storel_pd((double*)(dst + at[2 * i]), first);
      _mm_storeh_pd((double*)(dst + at[2 * i + 1]), first);
      _mm_storel_pd((double*)(dst + at[16 + 2 * i]), second);
      _mm_storeh_pd((double*)(dst + at[17 + 2 * i]), second);
    }
  }
};

template <class T, class Method, int PLANES, bool AFFINE>
int run(const Job& job) {
  return walk<Traits, T>(job, Quantize<T, Method, PLANES, AFFINE>(job));
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
