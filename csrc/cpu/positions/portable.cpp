// Any machine: bits are transposed by swapping ever smaller squares of a 64 x 64 matrix (Warren, Hacker's Delight).
#include "columns.h"

namespace {

struct V {
  static void transpose(const uint64_t* const (&rows)[GROUP], int64_t count, int64_t delta, uint64_t* columns) {
    uint64_t words[64] = {};
    for (int64_t r = 0; r < count; ++r) words[r] = rows[r][delta];
    uint64_t low = 0x00000000ffffffff;  // bits whose index lacks s
    for (int s = 32; s; s /= 2, low ^= low << s) {
      for (int r = 0; r < 64; r = ((r | s) + 1) & ~s) {
        const uint64_t swap = (words[r] >> s ^ words[r + s]) & low;
        words[r] ^= swap << s;
        words[r + s] ^= swap;
      }
    }
    memcpy(columns, words, sizeof(words));
  }

  static void place(const uint64_t* columns, int64_t octets, uint8_t* dst) {
    for (int64_t c = 0; c < 32; ++c) {
      for (int64_t o = 0; o < octets; ++o) dst[32 * o + 2 * (c % 16) + c / 16] = (uint8_t)(columns[c] >> 8 * o);
    }
  }
};

}  // namespace

int64_t abcfx_positions_scratch_bytes(const abcfx_positions_args* args) {
  return Plan(*args).room(args->lanes) * (int64_t)sizeof(uint64_t);
}

extern "C" int abcfx_positions_portable(const abcfx_positions_args* args) { return pack_positions<V>(*args); }
