/* What this machine gives right now, as one line of JSON: GB/s read by all threads at each footprint (MiB), and the
 * multiply-adds of bf16 and int8 that the vector units reach from registers, in 1e9 operations a second.
 * Use: probe THREADS [MiB ...]; the best of several passes, each thread on a processor and a part of its own. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { MOST_THREADS = 256, PASSES = 9, LINE = 64, AHEAD = 4096, ROUNDS = 2000000, CHAINS = 8 };
typedef unsigned long long line_t __attribute__((vector_size(LINE)));
typedef struct {
    const char *data;
    size_t bytes;
    int thread, kind;
} share_t;
enum { READ, BF16, INT8 };

static pthread_barrier_t gate;
static double best;
static volatile unsigned long long sink;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void read_all(const char *data, size_t bytes) {
    line_t a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t at = 0; at + 4 * LINE <= bytes; at += 4 * LINE) {
        const line_t *line = (const line_t *)(data + at);
        for (int i = 0; i < 4; i++) __builtin_prefetch(data + at + AHEAD + i * LINE);
        a ^= line[0];
        b ^= line[1];
        c ^= line[2];
        d ^= line[3];
    }
    a ^= b ^ c ^ d;
    sink ^= a[0];
}

/* Independent chains hide the latency; the empty asm keeps the compiler from folding the loop. */
static void multiply(int kind) {
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
    __m512 f[CHAINS];
    __m512i n[CHAINS], ones = _mm512_set1_epi32(0x01010101);
    for (int c = 0; c < CHAINS; c++) f[c] = _mm512_set1_ps(c), n[c] = _mm512_set1_epi32(c);
    for (int r = 0; r < ROUNDS; r++) {
        __asm__ volatile("" : "+v"(ones));
        for (int c = 0; c < CHAINS; c++)
            if (kind == BF16)
                f[c] = _mm512_dpbf16_ps(f[c], (__m512bh)ones, (__m512bh)ones);
            else
                n[c] = _mm512_dpbusd_epi32(n[c], ones, ones);
    }
    for (int c = 0; c < CHAINS; c++) sink ^= (unsigned long long)(_mm512_reduce_add_ps(f[c]) + _mm512_reduce_add_epi32(n[c]));
#else
    (void)kind;
#endif
}

static void *work(void *argument) {
    const share_t *mine = argument;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(mine->thread, &set);
    sched_setaffinity(0, sizeof set, &set);
    if (mine->kind == READ) memset((char *)mine->data, 1, mine->bytes);
    for (int pass = 0; pass < PASSES; pass++) {
        pthread_barrier_wait(&gate);
        const double began = now();
        if (mine->kind == READ)
            read_all(mine->data, mine->bytes);
        else
            multiply(mine->kind);
        pthread_barrier_wait(&gate);
        if (mine->thread == 0 && now() - began < best) best = now() - began;
    }
    return NULL;
}

static double fastest(int kind, char *data, size_t bytes, int threads) {
    pthread_t id[MOST_THREADS];
    share_t part[MOST_THREADS];
    best = 1e9;
    pthread_barrier_init(&gate, NULL, threads);
    for (int t = 0; t < threads; t++) {
        part[t] = (share_t){data + bytes / threads / LINE * LINE * t, bytes / threads / LINE * LINE, t, kind};
        if (pthread_create(&id[t], NULL, work, &part[t])) exit(1);
    }
    for (int t = 0; t < threads; t++) pthread_join(id[t], NULL);
    return best;
}

int main(int argc, char **argv) {
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    if (threads < 1 || threads > MOST_THREADS) return 2;
    printf("{\"read_gb_per_s\": {");
    for (int i = 2; i < argc; i++) {
        const size_t bytes = (size_t)atol(argv[i]) << 20;
        char *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (data == MAP_FAILED) return 1;
        madvise(data, bytes, MADV_HUGEPAGE);
        printf("%s\"%s\": %.2f", i > 2 ? ", " : "", argv[i], bytes / fastest(READ, data, bytes, threads) / 1e9);
        munmap(data, bytes);
    }
    double operations = 0;
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
    operations = 2.0 * CHAINS * ROUNDS * threads / 1e9;
#endif
    const double bf16 = operations * 32 / fastest(BF16, NULL, 0, threads);
    const double int8 = operations * 64 / fastest(INT8, NULL, 0, threads);
    printf("}, \"bf16_gflops\": %.1f, \"int8_gops\": %.1f}\n", bf16, int8);
    return 0;
}
