#include "abcfx/pack.h"

#include <stdlib.h>
#include <string.h>

#include "../cpu.h"

extern "C" {
#define ABCFX_KERNEL(name, needs) int abcfx_pack_##name(const struct abcfx_pack_args* args);
#include "kernels.inc"
#undef ABCFX_KERNEL
}

namespace {

struct Variant {
  const char* name;
  const char* needs;
  abcfx_pack_fn fn;
};

const Variant variants[] = {
#define ABCFX_KERNEL(name, needs) {#name, needs, abcfx_pack_##name},
#include "kernels.inc"
#undef ABCFX_KERNEL
};
const int variant_count = sizeof(variants) / sizeof(variants[0]);

const Variant* runnable(const char* name) {
  for (const Variant& variant : variants) {
    if (name && strcmp(variant.name, name) != 0) continue;
    if (!abcfx_cpu_missing(variant.needs)) return &variant;
  }
  return nullptr;
}

const Variant* chosen() {
  static const Variant* best = [] {
    const char* forced = getenv("ABCFX_KERNEL");
    const Variant* variant = forced ? runnable(forced) : nullptr;
    return variant ? variant : runnable(nullptr);
  }();
  return best;
}

}  // namespace

abcfx_pack_fn abcfx_pack_choose(void) { return chosen()->fn; }

const char* abcfx_pack_chosen_name(void) { return chosen()->name; }

abcfx_pack_fn abcfx_pack_find(const char* name) {
  const Variant* variant = name ? runnable(name) : nullptr;
  return variant ? variant->fn : nullptr;
}

const char* abcfx_pack_variant(int index) {
  return index >= 0 && index < variant_count ? variants[index].name : nullptr;
}

const char* abcfx_pack_missing(int index) {
  return index >= 0 && index < variant_count ? abcfx_cpu_missing(variants[index].needs) : nullptr;
}
