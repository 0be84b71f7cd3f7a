// Which kernel and which tile a product takes, and the sums of the rows.
#include "../launch.cuh"
#include "gemv.cuh"
#include "kernel.cuh"

namespace abcfx_cuda {
namespace {

bool in_range(int64_t value, int64_t low, int64_t high) { return value >= low && value <= high; }

bool valid(const abcfx_cuda_bgemm_args& t) {
  const bool bases = in_range(t.weight_bases, 1, ABCFX_MAX_BASES) && in_range(t.activation_bases, 1, ABCFX_MAX_BASES);
  const bool sizes = t.groups >= 1 && t.cols >= 0 && t.words >= 1 && t.depth >= 0 && t.images >= 0 && t.out_h >= 0 &&
                     t.out_w >= 0 && t.kernel_h >= 1 && t.kernel_w >= 1;
  const bool none = t.images * t.out_h * t.out_w == 0;
  return bases && sizes && in_range(t.dst_type, ABCFX_F32, ABCFX_F16) && (t.gain == nullptr) == (t.offset == nullptr) &&
         (none || ((t.out_h - 1) * t.stride_h + (t.kernel_h - 1) * t.dilation_h < t.padded_h &&
                   (t.out_w - 1) * t.stride_w + (t.kernel_w - 1) * t.dilation_w < t.padded_w));
}

/// Offsets of 32 bits, popcounts that f32 holds exactly, and a grid that CUDA takes.
bool within_reach(const abcfx_cuda_bgemm_args& t) {
  const int64_t image = t.images * t.padded_h * t.padded_w * t.activation_bases * t.groups * t.words;
  return image < (int64_t)1 << 32 && t.images * t.out_h * t.out_w * t.groups < (int64_t)1 << 31 &&
         t.kernel_h * t.kernel_w * t.words * 64 < (int64_t)1 << 23 && t.groups * ((t.cols + 31) / 32) < 1 << 16;
}

/// 16 bytes at a time, where rows of words begin at multiples of 16 bytes.
bool is_wide(const abcfx_cuda_bgemm_args& t) {
  return t.words % 2 == 0 && (uintptr_t)t.a % 16 == 0 && (uintptr_t)t.w % 16 == 0;
}

template <class T>
dim3 grid_of(const abcfx_cuda_bgemm_args& t) {
  const int64_t rows = t.images * t.out_h * t.out_w;
  return dim3((unsigned)((rows + T::ROWS - 1) / T::ROWS), (unsigned)((t.cols + T::COLS - 1) / T::COLS * t.groups));
}

/// The tile if it is asked for, or if it gives every multiprocessor a block. Returns -1 if it does not.
template <class T>
int try_tile(const abcfx_cuda_bgemm_args& t, const abcfx_cuda_emit_args& emit) {
  const dim3 grid = grid_of<T>(t);
  if (t.kernel == ABCFX_CUDA_CHOOSE && (int64_t)grid.x * grid.y < multiprocessors()) return -1;
  return launch(bgemm_kernel<T>, grid, T::THREADS, T::BYTES, t.stream, t, emit, is_wide(t));
}

/// Pairs of planes computed if they are taken in blocks of weights x planes; those past the last are wasted.
int64_t computed(const abcfx_cuda_bgemm_args& t, int64_t weights, int64_t planes) {
  return (t.weight_bases + weights - 1) / weights * weights * ((t.activation_bases + planes - 1) / planes * planes);
}

int large(const abcfx_cuda_bgemm_args& t, const abcfx_cuda_emit_args& emit) {
  if (t.weight_bases == 1 && t.activation_bases == 1) return try_tile<Tile<1, 1, 64, 32, true>>(t, emit);
  const int64_t both = computed(t, 2, 2), pair = computed(t, 1, 2), weights = computed(t, 2, 1);
  if (both <= pair && both <= weights) return try_tile<Tile<2, 2, 32, 32, false>>(t, emit);
  return pair <= weights ? try_tile<Tile<1, 2, 32, 48, false>>(t, emit) : try_tile<Tile<2, 1, 32, 48, false>>(t, emit);
}

/// Pairs (row, plane) up to which the weights are streamed.
constexpr int64_t GEMV_PAIRS = 8;

template <int ITEMS>
int gemv(const abcfx_cuda_bgemm_args& t, const abcfx_cuda_emit_args& emit) {
  const int64_t rows = t.images * t.out_h * t.out_w, together = ITEMS / t.activation_bases;
  const int64_t blocks = (rows + together - 1) / together * t.groups;
  if (blocks >= 1 << 16) return ABCFX_UNSUPPORTED;
  const dim3 grid((unsigned)((t.cols + 7) / 8), (unsigned)blocks);
  return launch(gemv_kernel<ITEMS>, grid, 256, 0, t.stream, t, emit, is_wide(t));
}

int product(const abcfx_cuda_bgemm_args& t, const abcfx_cuda_emit_args& emit) {
  if (!valid(t)) return ABCFX_BAD_SHAPE;
  if (!within_reach(t)) return ABCFX_UNSUPPORTED;
  const int64_t pairs = t.images * t.out_h * t.out_w * t.activation_bases;
  if (t.kernel == ABCFX_CUDA_GEMV || (t.kernel == ABCFX_CUDA_CHOOSE && pairs <= GEMV_PAIRS)) {
    if (pairs <= 1) return gemv<1>(t, emit);
    if (pairs <= 2) return gemv<2>(t, emit);
    return pairs <= 4 ? gemv<4>(t, emit) : gemv<8>(t, emit);
  }
  if (major_version() >= 10) return ABCFX_NO_BIT_UNITS;
  const int status = t.kernel == ABCFX_CUDA_SMALL ? -1 : large(t, emit);
  if (status >= 0) return status;
  using Small = Tile<1, 1, 32, 32, false>;
  return launch(bgemm_kernel<Small>, grid_of<Small>(t), Small::THREADS, Small::BYTES, t.stream, t, emit, is_wide(t));
}

bool valid(const abcfx_cuda_bgemm_args& t, const abcfx_cuda_emit_args& e) {
  if (e.planes == 0) return valid(t) && !e.dst && t.dst;
  return valid(t) && e.dst && in_range(e.planes, 1, ABCFX_MAX_BASES) && e.groups >= 1 &&
         t.groups * t.cols % e.groups == 0 && (e.gain == nullptr) == (e.offset == nullptr) && e.top >= 0 &&
         e.left >= 0 && e.bottom >= 0 && e.right >= 0 &&
         in_range(e.levels, ABCFX_CODED, ABCFX_THERMOMETER);
}

/// One thread for each row and group.
__global__ void __launch_bounds__(256) row_sums_kernel(const abcfx_cuda_bgemm_args args, const int32_t* counts,
                                                        float* dst) {
  const uint32_t groups = (uint32_t)args.groups, out_h = (uint32_t)args.out_h, out_w = (uint32_t)args.out_w;
  const uint32_t index = blockIdx.x * 256 + threadIdx.x, row = index / groups;  // a division of 64 bits is a call
  if (row >= args.images * args.out_h * args.out_w) return;
  const uint32_t line = row / out_w, x = row % out_w, n = line / out_h, y = line % out_h;
  float sum = 0.0f;
  for (int64_t q = 0; q < args.activation_bases; ++q) {
    int32_t count = 0;
    for (int64_t ky = 0; ky < args.kernel_h; ++ky) {
      const int64_t from = n * args.padded_h + y * args.stride_h + ky * args.dilation_h;
      const int32_t* pixels = counts + (from * args.activation_bases + q) * args.padded_w * args.groups;
      for (int64_t kx = 0; kx < args.kernel_w; ++kx) {
        count += pixels[(x * args.stride_w + kx * args.dilation_w) * args.groups + index % groups];
      }
    }
    sum += args.beta[q] * (float)count;
  }
  dst[index] = sum;
}

}  // namespace
}  // namespace abcfx_cuda

