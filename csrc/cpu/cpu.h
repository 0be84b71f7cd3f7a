#pragma once

/// The first of the space-separated CPU features that this machine (or its operating system) lacks, NULL if it has
/// all of them. Names are those of Linux's /proc/cpuinfo. The result points into static storage.
const char* abcfx_cpu_missing(const char* needs);
