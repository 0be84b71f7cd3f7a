// Any machine.
#include "walk.h"

extern "C" int abcfx_epilogue_portable(const abcfx_epilogue_args* args) { return epilogue(args); }
