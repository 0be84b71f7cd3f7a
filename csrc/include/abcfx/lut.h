#pragma once
#include <stddef.h>
#include <stdint.h>

#include "abcfx/bgemm.h"

#ifdef __cplusplus
extern "C" {
#endif

/// The product of abcfx/bgemm.h by table lookup: four activations against four weight bits at a time.
///
/// Adjacent planes whose beta doubles (all planes of coded levels) are the bits of one integer, a *digit* of D planes:
///
///   sum_q beta[q] A_q = beta[q0] * c,   c = 2 k - L,   k in 0..L the code,   L = 2^D - 1
///
/// For four adjacent channels and the nibble w of their weight bits (1 means -1),
///
///   T[w] = sum_i (w_i ? L - k_i : k_i)  in 0..4 L,      sum_i (w_i ? -c_i : c_i) = 2 T[w] - 4 L
///
/// The sixteen T of a group of channels are made once for every pixel of the bit image; a byte shuffle then looks up
/// four multiply-adds of D planes for each of `lanes` output channels. The work is that of M products, not of M * N.
/// Bits past the last channel are 0 in both operands: they add L to T wherever the pixel lies, a constant.
///
/// w      [groups][ceil(cols / lanes)][vectors][kernel_h * kernel_w][ceil(channels / 8)][lanes] bytes
///        a byte holds the weight bits of eight channels of one output channel, channel 8 i + b in bit b
///        vectors = weight_bases; output channel c of a block is byte 2 * (c % (lanes / 2)) + c / (lanes / 2), so that
///        16-bit sums come out in order
///        if cols <= lanes / 2, two planes share a vector: vectors = ceil(weight_bases / 2), output channel c of plane p
///        is byte 2 * c + p % 2 of vector p / 2; bytes that belong to no output channel or plane are 0
/// Everything else is as in abcfx/bgemm.h, but blocks are `lanes` output channels wide, and `product.w` is not read.
struct abcfx_lut_args {
  struct abcfx_bgemm_args product;
  const uint8_t* w;
  int64_t channels;  ///< of one group
  void* scratch;     ///< abcfx_lut_scratch_bytes(args) bytes, aligned to 64, of this thread alone
};

/// More taps than this would overflow the 16-bit sums of one pair of channel groups.
#define ABCFX_LUT_MAX_TAPS 256

typedef int (*abcfx_lut_fn)(const struct abcfx_lut_args* args);

/// How much scratch a call with these arguments needs (row and block ranges included).
ABCFX_API int64_t abcfx_lut_scratch_bytes(const struct abcfx_lut_args* args);

/// As in abcfx/bgemm.h.
ABCFX_API abcfx_lut_fn abcfx_lut_choose(void);
ABCFX_API abcfx_lut_fn abcfx_lut_find(const char* name);
ABCFX_API const char* abcfx_lut_chosen_name(void);
ABCFX_API const char* abcfx_lut_variant(int index);
ABCFX_API const char* abcfx_lut_missing(int index);
/// Output channels in a block of the variant that runs (or of the one of this name): 32 or 64; 0 for an unknown name.
ABCFX_API int64_t abcfx_lut_lanes(const char* name);

/// Whether the variant that runs multiplies in tiles (docs/lookup.md), whose calls want many rows.
ABCFX_API int abcfx_lut_tiled(void);

/// Vectors a block, as above.
ABCFX_API int64_t abcfx_lut_vectors(int64_t weight_bases, int64_t cols, int64_t lanes);

/// Pack fitted weight bases into `w`.
///
/// src  int8, entries -1 or +1, element (p, o, t, c) at p*stride_p + o*stride_o + t*stride_t + c*stride_c:
///      base p, output channel o of groups * cols, tap t, channel c of one group; fast if stride_c or stride_o is 1
/// Works on blocks [block_begin, block_end) of `lanes` output channels, counted over all groups.
struct abcfx_lut_pack_args {
  const int8_t* src;
  uint8_t* dst;
  int64_t bases, groups, cols, taps, channels, lanes;
  int64_t block_begin, block_end;
  int64_t stride_p, stride_o, stride_t, stride_c;
};

ABCFX_API int abcfx_lut_pack(const struct abcfx_lut_pack_args* args);

#ifdef __cplusplus
}
#endif