int abcfx_cuda_bgemm(const abcfx_cuda_bgemm_args* args) { return abcfx_cuda::product(*args, {}); }

int abcfx_cuda_bgemm_emit(const abcfx_cuda_bgemm_args* args, const abcfx_cuda_emit_args* emit) {
  using namespace abcfx_cuda;
  if (!valid(*args, *emit)) return ABCFX_BAD_SHAPE;
  if (emit->planes == 0) return product(*args, *emit);
  const int64_t height = emit->top + args->out_h + emit->bottom, width = emit->left + args->out_w + emit->right;
  const int64_t places = args->images * height * emit->planes * width * emit->groups;
  const int64_t words = (args->groups * args->cols / emit->groups + 63) / 64;
  if (args->images * height >= (int64_t)1 << 31) return ABCFX_UNSUPPORTED;
  int status = zero(emit->dst, places * words * 8, args->stream);
  if (status == ABCFX_OK && emit->counts) status = zero(emit->counts, places * 4, args->stream);
  return status == ABCFX_OK ? product(*args, *emit) : status;
}

int abcfx_cuda_row_sums(const abcfx_cuda_bgemm_args* args, const int32_t* counts, float* row_sum) {
  using namespace abcfx_cuda;
  if (!valid(*args)) return ABCFX_BAD_SHAPE;
  if (!within_reach(*args)) return ABCFX_UNSUPPORTED;
  const int64_t all = args->images * args->out_h * args->out_w * args->groups;
  return launch(row_sums_kernel, dim3((unsigned)((all + 255) / 256)), 256, 0, args->stream, *args, counts, row_sum);
}
