#pragma once
#include <inttypes.h>

#include "memory.h"

/// What is being checked: it is printed with every failure, and `driver 1 SEED` runs that problem again.
struct Current {
  const char* op = "";
  const char* variant = "";
  uint64_t seed = 0;
};
inline Current current;

#define REQUIRE(condition, ...)                                                                             \
  do {                                                                                                      \
    if (!(condition)) {                                                                                     \
      fprintf(stderr, "%s %s, seed %" PRIu64 ": %s\n  ", current.op, current.variant, current.seed, #condition); \
      fprintf(stderr, __VA_ARGS__);                                                                         \
      fputc('\n', stderr);                                                                                  \
      exit(1);                                                                                              \
    }                                                                                                       \
  } while (0)

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Sizes near the edges of words and tiles come up often.
inline int64_t size_near(Random& random, int64_t step, int64_t most) {
  const int64_t size = step * random.between(0, most / step) + random.between(-1, 1);
  return random.between(0, 2) ? (size < 1 ? 1 : size > most ? most : size) : random.between(1, most);
}

/// A range of [0, count): everything, or any part of it, sometimes nothing.
inline void range_of(Random& random, int64_t count, int64_t* begin, int64_t* end) {
  *begin = 0;
  *end = count;
  if (random.between(0, 1)) return;
  *begin = random.between(0, count);
  *end = random.between(*begin, count);
}

template <class T>
void fill_integers(Random& random, Buffer<T>& values, int64_t low, int64_t high) {
  for (int64_t i = 0; i < values.count; ++i) values[i] = (T)random.between(low, high);
}

/// A random problem of each op on every variant that runs here, against the variant `reference` or the contract.
void check_bgemm(Random random);
void check_lut(Random random);
void check_pack(Random random);
void check_bitweights(Random random);
void check_padding(Random random);
