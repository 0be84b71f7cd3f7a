// Weight planes, K-major, and their popcounts: one warp for each channel and plane.
#include "../launch.cuh"

namespace abcfx_cuda {
namespace {

__global__ void __launch_bounds__(128) weights_kernel(const abcfx_cuda_weights_args args) {
  const uint32_t warp = blockIdx.x * 4 + threadIdx.x / 32, channels = (uint32_t)(args.groups * args.cols);
  const uint32_t cols = (uint32_t)args.cols;
  const int lane = threadIdx.x % 32;
  if (warp >= args.bases * channels) return;
  const uint32_t p = warp / channels, o = warp % channels;
  const int64_t words = (args.channels + 63) / 64;
  const int64_t row = (o / cols * args.bases + p) * args.cols + o % cols;
  const int8_t* src = args.src + (int64_t)warp * args.taps * args.channels;
  uint64_t* dst = args.dst + row * args.taps * words;
  int32_t count = 0;
  for (int64_t tap = 0; tap < args.taps; ++tap, src += args.channels) {
    for (int64_t first = 0; first < args.channels; first += 64, ++dst) {
      const int64_t c = first + lane;
      const uint64_t low = __ballot_sync(~0u, c < args.channels && src[c] < 0);
      const uint64_t word = low | (uint64_t)__ballot_sync(~0u, c + 32 < args.channels && src[c + 32] < 0) << 32;
      count += __popcll(word);
      if (lane == 0) *dst = word;
    }
  }
  if (lane == 0) args.counts[warp] = count;
}

}  // namespace
}  // namespace abcfx_cuda

int abcfx_cuda_pack_weights(const abcfx_cuda_weights_args* args) {
  if (args->bases < 1 || args->bases > ABCFX_MAX_BASES || args->groups < 1 || args->cols < 0 || args->taps < 1 ||
      args->channels < 1) {
    return ABCFX_BAD_SHAPE;
  }
  const int64_t warps = args->bases * args->groups * args->cols;
  if (warps >= (int64_t)1 << 31) return ABCFX_UNSUPPORTED;
  return abcfx_cuda::launch(abcfx_cuda::weights_kernel, dim3((unsigned)((warps + 3) / 4)), 128, 0, args->stream, *args);
}
