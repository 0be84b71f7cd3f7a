#pragma once
#include "emulated_launch.h"

// csrc/cuda/bgemm/instructions.cuh for the CPU, from the PTX manual's tables of fragments, not from window.cuh.
#define ABCFX_BIT_UNITS 1
namespace abcfx_cuda {

#if defined(ABCFX_TEST_XOR)
constexpr bool XOR_FORM = true;
#else
constexpr bool XOR_FORM = false;
#endif

inline unsigned char* shared_memory() { return emulated::block->shared; }

/// A copy is made as late as the hardware may make it: when its group is waited for.
template <int WORDS>
void copy(void* shared, const uint64_t* src, bool real) {
  if ((uintptr_t)shared % (8 * WORDS) || (uintptr_t)src % (8 * WORDS)) __builtin_trap();
  emulated::self->open.push_back({shared, src, 8 * WORDS, real});
}
template <int WORDS>
void load_words(uint64_t d[WORDS], const uint64_t* src) {
  if ((uintptr_t)src % (8 * WORDS)) __builtin_trap();
  memcpy(d, src, 8 * WORDS);
}
inline void commit_copies() {
  emulated::self->groups.push_back(std::move(emulated::self->open));
  emulated::self->open.clear();
}
template <int PENDING>
void wait_copies() {
  auto& groups = emulated::self->groups;
  while (groups.size() > PENDING) {
    for (const emulated::Copy& c : groups.front()) {
      if (c.real) memcpy(c.dst, c.src, c.bytes);
      else memset(c.dst, 0, c.bytes);
    }
    groups.erase(groups.begin());
  }
}

/// ldmatrix.x4: thread T gets word T % 4 of row T / 4 of matrix i, whose row r is named by lane 8 i + r.
inline void load_matrices(uint32_t d[4], const void* row) {
  if ((uintptr_t)row % 16) __builtin_trap();
  emulated::exchange(row, [&](auto of) {
    for (unsigned i = 0; i < 4; ++i) {
      memcpy(&d[i], (const char*)of(8 * i + emulated::lane() / 4) + emulated::lane() % 4 * 4, 4);
    }
  });
}

struct Operands {
  uint32_t a[4], b[2];
};

/// m16n8k256: bit k of row g of A is in lane 4 (g % 8) + k / 32 % 4, register g / 8 + 2 (k / 128); of column g of B in
/// the same lane, register k / 128. c[i] is row T / 4 + 8 (i / 2), column 2 (T % 4) + i % 2.
inline void multiply(int32_t c[4], const uint32_t a[4], const uint32_t b[2]) {
  const Operands mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  emulated::exchange(mine, [&](auto of) {
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = emulated::lane() / 4 + 8 * (i / 2), col = 2 * (emulated::lane() % 4) + i % 2;
      for (unsigned part = 0; part < 8; ++part) {
        const uint32_t x = of(4 * (row % 8) + part % 4).a[row / 8 + 2 * (part / 4)];
        const uint32_t y = of(4 * col + part % 4).b[part / 4];
        c[i] += __builtin_popcount(XOR_FORM ? x ^ y : x & y);
      }
    }
  });
}

}  // namespace abcfx_cuda
