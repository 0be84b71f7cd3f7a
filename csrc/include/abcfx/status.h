#pragma once

/// Every kernel returns one of these; the binding turns them into sentences with numbers in them.
enum abcfx_status { ABCFX_OK = 0, ABCFX_BAD_SHAPE = 1, ABCFX_UNSUPPORTED = 2 };
