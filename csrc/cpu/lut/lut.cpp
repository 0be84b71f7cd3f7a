#include "abcfx/lut.h"

#include "../variants.h"
#include "tiles.h"

extern "C" {
#define ABCFX_KERNEL(name, needs, lanes, tiled) int abcfx_lut_##name(const struct abcfx_lut_args* args);
#include "kernels.inc"
#undef ABCFX_KERNEL
}

namespace {

const Variant<abcfx_lut_fn> list[] = {
#define ABCFX_KERNEL(name, needs, lanes, tiled) {#name, needs, abcfx_lut_##name},
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const int64_t lanes_of[] = {
#define ABCFX_KERNEL(name, needs, lanes, tiled) lanes,
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const bool tiled_of[] = {
#define ABCFX_KERNEL(name, needs, lanes, tiled) tiled,
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const Variants variants{list};

const Variant<abcfx_lut_fn>* chosen() {
  static const auto* best = variants.best();
  return best;
}

}  // namespace

abcfx_lut_fn abcfx_lut_choose(void) { return chosen()->fn; }
const char* abcfx_lut_chosen_name(void) { return chosen()->name; }
abcfx_lut_fn abcfx_lut_find(const char* name) { return variants.find(name); }
const char* abcfx_lut_variant(int index) { return variants.name(index); }
const char* abcfx_lut_missing(int index) { return variants.missing(index); }

int64_t abcfx_lut_lanes(const char* name) {
  const Variant<abcfx_lut_fn>* variant = name ? variants.runnable(name) : chosen();
  return variant ? lanes_of[variant - list] : 0;
}

int abcfx_lut_tiled(void) { return tiled_of[chosen() - list]; }

// Enough for every variant: that of tiles leaves calls of few rows to that of tables.
int64_t abcfx_lut_scratch_bytes(const abcfx_lut_args* args) {
  const int64_t tables = scratch_bytes(*args), tiles = tile_scratch_bytes(*args);
  return tables > tiles ? tables : tiles;
}
int64_t abcfx_lut_vectors(int64_t weight_bases, int64_t cols, int64_t lanes) {
  return vectors_of(weight_bases, cols, lanes);
}
