// The kernel of kernel.cuh on the host: shared memory as TMA fills it, operands as wgmma addresses them, accumulators
// where wgmma leaves them, all read back through the functions the kernel uses. Exits 1 with a line on the first
// difference from a plain loop.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "plan.h"

using namespace abcfx_hopper;

namespace {

std::mt19937_64 random_words(7);

[[noreturn]] void fail(const char* what, long long got, long long want) {
  std::printf("%s: got %lld, expected %lld\n", what, got, want);
  std::exit(1);
}
void expect(const char* what, long long got, long long want) {
  if (got != want) fail(what, got, want);
}

/// cp.async.bulk.tensor: 16-byte units of a box, zeros outside the tensor, the unit number xored with the line number.
void load(const Map& m, const std::vector<uint64_t>& data, const int (&at)[5], uint8_t* shared) {
  int n[5];
  for (int d = 1; d < 5; ++d) n[d] = int(ceil_div(m.box[d], m.steps[d]));
  size_t line = 0;
  for (int e = 0; e < n[4]; ++e)
    for (int d = 0; d < n[3]; ++d)
      for (int c = 0; c < n[2]; ++c)
        for (int b = 0; b < n[1]; ++b, ++line)
          for (int unit = 0; unit < 8; ++unit) {
            const int64_t where[5] = {at[0] + unit * 16, at[1] + b * int(m.steps[1]), at[2] + c * int(m.steps[2]),
                                      at[3] + d * int(m.steps[3]), at[4] + e * int(m.steps[4])};
            bool within = true;
            size_t offset = size_t(where[0]);
            for (int i = 0; i < 5; ++i) within = within && where[i] >= 0 && uint64_t(where[i]) < m.dims[i];
            for (int i = 1; i < 5; ++i) offset += size_t(where[i]) * m.strides[i - 1];
            uint8_t* to = shared + line * 128 + (size_t(unit) ^ (line % 8)) * 16;
            std::memset(to, 0, 16);
            if (!within) continue;
            const size_t bytes = data.size() * 8;
            if (offset + 16 > bytes) fail("read past the operand", (long long)offset, (long long)bytes);
            std::memcpy(to, reinterpret_cast<const uint8_t*>(data.data()) + offset, 16);
          }
}

/// What cuTensorMapEncodeTiled documents for bytes, no interleave and the 128-byte swizzle.
void check_map(const Map& m, size_t box_bytes) {
  size_t bytes = 1;
  for (int i = 0; i < 5; ++i) {
    expect("dimension, box and element stride in range", m.dims[i] >= 1 && m.dims[i] <= uint64_t(1) << 32 &&
           m.box[i] >= 1 && m.box[i] <= 256 && m.steps[i] >= 1 && m.steps[i] <= 8, 1);
    bytes *= size_t(ceil_div(m.box[i], m.steps[i]));
  }
  for (int i = 0; i < 4; ++i) {
    const uint64_t below = i == 0 ? 1 : m.strides[i - 1];
    expect("pitch", m.strides[i] % 16 == 0 && m.strides[i] < uint64_t(1) << 40, 1);
    expect("pitch holds whole lines of the dimension below",
           m.strides[i] % below == 0 && m.strides[i] >= below * m.dims[i], 1);
  }
  expect("bytes the barrier waits for", (long long)bytes, (long long)box_bytes);
}

/// Row `row` of an operand: two units of 16 bytes, each at its swizzled address.
void read_operand(const uint8_t* shared, uint64_t desc, int row, uint64_t (&out)[4]) {
  expect("swizzle mode", (long long)(desc >> 62), 1);
  const uint32_t start = uint32_t(desc & 0x3FFF) << 4, stride = uint32_t(desc >> 32 & 0x3FFF) << 4;
  for (uint32_t unit = 0; unit < 2; ++unit) {
    const uint32_t address = start + uint32_t(row / 8) * stride + uint32_t(row % 8) * 128 + unit * 16;
    std::memcpy(out + unit * 2, shared + swizzle128(address), 16);
  }
}

/// d[thread][index] as the PTX manual draws it, written from (row, column) to (thread, index).
using Accumulators = std::vector<std::vector<int>>;
void wgmma(const uint8_t* shared, uint64_t a, uint64_t b, int cols, bool add, Accumulators& d) {
  uint64_t left[4], right[4];
  for (int r = 0; r < 64; ++r) {
    read_operand(shared, a, r, left);
    for (int c = 0; c < cols; ++c) {
      read_operand(shared, b, c, right);
      int count = 0;
      for (int i = 0; i < 4; ++i) count += __builtin_popcountll(left[i] & right[i]);
      int& to = d[size_t(r / 16 * 32 + r % 8 * 4 + c % 8 / 2)][size_t(c / 8 * 4 + r % 16 / 8 * 2 + c % 2)];
      to = add ? to + count : count;
    }
  }
}

struct Layer {
  abcfx_cuda_bgemm_args t;
  std::vector<uint64_t> a, w;
  int64_t rows() const { return t.images * t.out_h * t.out_w; }
  int64_t outputs() const { return t.groups * t.cols; }
};

Layer make_layer(abcfx_cuda_bgemm_args t) {
  Layer l{t, {}, {}};
  l.a.resize(size_t(t.images * t.padded_h * t.activation_bases * t.padded_w * t.groups * t.words));
  l.w.resize(size_t(t.groups * t.weight_bases * t.cols * t.kernel_h * t.kernel_w * t.words));
  for (auto* words : {&l.a, &l.w})
    for (uint64_t& word : *words) word = random_words();
  expect("sizes agree", sizes_agree(l.t), 1);
  expect("addressable", addressable(l.t), 1);
  return l;
}

struct Counts {
  int64_t both, left, right, differ;  ///< popcounts of a & w, a, w and a ^ w
};

/// The plain loop: one output, one pair of planes.
Counts plain(const Layer& l, int64_t row, int64_t group, int64_t col, int64_t p, int64_t q) {
  const abcfx_cuda_bgemm_args& t = l.t;
  const int64_t x = row % t.out_w * t.stride_w, y = row / t.out_w % t.out_h * t.stride_h, n = row / t.out_w / t.out_h;
  Counts c = {0, 0, 0, 0};
  for (int64_t ky = 0; ky < t.kernel_h; ++ky)
    for (int64_t kx = 0; kx < t.kernel_w; ++kx)
      for (int64_t i = 0; i < t.words; ++i) {
        const int64_t line = (n * t.padded_h + y + ky * t.dilation_h) * t.activation_bases + q;
        const int64_t pixel = line * t.padded_w + x + kx * t.dilation_w;
        const uint64_t a = l.a[size_t((pixel * t.groups + group) * t.words + i)];
        const int64_t column = (group * t.weight_bases + p) * t.cols + col;
        const uint64_t w = l.w[size_t((column * t.kernel_h * t.kernel_w + ky * t.kernel_w + kx) * t.words + i)];
        c.both += __builtin_popcountll(a & w), c.differ += __builtin_popcountll(a ^ w);
        c.left += __builtin_popcountll(a), c.right += __builtin_popcountll(w);
      }
  return c;
}

/// AND[row][output][p][q], -1 where nothing was written.
struct Result {
  std::vector<int64_t> both;
  size_t at(const Layer& l, int64_t row, int64_t output, int64_t p, int64_t q) const {
    return size_t(((row * l.outputs() + output) * l.t.weight_bases + p) * l.t.activation_bases + q);
  }
};

/// The accumulators of one consumer to the outputs they belong to, as epilogue.cuh reads them.
template <class S>
void collect(const Layer& l, const Space& s, const Tile& tile, int consumer, int plane, int pair, const Accumulators& d,
             Result& result) {
  for (int thread = 0; thread < 128; ++thread)
    for (int m = 0; m < S::M; ++m)
      for (int i = 0; i < S::cols / 2; ++i) {
        const int row = consumer * kWarpgroupRows + fragment_row(thread, 0) + (i >> 1 & 1) * 8;
        const int col = tile.col + fragment_col(thread, i);
        const Pixel pixel = pixel_of(s.box, tile.origin, row);
        if (!inside(s, pixel) || col >= s.cols) continue;
        const int64_t p = S::paired ? pair / l.t.activation_bases : m;
        const int64_t q = S::paired ? pair % l.t.activation_bases : plane;
        int64_t& to = result.both[result.at(l, output_row(s, pixel), int64_t(tile.group) * s.cols + col, p, q)];
        expect("output written before", to, -1);
        to = d[size_t(thread)][size_t(m * (S::cols / 2) + i)];
      }
}

/// One tile and one pass over the reduction, with the ring of buffers of the kernel.
template <class S>
void run_tile(const Layer& l, const Problem& p, const Tile& tile, int pair, Ring<S::stages>& ring,
              std::vector<uint8_t>& shared, Result& result) {
  constexpr uint32_t base = 1024;
  const Space& s = p.space;
  const Map map_a = map_of_a(l.t, s.box, S::N), map_w = map_of_w(l.t, S::cols, S::M);
  std::vector<Accumulators> d(size_t(kConsumers * S::N), Accumulators(128, std::vector<int>(S::width / 2)));
  bool add = false;
  for (int tap = 0; tap < s.taps; ++tap)
    for (int chunk = 0; chunk < s.chunks; ++chunk, ring.next()) {
      const uint32_t stage = base + uint32_t(ring.slot) * S::stage_bytes;
      const Corners at = corners(p, tile, pair, tap, chunk);
      load(map_a, l.a, at.a, shared.data() + stage);
      load(map_w, l.w, at.b, shared.data() + stage + S::a_bytes);
      for (int step = 0; step < steps_of(s, chunk); ++step, add = true)
        for (int k = 0; k < kConsumers * S::N; ++k)
          wgmma(shared.data(), operand_a(s.box, S::N, k / S::N, k % S::N, stage, step),
                operand_b(stage + S::a_bytes, step), S::width, add, d[size_t(k)]);
    }
  for (int k = 0; k < kConsumers * S::N; ++k) collect<S>(l, s, tile, k / S::N, k % S::N, pair, d[size_t(k)], result);
}

/// y with alpha = 1 + p, beta = 1 + q, by abcfx/cuda.h from the ANDs and by xor-popcount: integers, so they are equal.
void check_output(const Layer& l, const Result& result, int64_t row, int64_t output) {
  const abcfx_cuda_bgemm_args& t = l.t;
  const int64_t depth = t.kernel_h * t.kernel_w * t.words * 64, group = output / t.cols, col = output % t.cols;
  int64_t sum = 0, row_sum = 0, alpha_sum = 0, beta_sum = 0, column = 0, want = 0;
  for (int64_t p = 0; p < t.weight_bases; ++p)
    for (int64_t q = 0; q < t.activation_bases; ++q) {
      const Counts c = plain(l, row, group, col, p, q);
      const int64_t both = result.both[result.at(l, row, output, p, q)];
      expect("popcount of a & w", both, c.both);
      sum += (1 + p) * (1 + q) * both, want += (1 + p) * (1 + q) * (depth - 2 * c.differ);
      if (p == 0) row_sum += (1 + q) * c.left, beta_sum += 1 + q;
      if (q == 0) column += (1 + p) * c.right, alpha_sum += 1 + p;
    }
  const int64_t column_base = depth * beta_sum * alpha_sum - 2 * beta_sum * column;
  expect("output", column_base + 4 * sum - 2 * row_sum * alpha_sum, want);
}

template <class S>
void check(const Layer& l) {
  const Problem p = problem_of(l.t, S::cols);
  check_map(map_of_a(l.t, p.space.box, S::N), S::a_bytes);
  check_map(map_of_w(l.t, S::cols, S::M), S::b_bytes);
  Ring<S::stages> ring;
  std::vector<uint8_t> shared(1024 + S::stages * S::stage_bytes, 0xFF);
  Result result;
  result.both.assign(size_t(l.rows() * l.outputs() * l.t.weight_bases * l.t.activation_bases), -1);
  for (int index = 0; index < tile_count(p.space); ++index)
    for (int pair = 0; pair < (S::paired ? p.weight_bases * p.activation_bases : 1); ++pair)
      run_tile<S>(l, p, tile_at(p.space, index, S::cols), pair, ring, shared, result);
  for (int64_t row = 0; row < l.rows(); ++row)
    for (int64_t output = 0; output < l.outputs(); ++output) check_output(l, result, row, output);
}

abcfx_cuda_bgemm_args linear(int64_t m, int64_t n, int64_t rows, int64_t words, int64_t cols) {
  abcfx_cuda_bgemm_args t = {};
  t.weight_bases = m, t.activation_bases = n, t.images = t.padded_h = t.out_h = 1;
  t.padded_w = t.out_w = rows, t.words = words, t.cols = cols, t.groups = 1;
  t.kernel_h = t.kernel_w = t.stride_h = t.stride_w = t.dilation_h = t.dilation_w = 1;
  return t;
}

abcfx_cuda_bgemm_args image(int64_t m, int64_t n, int64_t images, int64_t size, int64_t kernel, int64_t stride,
                        int64_t dilation, int64_t groups) {
  abcfx_cuda_bgemm_args t = linear(m, n, 1, 2, 21);
  t.images = images, t.padded_h = size, t.padded_w = size + 3, t.groups = groups;
  t.kernel_h = t.kernel_w = kernel, t.stride_h = t.stride_w = stride, t.dilation_h = t.dilation_w = dilation;
  t.out_h = (t.padded_h - (kernel - 1) * dilation - 1) / stride + 1;
  t.out_w = (t.padded_w - (kernel - 1) * dilation - 1) / stride + 1;
  return t;
}

template <class S>
void check_all(int64_t m, int64_t n) {
  check<S>(make_layer(linear(m, n, 131, 18, 70)));          // ragged rows, columns and reduction
  check<S>(make_layer(linear(m, n, 1, 66, 9)));             // one row; more chunks than buffers
  check<S>(make_layer(image(m, n, 3, 9, 3, 1, 1, 2)));      // groups: the next group lies behind the reduction
  check<S>(make_layer(image(m, n, 1, 19, 3, 2, 2, 1)));     // strides and dilation
}

/// Every tile once, whatever the band.
void check_tiles() {
  for (int rows : {1, 15, 16, 17, 40})
    for (int cols : {1, 3}) {
      const Space s = {{8, 4, 4}, 4, 4, 8 * rows, 64 * cols, 2, rows, 1, 1, cols, 1, 1, 1, 16};
      std::vector<int> seen(size_t(tile_count(s)));
      for (int i = 0; i < tile_count(s); ++i) {
        const Tile t = tile_at(s, i, 64);
        ++seen[size_t((t.group * cols + t.col / 64) * rows + t.origin.x / 8)];
      }
      for (int n : seen) expect("visits of a tile", n, 1);
    }
}

/// mbarrier: `pending` arrivals end a phase; a wait for a parity passes once the phase of that parity is over.
struct Barrier {
  int count, pending, phase = 0;
  explicit Barrier(int n) : count(n), pending(n) {}
  void arrive() {
    if (--pending == 0) pending = count, ++phase;
  }
  bool passes(uint32_t parity) const { return uint32_t(phase & 1) != parity; }
};

/// One producer and two consumers in random order: a consumer finds in each buffer the item it expects, and nobody
/// waits for ever. Consumers give a buffer back one item late, as the kernel does, and the last one of a tile at once.
template <int stages>
void check_ring(int items, int tile) {
  std::vector<Barrier> full(stages, Barrier(1)), empty(stages, Barrier(kConsumers));
  int held[stages] = {}, done[kConsumers + 1] = {}, last[kConsumers] = {-1, -1}, idle = 0;
  Ring<stages> rings[kConsumers + 1];
  while (done[1] < items || done[2] < items) {
    const int who = int(random_words() % (kConsumers + 1));
    Ring<stages>& ring = rings[who];
    const size_t slot = size_t(ring.slot);
    const bool ready = who == 0 ? empty[slot].passes(ring.parity ^ 1u) : full[slot].passes(ring.parity);
    if (++idle > 1000000) fail("stuck after items", done[0], items);
    if (done[who] == items || !ready) continue;
    if (who == 0) {
      held[ring.slot] = done[0];
      full[slot].arrive();
    } else {
      expect("item in the buffer", held[ring.slot], done[who]);
      int& before = last[who - 1];
      if (before >= 0) empty[size_t(before)].arrive();
      before = ring.slot;
      if ((done[who] + 1) % tile == 0) empty[size_t(before)].arrive(), before = -1;
    }
    ring.next(), ++done[who];
  }
}

}  // namespace

int main() {
  check_tiles();
  check_ring<3>(1000, 1), check_ring<3>(1000, 5), check_ring<4>(1000, 7), check_ring<6>(1000, 100);
  check_all<Shape<1, 1, 256, false>>(1, 1);
  check_all<Shape<2, 2, 64, false>>(2, 2);
  check_all<Shape<3, 3, 32, false>>(3, 3);
  check_all<Shape<1, 1, 128, true>>(2, 3);
  std::printf("ok\n");
}
