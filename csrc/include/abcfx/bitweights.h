#pragma once
#include <stdint.h>

#include "abcfx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Pack fitted weight bases into the layout that the GEMM reads (docs/bits.md).
///
///   bit b of word i of tap t, plane p, channel o is 1  <=>  bases[p][o][t][64 i + b] < 0
///
/// src  int8, entries -1 or +1   [bases][groups * cols][taps][channels]     channels of one group
/// dst  [groups][ceil(cols / 8)][bases][taps * words][8], words = ceil(channels / 64)
///      tail bits and the channels past `cols` in the last block are 0
/// Works on blocks [block_begin, block_end) of eight output channels, counted over all groups.
struct abcfx_bitweights_args {
  const int8_t* src;
  uint64_t* dst;
  int64_t bases, groups, cols, taps, channels;
  int64_t block_begin, block_end;
};

ABCFX_API int abcfx_bitweights_pack(const struct abcfx_bitweights_args* args);

#ifdef __cplusplus
}
#endif
