// A few pinned threads that run one function together, meet at barriers, spin briefly and then
// sleep. The calling thread is worker 0. Knows nothing of the work.
#pragma once
#include <immintrin.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <atomic>
#include <climits>
#include <cstdint>
#include <thread>
#include <vector>

namespace ip {

class Pool {
  public:
    using Work = void (*)(void* context, int thread);

    // `cpus` are the processors of workers 1.. (worker 0 stays where its caller put it)
    Pool(int threads, const int* cpus) : threads_(threads) {
        for (int t = 1; t < threads; t++) {
            const int cpu = cpus ? cpus[t] : -1;
            workers_.emplace_back([this, t, cpu] { loop(t, cpu); });
        }
    }

    ~Pool() {
        work_ = nullptr;
        start();
        for (auto& worker : workers_) worker.join();
    }

    int threads() const { return threads_; }

    void run(Work work, void* context) {
        work_ = work;
        context_ = context;
        if (threads_ > 1) start();
        work(context, 0);
        if (threads_ > 1) barrier();
    }

    void barrier() {
        if (threads_ == 1) return;
        const uint32_t seen = generation_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            generation_.fetch_add(1, std::memory_order_release);
            return;
        }
        // a stalled partner (one thread too many on these cores) must not cost a whole time slice
        for (int spins = 0; generation_.load(std::memory_order_acquire) == seen; spins++) {
            _mm_pause();
            if (spins > BARRIER_SPINS) {
                sched_yield();
                spins = 0;
            }
        }
    }

  private:
    static constexpr int IDLE_SPINS = 4000;      // about 100-200 microseconds, then sleep
    static constexpr int BARRIER_SPINS = 20000;

    void start() {
        epoch_.fetch_add(1, std::memory_order_seq_cst);
        if (sleepers_.load(std::memory_order_seq_cst) > 0)
            syscall(SYS_futex, &epoch_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
    }

    void loop(int thread, int cpu) {
        if (cpu >= 0) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(cpu, &set);
            sched_setaffinity(0, sizeof set, &set);
        }
        uint32_t seen = 0;
        for (;;) {
            int spins = 0;
            while (epoch_.load(std::memory_order_acquire) == seen) {
                _mm_pause();
                if (++spins < IDLE_SPINS) continue;
                sleepers_.fetch_add(1, std::memory_order_seq_cst);
                syscall(SYS_futex, &epoch_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
                sleepers_.fetch_sub(1, std::memory_order_seq_cst);
            }
            seen++;
            if (!work_) return;
            work_(context_, thread);
            barrier();
        }
    }

    const int threads_;
    std::vector<std::thread> workers_;
    std::atomic<uint32_t> epoch_{0}, generation_{0};
    std::atomic<int> arrived_{0}, sleepers_{0};
    Work work_ = nullptr;
    void* context_ = nullptr;
};

}  // namespace ip
