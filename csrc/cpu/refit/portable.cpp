// Any machine: the vector types of rows.h become whatever registers there are.
#include "rows.h"

extern "C" int abcfx_refit_portable(const struct abcfx_refit_args* args) { return refit(args); }
