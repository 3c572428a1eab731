// What one thread has widened of a cache in 8 bits during one instruction: the next rows of the same sequence and
// head find it. Belongs to one thread.
#pragma once
#include "attention.hpp"

namespace ip {

constexpr int64_t WIDENED = 8;         // chunks kept of a context
constexpr int64_t LEAST_BLOCK = 16;    // tokens

// Bytes of a chunk: keys and values in bf16, and their scales in f32.
inline int64_t widened_chunk(int64_t dim, int64_t dim_v) { return CHUNK * (2 * (dim + dim_v) + 8); }

class Widened {
  public:
    // `memory`: WIDENED chunks
    Widened(const Cache& cache, uint8_t* memory) : cache_(cache), memory_(memory) {
        for (int64_t b = 0; b < CHUNK / LEAST_BLOCK; b++) table_[b] = int32_t(b);
    }

    // The same context in bf16, valid until as many other chunks were asked for. Fetches what comes next.
    Context of(const Context& now, const Context& next, int64_t seq) {
        const int64_t number = now.first * cache_.block_size / CHUNK % WIDENED;
        Held& held = held_[number];
        const bool same = held.seq == seq && held.head == now.head && held.first == now.first;
        if (!same) held = {seq, now.head, now.first, now.first, view(number)};
        for (; held.last < now.last; held.last++) widen(now, next, held.last - now.first, held.cache, number);
        const float* scales = scales_of(number);
        return {&held.cache, table_, 0, now.first, now.last, scales, scales + CHUNK};
    }

  private:
    struct Held {
        int64_t seq = -1, head, first, last;  // blocks
        Cache cache;
    };

    uint8_t* chunk(int64_t number) const { return memory_ + number * widened_chunk(cache_.dim, cache_.dim_v); }
    float* scales_of(int64_t number) const { return (float*)(chunk(number) + CHUNK * 2 * (cache_.dim + cache_.dim_v)); }

    Cache view(int64_t number) const {
        uint8_t* keys = chunk(number);
        return {BF16, keys, keys + CHUNK * cache_.dim * 2, cache_.block_size, 1, cache_.dim, cache_.dim_v,
                nullptr, nullptr};
    }

    void widen(const Context& now, const Context& next, int64_t block, const Cache& to, int64_t number) {
        const int64_t from = now.table[block], ahead = next.table[std::min(block, next.last - next.first - 1)];
        float* scales = scales_of(number) + block * cache_.block_size;
        widen_block(cache_.code(), cache_.key_block(from, now.head), cache_.key_block(ahead, next.head),
                    cache_.block_size, cache_.dim, (uint16_t*)to.key_block(block, 0), scales);
        widen_block(cache_.code(), cache_.value_block(from, now.head), cache_.value_block(ahead, next.head),
                    cache_.block_size, cache_.dim_v, (uint16_t*)to.value_block(block, 0), scales + CHUNK);
    }

    const Cache& cache_;
    uint8_t* memory_;
    int32_t table_[CHUNK / LEAST_BLOCK];
    Held held_[WIDENED];
};

}  // namespace ip
