#pragma once
#include <immintrin.h>

#include "tiles.h"

// The instructions of AMX, apart from the vectors of AVX-512. In a nameless namespace for the reason given in bgemm/window.h.

// On functions without vectors: what is called from them would not be inlined.
#if defined(ABCFX_EMULATED)
#define TILED
#else
#define TILED __attribute__((target("amx-tile,amx-int8")))
#endif

constexpr int64_t MOST_TILES = 3;  ///< of pixels at once

namespace {

/// Eight registers of sixteen rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
  TileConfig() {
    for (int i = 0; i < 8; ++i) row_bytes[i] = STEP, rows[i] = COLUMNS;
  }
};

TILED void configure() {
  const TileConfig config;
  __asm__ __volatile__("" ::"r"(&config) : "memory");  // the intrinsic names eight bytes of it only
  _tile_loadconfig(&config);
}

TILED void release() { _tile_release(); }

/// sums[r][c][16][16] int32 of ROWS tiles of pixels by COLS of output channels, over some steps.
///
/// Three by two sums leave one register for codes and one for weights: seven loads for six products.
template <int ROWS, int COLS>
TILED void multiply(const int8_t* const* codes, int64_t row_step, const Step* steps, int64_t count,
                    const int8_t* weights, int32_t* sums) {
  __asm__ __volatile__("" ::: "memory");  // the intrinsics do not say that they read what was stored before
  _tile_zero(0);
  if (COLS > 1) _tile_zero(1);
  if (ROWS > 1) _tile_zero(2);
  if (ROWS > 1 && COLS > 1) _tile_zero(3);
  if (ROWS > 2) _tile_zero(4);
  if (ROWS > 2 && COLS > 1) _tile_zero(5);
  for (int64_t s = 0; s < count; ++s, weights += 2 * TILE_STORE) {
    const int64_t at = steps[s].codes;
    _tile_loadd(7, weights, STEP);
    _tile_loadd(6, codes[0] + at, row_step);
    _tile_dpbssd(0, 6, 7);
    if (ROWS > 1) _tile_loadd(6, codes[1] + at, row_step);
    if (ROWS > 1) _tile_dpbssd(2, 6, 7);
    if (ROWS > 2) _tile_loadd(6, codes[2] + at, row_step);
    if (ROWS > 2) _tile_dpbssd(4, 6, 7);
    if (COLS == 1) continue;
    _tile_loadd(7, weights + TILE_STORE, STEP);
    if (ROWS > 2) _tile_dpbssd(5, 6, 7);
    if (ROWS > 2) _tile_loadd(6, codes[1] + at, row_step);
    if (ROWS > 1) _tile_dpbssd(3, 6, 7);
    if (ROWS > 1) _tile_loadd(6, codes[0] + at, row_step);
    _tile_dpbssd(1, 6, 7);
  }
  _tile_stored(0, sums, STEP);
  if (COLS > 1) _tile_stored(1, sums + 256, STEP);
  if (ROWS > 1) _tile_stored(2, sums + 512, STEP);
  if (ROWS > 1 && COLS > 1) _tile_stored(3, sums + 768, STEP);
  if (ROWS > 2) _tile_stored(4, sums + 1024, STEP);
  if (ROWS > 2 && COLS > 1) _tile_stored(5, sums + 1280, STEP);
}

}  // namespace
