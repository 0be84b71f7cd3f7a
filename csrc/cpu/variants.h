#pragma once
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

/// One line of a kernels.inc: a variant of an op, and the CPU features it needs.
template <typename Fn>
struct Variant {
  const char* name;
  const char* needs;
  Fn fn;
};

/// The variants of one op, best first.
template <typename Fn, int Count>
struct Variants {
  const Variant<Fn> (&list)[Count];

  /// The first that runs here, or the one named; NULL if there is none.
  const Variant<Fn>* runnable(const char* name) const {
    for (const Variant<Fn>& variant : list) {
      if (name && strcmp(variant.name, name) != 0) continue;
      if (!abcfx_cpu_missing(variant.needs)) return &variant;
    }
    return nullptr;
  }

  /// The one that ABCFX_KERNEL names if it runs here, else the first that does.
  const Variant<Fn>* best() const {
    const char* forced = getenv("ABCFX_KERNEL");
    const Variant<Fn>* variant = forced ? runnable(forced) : nullptr;
    return variant ? variant : runnable(nullptr);
  }

  Fn find(const char* name) const {
    const Variant<Fn>* variant = name ? runnable(name) : nullptr;
    return variant ? variant->fn : nullptr;
  }

  const char* name(int index) const { return index >= 0 && index < Count ? list[index].name : nullptr; }

  const char* missing(int index) const {
    return index >= 0 && index < Count ? abcfx_cpu_missing(list[index].needs) : nullptr;
  }
};

template <typename Fn, int Count>
Variants(const Variant<Fn> (&)[Count]) -> Variants<Fn, Count>;
