// AMX: the integer product of lut.h without tables. Codes and weight bits become signed bytes in the caches, and a tile
// instruction multiplies sixteen pixels by sixteen output channels over 64 channels: M products, whatever N is, and one if
// the scales of the weights double, too.
#include "codes_amx.h"
#include "multiply_amx.h"

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#error "compile this file with -mavx512f -mavx512bw -mavx512dq -mavx512vl"
#endif

extern "C" int abcfx_lut_avx512bw(const abcfx_lut_args* args);

namespace {

constexpr int LANES = 64;
constexpr int64_t FEW_ROWS = 12;  // fewer leave tiles empty, and spreading the weights costs more than tables

/// The tiles of a batch.
struct RowTiles {
  int64_t count;
  const int8_t* codes[BATCH];  ///< of the first pixel's window
  float* dst[BATCH][COLUMNS];  ///< channel 0 of the row's outputs, NULL where there is none
  const float* base[BATCH][COLUMNS];
};

/// What a call has at work: a digit, a chunk of channels of one convolution group.
struct Work {
  const abcfx_lut_args* args;
  Shape shape;
  Digit digit;
  Digits weight_digits;
  int64_t group, channels, fold, vectors;
  int64_t first_pair, pairs;
  bool start;  ///< the first digit and chunk start from base; the later ones add to dst
  int8_t *codes, *weights;
  Step* steps;
  int64_t step_count;
  int64_t row_step;  ///< bytes of codes from one pixel of a tile to the next
};

/// The windows of all pixels of a batch, cut into steps. Taps of one line lie side by side where all channels are there.
void make_steps(Work& work, int64_t width) {
  const abcfx_bgemm_args& product = work.args->product;
  const bool whole = work.pairs == work.shape.pairs;
  const bool contiguous = product.kernel_w == 1 || (product.dilation_w == 1 && whole);
  const int64_t segments = contiguous ? 1 : product.kernel_w, taps = contiguous ? product.kernel_w : 1;
  const int64_t pixel = 8 * work.pairs, line = product.dilation_h * region_w(work.shape, width) * pixel;
  work.row_step = work.shape.step_w * pixel;
  work.step_count = 0;
  for (int64_t y = 0; y < product.kernel_h; ++y) {
    for (int64_t x = 0; x < segments; ++x) {
      const int64_t first = (y * segments + x) * taps * work.shape.pairs + work.first_pair, run = taps * work.pairs;
      for (int64_t pair = 0; pair < run; pair += 8) {
        const int64_t left = run - pair;
        work.steps[work.step_count++] = Step{y * line + x * product.dilation_w * pixel + 8 * pair, first + pair,
                                             left < 8 ? left : 8};
      }
    }
  }
}

/// The codes of every strip, and the tiles that read them.
void make_tiles(const Work& work, const Batch& batch, RowTiles& tiles) {
  const abcfx_bgemm_args& product = work.args->product;
  int8_t* codes = work.codes;
  tiles.count = 0;
  for (int64_t s = 0; s < batch.count; ++s) {
    const Strip& strip = batch.strips[s];
    const TileWalk walk(work.shape, strip);
    make_codes(*work.args, work.shape, strip, work.digit, work.group, work.first_pair, work.pairs, codes);
    for (int64_t tile = 0; tile < walk.count; ++tile, ++tiles.count) {
      int64_t y = walk.y(tile), x = walk.x(tile);
      tiles.codes[tiles.count] = codes + y * work.shape.step_h * walk.line_rows * 8 * work.pairs + x * work.row_step;
      for (int r = 0; r < COLUMNS; ++r, ++x) {
        if (!walk.per_line && x == walk.line_rows) x = 0, ++y;
        float*& dst = tiles.dst[tiles.count][r];
        dst = nullptr;
        if (x >= strip.width || y >= strip.lines) continue;
        const Cursor at{strip.n, strip.y + y, strip.x + x};
        dst = product.dst + ((at.n * product.out_h + at.y) * product.out_w + at.x) * work.channels;
        tiles.base[tiles.count][r] = base_of(product, at);
      }
    }
    codes += region_h(work.shape, strip.lines) * walk.line_rows * 8 * work.pairs;
  }
}

/// Sixteen output channels of one digit of the weights: where they go, what a sum counts, and where their weights are.
struct Column {
  int64_t channel;
  __mmask16 real;
  bool first;  ///< digit of the channels
  __m512 scale;
  WeightPlanes weights;
};

/// to = from + scale * sum for the rows of a tile that are wanted; `start`: from base. SAME: two digits of the same
/// channels, which are added up first.
template <int COLS, bool SAME>
void add_scaled(float* const* dst, const float* const* base, bool start, const int32_t* sums, const Column* columns) {
  constexpr int PLACES = SAME ? 1 : COLS;
  const float* const* from[PLACES];
  for (int c = 0; c < PLACES; ++c) from[c] = start && columns[c].first ? base : dst;
  for (int r = 0; r < COLUMNS; ++r, sums += COLUMNS) {
    if (!dst[r]) continue;
    UNROLL for (int c = 0; c < PLACES; ++c) {
      const Column& column = columns[c];
      __m512 value = _mm512_maskz_loadu_ps(column.real, from[c][r] + column.channel);
      value = _mm512_fmadd_ps(column.scale, _mm512_cvtepi32_ps(_mm512_load_si512(sums + 256 * c)), value);
      if (SAME) value = _mm512_fmadd_ps(columns[1].scale, _mm512_cvtepi32_ps(_mm512_load_si512(sums + 256)), value);
      _mm512_mask_storeu_ps(dst[r] + column.channel, column.real, value);
    }
  }
}

/// Column `index` of a block: all digits of its first sixteen channels, then of the next.
Column column_of(const Work& work, int64_t block, int64_t index) {
  const abcfx_bgemm_args& product = work.args->product;
  const int64_t place = index / work.weight_digits.count, d = index % work.weight_digits.count;
  const Digit& digit = work.weight_digits.list[d];
  const int64_t in_group = block % ceil_of(product.cols, LANES) * LANES + place * COLUMNS;
  const int64_t left = product.cols - in_group, channel = work.group * product.cols + in_group;
  const int64_t vector_bytes = work.shape.taps * work.shape.pairs * LANES;
  Column column;
  column.channel = channel;
  column.real = left >= COLUMNS ? 0xffff : (__mmask16)((1u << left) - 1);
  column.first = d == 0;
  column.scale = _mm512_mul_ps(_mm512_set1_ps(product.beta[work.digit.first]),
                               _mm512_maskz_loadu_ps(column.real, product.alpha + digit.first * work.channels + channel));
  column.weights.planes = digit.planes;
  column.weights.half = place % 2;
  for (int i = 0; i < digit.planes; ++i) {
    const int64_t p = digit.first + i;
    column.weights.w[i] = work.args->w + (block * work.vectors + p / work.fold) * vector_bytes;
    column.weights.odd[i] = work.fold == 2 ? p % 2 : place / 2;
  }
  return column;
}

/// A chunk of steps of one or two columns against all tiles of a batch.
void run_columns(const Work& work, const RowTiles& tiles, const Step* steps, int64_t count, const Column* columns,
                 int column_count, bool start) {
  constexpr decltype(&multiply<1, 1>) list[3][2] = {
      {multiply<1, 1>, multiply<1, 2>}, {multiply<2, 1>, multiply<2, 2>}, {multiply<3, 1>, multiply<3, 2>}};
  alignas(64) int32_t sums[MOST_TILES * 2 * COLUMNS * COLUMNS];
  for (int c = 0; c < column_count; ++c) {
    spread_weights(steps, count, columns[c].weights, work.weights + c * TILE_STORE);
  }
  const bool same = column_count == 2 && columns[0].channel == columns[1].channel;
  const auto add = same ? add_scaled<2, true> : column_count == 2 ? add_scaled<2, false> : add_scaled<1, false>;
  for (int64_t t = 0, rows; t < tiles.count; t += rows) {
    rows = tiles.count - t < MOST_TILES ? tiles.count - t : MOST_TILES;
    list[rows - 1][column_count - 1](tiles.codes + t, work.row_step, steps, count, work.weights, sums);
    for (int64_t i = 0; i < rows; ++i) {
      add(tiles.dst[t + i], tiles.base[t + i], start, sums + 512 * i, columns);
    }
  }
}

/// A batch against blocks [block_begin, block_end) of one convolution group.
void run_batch(Work& work, const Batch& batch, int64_t block_begin, int64_t block_end) {
  const abcfx_bgemm_args& product = work.args->product;
  RowTiles tiles;
  make_steps(work, batch.strips[0].width);
  make_tiles(work, batch, tiles);
  for (int64_t b = block_begin; b < block_end; ++b) {
    const int64_t left = product.cols - b % ceil_of(product.cols, LANES) * LANES;
    const int64_t columns = ceil_of(left < LANES ? left : LANES, COLUMNS) * work.weight_digits.count;
    for (int64_t c = 0; c < columns; c += 2) {
      const int count = c + 1 < columns ? 2 : 1;
      const Column pair[2] = {column_of(work, b, c), column_of(work, b, c + count - 1)};
      int64_t step = 0;
      do {  // without channels there is one empty chunk: dst = base
        const int64_t rest = work.step_count - step, chunk = rest < CHUNK_STEPS ? rest : CHUNK_STEPS;
        run_columns(work, tiles, work.steps + step, chunk, pair, count, work.start && step == 0);
        step += CHUNK_STEPS;
      } while (step < work.step_count);
    }
  }
}

/// All rows, convolution groups and chunks of channels for the digit at work.
void run_digit(Work& work, bool first) {
  const abcfx_bgemm_args& product = work.args->product;
  for (int64_t row = product.row_begin; row < product.row_end;) {
    const Batch batch(product, work.shape, row);
    row += batch.rows;
    for_each_chunk(product, work.shape, LANES, [&](const Chunk& chunk) {
      work.group = chunk.group;
      work.first_pair = chunk.first_pair;
      work.pairs = chunk.pairs;
      work.start = first && work.first_pair == 0;
      run_batch(work, batch, chunk.block_begin, chunk.block_end);
    });
  }
}

}  // namespace

extern "C" int abcfx_lut_amx(const abcfx_lut_args* args) {
  const abcfx_bgemm_args& product = args->product;
  if (!valid(*args, LANES)) return ABCFX_BAD_SHAPE;
  if (product.row_end - product.row_begin < FEW_ROWS) return abcfx_lut_avx512bw(args);
  if (product.block_begin >= product.block_end) return ABCFX_OK;
  Work work = {};
  work.args = args;
  work.shape = shape_of_tiles(*args);
  work.channels = product.groups * product.cols;
  work.fold = fold_of(product.cols, LANES);
  work.vectors = ceil_of(product.weight_bases, work.fold);
  work.codes = (int8_t*)args->scratch;
  work.weights = work.codes + code_bytes(work.shape);
  work.steps = (Step*)(work.weights + CHUNK_STEPS * 2 * TILE_STORE);
  work.weight_digits = weight_digits_of(product, AMX_DIGIT);
  configure();
  const Digits digits = digits_of(product, AMX_DIGIT);
  for (int d = 0; d < digits.count; ++d) {
    work.digit = digits.list[d];
    run_digit(work, d == 0);
  }
  release();
  return ABCFX_OK;
}
