#include <cfloat>

#include "abcfx/epilogue.h"
#include "ops.h"
#include "product.h"

// A product and what follows it, a tile of rows at a time: while its f32 values are in the second cache they get the
// residual and the clip, and are stored, or packed into the planes that the next layer reads, or both. Planes alone need
// no f32 tensor at all.
namespace abcfx {
namespace {

constexpr int64_t TILE_BYTES = 1 << 17;  ///< of f32 values, beside weights in the second cache
constexpr int64_t AMX_TILE_BYTES = 1 << 19;  ///< a tile product wants many rows, and its processors have 2 MiB there
constexpr int64_t TILE_ROWS = 48;        ///< fewer would leave the tiles of the product kernels half empty

/// What happens to the values of some rows once they are there. Absent steps cost nothing.
struct Epilogue {
  std::optional<Tensor> residual, slope;
  ChannelAffine affine;
  abcfx_epilogue_args first = {}, second = {};
  float* keep = nullptr;      ///< where row 0 of the values is stored, if they are wanted
  bool packs = false;         ///< planes are wanted
  abcfx_pack_args pack = {};  ///< all of them
  int64_t cols, unit = 1;     ///< rows of an output line
  bool image = false;         ///< planes are a bit image: rows come in whole lines

  Epilogue(const char* op, const Product& product, const std::optional<Tensor>& residual_argument,
           const std::optional<Tensor>& slope_argument, double low, double high, const std::optional<Tensor>& gain,
           const std::optional<Tensor>& offset, double next_low, double next_high)
      : affine(OnCpu(), op, gain, offset, product.outputs), cols(product.outputs) {
    const abcfx_bgemm_args& args = product.args;
    if (residual_argument) {
      residual = residual_argument->dim() == 2
                     ? expect(op, "residual", *residual_argument, ScalarType::Float, {product.rows(), cols})
                     : expect(op, "residual", *residual_argument, ScalarType::Float,
                              {args.images, args.out_h, args.out_w, cols});
      first.residual = residual->const_data_ptr<float>();
    }
    if (slope_argument) {
      slope = expect(op, "slope", *slope_argument, ScalarType::Float, {cols});
      first.slope = slope->const_data_ptr<float>();
    }
    first.low = (float)low;
    first.high = (float)high;
    second.gain = affine.gain_data();
    second.offset = affine.offset_data();
    second.low = (float)next_low;
    second.high = (float)next_high;
    for (abcfx_epilogue_args* step : {&first, &second}) {
      step->cols = step->src_step = step->dst_step = step->residual_step = cols;
    }
  }

  static bool clips(const abcfx_epilogue_args& step) { return step.low > -FLT_MAX || step.high < FLT_MAX; }

  /// Rows [begin, end), whole lines; `values` is where row 0 would be, and is written to.
  int run(float* values, int64_t begin, int64_t end) const {
    int status = ABCFX_OK;
    if (first.residual || first.slope || clips(first)) status = apply(first, values, values, begin, end);
    if (status == ABCFX_OK && packs) status = run_pack(values, begin, end);
    return status;
  }

 private:
  static int apply(abcfx_epilogue_args step, const float* src, float* dst, int64_t begin, int64_t end) {
    step.src = src;
    step.dst = dst;
    step.row_begin = begin;
    step.row_end = end;
    return abcfx_epilogue_choose()(&step);
  }

