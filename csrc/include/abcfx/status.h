#pragma once

/// Every kernel returns one of these; the binding turns them into sentences with numbers in them.
enum abcfx_status { ABCFX_OK = 0, ABCFX_BAD_SHAPE = 1, ABCFX_UNSUPPORTED = 2 };

/// Functions the library exports: everything else in it is hidden.
#if defined(_WIN32)
#define ABCFX_API __declspec(dllexport)
#else
#define ABCFX_API __attribute__((visibility("default")))
#endif

/// More planes than this on either side of a product are refused.
#define ABCFX_MAX_BASES 8
/// Output channels side by side in a packed weight: one 512-bit load.
#define ABCFX_LANES 8
