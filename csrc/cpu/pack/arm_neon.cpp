// NEON. As in the other variants, a value becomes a code of one byte (image.h, Levels). NEON has no movemask: the 64
// tested bytes of a word are given the weights of their bits and added pairwise, three times, into eight bytes.
#include <arm_neon.h>

#include "image.h"

#if !defined(__aarch64__)
#error "this file is for aarch64"
#endif

namespace {

/// Levels, broadcast: four values at a time.
struct Quantizer {
  float32x4_t shift, inverse, top, threshold[ABCFX_MAX_BASES];
  int planes;

  explicit Quantizer(const Levels& levels)
      : shift(vdupq_n_f32(levels.shift)),
        inverse(vdupq_n_f32(levels.inverse)),
        top(vdupq_n_f32(levels.top)),
        planes(levels.planes) {
    for (int q = 0; q < planes; ++q) threshold[q] = vdupq_n_f32(levels.threshold[q]);
  }
};

/// fmaxnm returns its other operand if one is NaN: code 0. fcvtnu rounds half to even.
template <bool CODED>
inline uint32x4_t code_of(const Quantizer& quantizer, float32x4_t x) {
  if (CODED) {
    const float32x4_t t = vmulq_f32(vsubq_f32(x, quantizer.shift), quantizer.inverse);
    return vcvtnq_u32_f32(vminnmq_f32(vmaxnmq_f32(t, vdupq_n_f32(0.0f)), quantizer.top));
  }
  uint32x4_t code = vdupq_n_u32(0);
  for (int q = 0; q < quantizer.planes; ++q) {
    code = vorrq_u32(code, vandq_u32(vcgeq_f32(x, quantizer.threshold[q]), vdupq_n_u32(1u << q)));
  }
  return code;
}

/// The first `count` of four floats; reads nothing past them.
inline float32x4_t load(const float* src, int64_t count) {
  if (count >= 4) return vld1q_f32(src);
  float values[4] = {};
  for (int64_t i = 0; i < count; ++i) values[i] = src[i];
  return vld1q_f32(values);
}

/// One word of every plane of a pixel: the codes of its 64 channels, of which the bits set in `real` exist.
inline void store_planes(const Job& job, const uint8x16_t codes[4], uint64_t real, uint64_t* dst) {
  static const uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t weight = vld1q_u8(weights);
  for (int q = 0; q < job.levels.planes; ++q, dst += job.plane_step) {
    uint8x16_t minus[4];  // the weight of each bit whose code lacks bit q
    for (int i = 0; i < 4; ++i) minus[i] = vbicq_u8(weight, vtstq_u8(codes[i], vdupq_n_u8((uint8_t)(1 << q))));
    uint8x16_t sum = vpaddq_u8(vpaddq_u8(minus[0], minus[1]), vpaddq_u8(minus[2], minus[3]));
    sum = vpaddq_u8(sum, sum);
    *dst = vgetq_lane_u64(vreinterpretq_u64_u8(sum), 0) & real;
  }
}

/// The 64 codes of contiguous channels.
template <bool CODED>
inline void codes_of_channels(const Quantizer& quantizer, const float* src, int64_t count, uint8x16_t codes[4]) {
  for (int i = 0; i < 4; ++i) {
    uint16x4_t code[4];
    for (int k = 0; k < 4; ++k) {
      const int64_t begin = 16 * i + 4 * k;
      code[k] = vmovn_u32(code_of<CODED>(quantizer, begin < count ? load(src + begin, count - begin) : vdupq_n_f32(0)));
    }
    const uint8x8_t low = vmovn_u16(vcombine_u16(code[0], code[1])), high = vmovn_u16(vcombine_u16(code[2], code[3]));
    codes[i] = vcombine_u8(low, high);
  }
}

/// Up to 4 pixels x 64 channels of an image whose pixels are contiguous (NCHW). The codes of four channels share a
/// dword; st4 interleaves four such vectors, which gives every pixel the codes of 16 channels in order.
template <bool CODED>
inline void pack_tile(const Job& job, const Quantizer& quantizer, const float* src, int64_t pixels, int64_t count,
                      uint64_t* dst) {
  uint32_t codes[4][4][4];  // [16 channels][pixel][4 channels]
  for (int i = 0; i < 4; ++i) {
    uint32x4x4_t sixteen;
    for (int k = 0; k < 4; ++k) {
      uint32x4_t four = vdupq_n_u32(0);
      for (int c = 0; c < 4; ++c) {
        const int64_t channel = 16 * i + 4 * k + c;
        if (channel >= count) continue;
        const uint32x4_t code = code_of<CODED>(quantizer, load(src + channel * job.args->stride_c, pixels));
        four = vorrq_u32(four, vshlq_u32(code, vdupq_n_s32(8 * c)));
      }
      sixteen.val[k] = four;
    }
    vst4q_u32(&codes[i][0][0], sixteen);
  }
  for (int64_t x = 0; x < pixels; ++x) {
    uint8x16_t of_pixel[4];
    for (int i = 0; i < 4; ++i) of_pixel[i] = vreinterpretq_u8_u32(vld1q_u32(codes[i][x]));
    store_planes(job, of_pixel, low_bits(count), dst + x * job.pixel);
  }
}

template <bool CODED>
int pack(const Job& job) {
  const abcfx_pack_args& args = *job.args;
  const Quantizer quantizer(job.levels);
  return for_each_line(job, [&](const float* src, uint64_t* dst) {
    if (args.stride_c != 1 && args.stride_w == 1) {
      for (int64_t x = args.pixel_begin; x < args.pixel_end; x += 4) {
        const int64_t pixels = args.pixel_end - x < 4 ? args.pixel_end - x : 4;
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
        uint8x16_t codes[4];
        codes_of_channels<CODED>(quantizer, values, count, codes);
        store_planes(job, codes, low_bits(count), dst + x * job.pixel + place);
      });
    }
  });
}

}  // namespace

extern "C" int abcfx_pack_neon(const abcfx_pack_args* args) {
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  const Job job = job_of(*args);
  return job.levels.coded ? pack<true>(job) : pack<false>(job);
}
