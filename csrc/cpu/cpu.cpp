#include "cpu.h"

#include <string.h>

namespace {

struct Feature {
  const char* name;
  bool present;
};

#if defined(__x86_64__)
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
