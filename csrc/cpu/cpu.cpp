#include "cpu.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

struct Feature {
  const char* name;
  bool present;
};

#if defined(__x86_64__)
/// Bit `bit` of EDX of leaf 7, if Linux lets this process have tile registers: one has to ask.
bool tiles(int bit) {
#if defined(__linux__)
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  static const bool allowed = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> bit & 1) && allowed;
#else
  return false;
#endif
}

// __builtin_cpu_supports takes literals only, and spells some names without the underscore of Linux.
const Feature* features(int* count) {
  static const Feature list[] = {
      {"popcnt", __builtin_cpu_supports("popcnt") != 0},
      {"avx2", __builtin_cpu_supports("avx2") != 0},
      {"fma", __builtin_cpu_supports("fma") != 0},
      {"f16c", __builtin_cpu_supports("f16c") != 0},
      {"avx512f", __builtin_cpu_supports("avx512f") != 0},
      {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
      {"avx512dq", __builtin_cpu_supports("avx512dq") != 0},
      {"avx512vl", __builtin_cpu_supports("avx512vl") != 0},
      {"amx_tile", tiles(24)},
      {"amx_int8", tiles(25)},
      {"avx512_vpopcntdq", __builtin_cpu_supports("avx512vpopcntdq") != 0},
  };
  *count = sizeof(list) / sizeof(list[0]);
  return list;
}
#else
const Feature* features(int* count) {
  *count = 0;
  return nullptr;
}
#endif

}  // namespace

const char* abcfx_cpu_missing(const char* needs) {
  int count = 0;
  const Feature* list = features(&count);
  while (*needs) {
    const size_t length = strcspn(needs, " ");
    bool present = false;
    for (int i = 0; i < count; ++i) {
      if (strlen(list[i].name) != length || strncmp(list[i].name, needs, length) != 0) continue;
      present = list[i].present;
      if (!present) return list[i].name;
    }
    if (!present) return "a feature unknown on this machine";
    needs += length;
    while (*needs == ' ') ++needs;
  }
  return nullptr;
}
