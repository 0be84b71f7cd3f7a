// AVX2, by the compiler.
#include "walk.h"

#if !defined(__AVX2__)
#error "compile this file with -mavx2"
#endif

extern "C" int abcfx_epilogue_avx2(const abcfx_epilogue_args* args) { return epilogue(args); }
