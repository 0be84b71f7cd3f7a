#pragma once
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

// The threads of a CUDA block as fibers of one thread of the CPU: the kernels' own text runs, one fiber after the other,
// and a fiber gives way where threads meet (a barrier, a matrix instruction, a shuffle). Says nothing about speed.

struct Dim3 {
  unsigned x, y, z;
  constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace emulated {

struct Copy {
  void* dst;
  const void* src;
  int bytes;
  bool real;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done;
  unsigned index;
  std::vector<std::vector<Copy>> groups;  ///< committed copies that nothing has waited for
  std::vector<Copy> open;
  const void* given;  ///< to the others of the warp
};

/// Threads that have arrived where `size` of them meet.
struct Meeting {
  unsigned size = 0, arrived = 0, round = 0;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Meeting> warps;
  Meeting all;
  std::vector<unsigned char> memory;
  unsigned char* shared;
  ucontext_t scheduler;
  std::function<void()> kernel;
};

inline Block* block = nullptr;
inline Fiber* self = nullptr;

inline void yield() { swapcontext(&self->context, &block->scheduler); }

inline void meet(Meeting& meeting) {
  const unsigned round = meeting.round;
  if (++meeting.arrived == meeting.size) {
    meeting.arrived = 0;
    ++meeting.round;
    return;
  }
  while (meeting.round == round) yield();
}

inline void meet_block() { meet(block->all); }
inline unsigned lane() { return self->index % 32; }
inline Fiber& neighbor(unsigned other) { return block->fibers[self->index / 32 * 32 + other]; }

/// Every lane gives `value`; `read` sees those of all; nobody goes on before all have read.
template <class T, class Read>
void exchange(const T& value, const Read& read) {
  Meeting& warp = block->warps[self->index / 32];
  self->given = &value;
  meet(warp);
  read([](unsigned other) -> const T& { return *(const T*)neighbor(other).given; });
  meet(warp);
}

inline void enter() {
  block->kernel();
  self->done = true;
  yield();
}

}  // namespace emulated

inline Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulated {

inline void run_block(unsigned threads, size_t shared, const std::function<void()>& kernel) {
  constexpr size_t STACK = 96 << 10;
  Block now;
  block = &now;
  now.kernel = kernel;
  now.memory.assign(shared + 256, 0xA5);
  now.shared = (unsigned char*)(((uintptr_t)now.memory.data() + 127) / 128 * 128);
  now.fibers.resize(threads);
  now.all.size = threads;
  now.warps.resize(threads / 32);
  for (Meeting& warp : now.warps) warp.size = 32;
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = now.fibers[i];
    fiber.index = i;
    fiber.done = false;
    fiber.stack.reset(new char[STACK]);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  for (bool running = true; running;) {
    running = false;
    for (Fiber& fiber : now.fibers) {
      if (fiber.done) continue;
      running = true;
      self = &fiber;
      threadIdx = {fiber.index};
      swapcontext(&now.scheduler, &fiber.context);
    }
  }
}

}  // namespace emulated
