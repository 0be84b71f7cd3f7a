#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/// Random numbers that are the same everywhere (splitmix64).
struct Random {
  uint64_t state;

  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// low to high, both included.
  int64_t between(int64_t low, int64_t high) { return low + (int64_t)(next() % (uint64_t)(high - low + 1)); }
};

/// `count` values that nothing may reach past. The last one ends at an unreadable page; in front is a wall of bytes that
/// `wall_intact` looks at. Under AddressSanitizer a plain allocation, whose both ends it watches to the byte.
template <class T>
class Buffer {
 public:
  static constexpr unsigned char WALL = 0x5a;
  const int64_t count;

  explicit Buffer(int64_t values) : count(values) {
    const size_t size = sizeof(T) * (size_t)count;
#if defined(__SANITIZE_ADDRESS__)
    const size_t room = size ? size : alignof(T);
    map_ = data_ = (unsigned char*)(alignof(T) > 16 ? aligned_alloc(alignof(T), room) : malloc(room));
    memset(data_, WALL, size);
#else
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    before_ = (size + page - 1) / page * page + page;
    map_size_ = before_ + page;
    map_ = (unsigned char*)mmap(NULL, map_size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map_ == MAP_FAILED || mprotect(map_ + before_, page, PROT_NONE) != 0) {
      perror("fenced memory");
      exit(2);
    }
    memset(map_, WALL, before_);
    data_ = map_ + before_ - size;
#endif
  }
#if defined(__SANITIZE_ADDRESS__)
  ~Buffer() { free(map_); }
#else
  ~Buffer() { munmap(map_, map_size_); }
#endif
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return (T*)data_; }
  T& operator[](int64_t i) { return data()[i]; }

  /// Back to the pattern that a new buffer has.
  void clear() { memset(data_, WALL, sizeof(T) * (size_t)count); }

  bool untouched(int64_t i) const {
    for (size_t b = 0; b < sizeof(T); ++b) {
      if (data_[sizeof(T) * (size_t)i + b] != WALL) return false;
    }
    return true;
  }

  bool wall_intact() const {
    for (const unsigned char* byte = map_; byte < data_; ++byte) {
      if (*byte != WALL) return false;
    }
    return true;
  }

 private:
  unsigned char *map_, *data_;
  size_t before_ = 0, map_size_ = 0;
};
