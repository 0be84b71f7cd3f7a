// AVX2: a vector of rows.h is one register.
#if !defined(__AVX2__)
#error "compile this file with -mavx2"
#endif
#include "rows.h"

extern "C" int abcfx_refit_avx2(const struct abcfx_refit_args* args) { return refit(args); }