  int run_pack(float* values, int64_t begin, int64_t end) const {
    abcfx_pack_args part = pack;
    part.src = values;
    if (clips(second)) {  // the pack kernels take an affine in front, but no clip after it
      float* normalized = values;
      if (keep) {
        normalized = (float*)thread_scratch<Scratch::NORMALIZED>((end - begin) * cols * 4) - begin * cols;
      }
      const int status = apply(second, values, normalized, begin, end);
      if (status != ABCFX_OK) return status;
      part.src = normalized;
    } else {
      part.gain = second.gain;
      part.offset = second.offset;
    }
    const abcfx_pack_fn kernel = abcfx_pack_choose();
    if (!image) {
      part.pixel_begin = begin;
      part.pixel_end = end;
      return kernel(&part);
    }
    const int64_t padded = pack.height + pack.top + pack.bottom;
    int status = ABCFX_OK;
    for (int64_t line = begin / unit, last = end / unit; status == ABCFX_OK && line < last;) {
      const int64_t image = line / pack.height, y = line % pack.height;
      const int64_t y_end = std::min(pack.height, y + last - line);
      part.line_begin = image * padded + (y == 0 ? 0 : pack.top + y);
      part.line_end = image * padded + (y_end == pack.height ? padded : pack.top + y_end);
      status = kernel(&part);
      line += y_end - y;
    }
    return status;
  }
};

/// The product and its epilogue on all threads: tile by tile where there are enough rows for tiles, else the whole
/// product first.
void run(const Product& product, const Epilogue& epilogue) {
  const int64_t rows = product.rows(), cols = product.outputs, threads = torch::stable::get_num_threads();
  if (rows == 0 || cols == 0) return;
  const int64_t unit = epilogue.image ? epilogue.unit : std::min<int64_t>(rows, 24), units = ceil_div(rows, unit);
  const int64_t fair = ceil_div(units, threads * (threads == 1 ? 1 : 2));
  const int64_t bytes = product.tiled() ? AMX_TILE_BYTES : TILE_BYTES;
  const int64_t fits = std::max<int64_t>(bytes / 4 / cols / unit, 1);
  const int64_t step = std::min(fair, fits) * unit, tiles = ceil_div(rows, step);
  if (step >= std::min(rows, TILE_ROWS) && tiles >= threads) {
    product.check(run_tasks(tiles, [&](int64_t tile) {
      const int64_t begin = tile * step, end = std::min(begin + step, rows);
      float* values = epilogue.keep;
      if (!values) values = (float*)thread_scratch<Scratch::VALUES>(step * cols * 4) - begin * cols;
      const int status = product.run_rows(begin, end, values);
      return status == ABCFX_OK ? epilogue.run(values, begin, end) : status;
    }));
    return;
  }
  std::vector<float> scratch(epilogue.keep ? 0 : rows * cols);
  float* values = epilogue.keep ? epilogue.keep : scratch.data();
  product.run(values);
  const int64_t lines = rows / epilogue.unit;
  product.check(run_ranges(lines, rows * cols * 4, [&](int64_t begin, int64_t end) {
    return epilogue.run(values, begin * epilogue.unit, end * epilogue.unit);
  }));
}

}  // namespace

std::tuple<Tensor, Tensor> linear_emit(const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha,
                                       const Tensor& tap_sums, const std::optional<Tensor>& bias, const Tensor& scale,
                                       const Tensor& shift, StringHandle text, int64_t depth,
                                       const std::optional<Tensor>& residual, const std::optional<Tensor>& slope,
                                       double low, double high, const std::optional<Tensor>& gain,
                                       const std::optional<Tensor>& offset, double next_low, double next_high,
                                       const std::optional<Tensor>& next_scale,
                                       const std::optional<Tensor>& next_shift, int64_t next_planes,
                                       StringHandle next_text, bool keep) {
  const char* op = "linear_emit";
  const Levels levels(op, scale, shift, bits.dim() == 3 ? bits.size(0) : 1, text);
  const NextLevels next(op, next_scale, next_shift, next_planes, next_text);
  const Product product = Product::linear(op, bits, weight_bits, alpha, tap_sums, bias, levels, depth);
  Epilogue epilogue(op, product, residual, slope, low, high, gain, offset, next_low, next_high);
  const int64_t rows = product.rows();
  Tensor y = new_tensor(bits, {keep ? rows : 0, product.outputs}, ScalarType::Float);
  if (keep) epilogue.keep = y.mutable_data_ptr<float>();
  epilogue.packs = next.levels.has_value();
  const Tensor planes = epilogue.packs ? pack_rows_into(epilogue.pack, bits, *next.levels, rows, product.outputs)
                                       : new_tensor(bits, {0, 0, 0}, ScalarType::Long);
  run(product, epilogue);
  return {y, planes};
}

std::tuple<Tensor, Tensor> conv2d_emit(
    const Tensor& bits, const Tensor& weight_bits, const Tensor& alpha, const Tensor& tap_sums,
    const std::optional<Tensor>& bias, const Tensor& scale, const Tensor& shift, StringHandle text, int64_t channels,
    std::vector<int64_t> kernel, std::vector<int64_t> stride, std::vector<int64_t> padding,
    std::vector<int64_t> dilation, int64_t groups, const std::optional<Tensor>& residual,
    const std::optional<Tensor>& slope, double low, double high, const std::optional<Tensor>& gain,
    const std::optional<Tensor>& offset, double next_low, double next_high, const std::optional<Tensor>& next_scale,
    const std::optional<Tensor>& next_shift, int64_t next_planes, StringHandle next_text, int64_t next_groups,
    std::vector<int64_t> next_padding, bool keep) {
  const char* op = "conv2d_emit";
  const Levels levels(op, scale, shift, bits.dim() == 5 ? bits.size(2) : 1, text);
  const NextLevels next(op, next_scale, next_shift, next_planes, next_text);
  const Product product = Product::conv2d(op, bits, weight_bits, alpha, tap_sums, bias, levels, channels, kernel,
                                          stride, padding, dilation, groups);
  Epilogue epilogue(op, product, residual, slope, low, high, gain, offset, next_low, next_high);
  const abcfx_bgemm_args& args = product.args;
  Tensor y = new_tensor(bits, {keep ? args.images : 0, args.out_h, args.out_w, product.outputs},
                                      ScalarType::Float);
  epilogue.image = true;
  epilogue.unit = args.out_w;
  if (keep) epilogue.keep = y.mutable_data_ptr<float>();
  epilogue.packs = next.levels.has_value();
  const Tensor planes = epilogue.packs
                            ? pack_image_into(epilogue.pack, op, bits, *next.levels, args.images, product.outputs,
                                              args.out_h, args.out_w, next_groups, next_padding)
                            : new_tensor(bits, {0, 0, 0, 0, 0}, ScalarType::Long);
  run(product, epilogue);
  return {y, planes};
}

}  // namespace abcfx
