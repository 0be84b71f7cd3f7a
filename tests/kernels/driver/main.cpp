// Random problems for every kernel of csrc/cpu, without Python: `driver N [FIRST]` runs N problems of each op, of seeds
// FIRST and on, on every variant that this processor has. For where Python cannot go: kernels of another processor under
// an emulator, and one program that is compiled whole with the sanitizers.
#include "abcfx/bgemm.h"
#include "abcfx/lut.h"
#include "abcfx/pack.h"
#include "check.h"

namespace {

void list(const char* op, const char* (*variant)(int), const char* (*missing)(int)) {
  printf("%s:", op);
  for (int i = 0; variant(i); ++i) {
    if (!missing(i)) printf(" %s", variant(i));
  }
  printf("\n");
}

void check(const char* op, void (*run)(Random), uint64_t seed) {
  current = {op, "", seed};
  run(Random{seed});
}

}  // namespace

int main(int count, char** arguments) {
  const uint64_t problems = count > 1 ? strtoull(arguments[1], NULL, 10) : 100;
  const uint64_t first = count > 2 ? strtoull(arguments[2], NULL, 10) : 0;
  list("bgemm", abcfx_bgemm_variant, abcfx_bgemm_missing);
  list("lut", abcfx_lut_variant, abcfx_lut_missing);
  list("pack", abcfx_pack_variant, abcfx_pack_missing);
  for (uint64_t seed = first; seed < first + problems; ++seed) {
    check("bgemm", check_bgemm, seed);
    check("lut", check_lut, seed);
    check("pack", check_pack, seed);
    check("bitweights", check_bitweights, seed);
    check("padding", check_padding, seed);
  }
  printf("%" PRIu64 " problems of each op agree\n", problems);
  return 0;
}
