// Runs the text of a CUDA kernel on a CPU, so that a machine without a GPU can check its indices,
// its barriers and its asynchronous copies. Compile with -DSOURCE='"..../correlation.cu"'.
//
// The blocks of a grid run in turn. The threads of a block are fibres: one runs until it reaches
// __syncthreads() or its end, then the next. What a data race would make undefined, this makes
// visible: the order of the fibres is an argument (results may not depend on it), shared memory
// is full of NaN when a block starts, and an asynchronous copy arrives only when it is awaited.
// Compiled with -fsanitize=thread and linked without that sanitizer's library, each access calls
// a function below, which knows every race in shared memory: two threads touch one byte between
// two barriers, and one of them writes.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx;

struct Copy { void* target; const void* source; std::size_t size; bool inside; };

struct Fibre {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    std::vector<Copy> copies;
    bool finished;
};

static constexpr std::size_t STACK = 1 << 16;
static std::vector<Fibre> fibres;
static ucontext_t scheduler;
static const std::function<void()>* body;

// ---- races in shared memory --------------------------------------------------------------------

extern char __start_shared[] __attribute__((visibility("hidden")));
extern char __stop_shared[] __attribute__((visibility("hidden")));

// Who wrote and who read a byte last, and between which barriers (a running number).
struct Touched { int wrote_at, writer, read_at, reader; };
static constexpr int SEVERAL = -1;
static std::vector<Touched> touched;
static Touched* touches;
static int barriers;
static char race[160];

__attribute__((no_sanitize("thread")))
static void touch(const void* address, std::size_t size, bool writes) {
    const char* from = static_cast<const char*>(address);
    if (from < __start_shared || from >= __stop_shared) return;
    const int thread = static_cast<int>(threadIdx.x);
    for (std::size_t byte = from - __start_shared, end = byte + size; byte < end; ++byte) {
        Touched& last = touches[byte];
        const bool written = last.wrote_at == barriers && last.writer != thread;
        const bool read = last.read_at == barriers && last.reader != thread;
        if (written || (writes && read))
            std::snprintf(race, sizeof race, "threads %d and %d race for byte %zu of shared memory",
                          written ? last.writer : last.reader, thread, byte);
        if (writes) {
            last.wrote_at = barriers;
            last.writer = thread;
        } else {
            last.reader = last.read_at == barriers && last.reader != thread ? SEVERAL : thread;
            last.read_at = barriers;
        }
    }
}

#define HOOK(size)                                                           \
    void __tsan_read##size(void* p) { touch(p, size, false); }               \
    void __tsan_write##size(void* p) { touch(p, size, true); }               \
    void __tsan_unaligned_read##size(void* p) { touch(p, size, false); }     \
    void __tsan_unaligned_write##size(void* p) { touch(p, size, true); }
extern "C" {
HOOK(1) HOOK(2) HOOK(4) HOOK(8) HOOK(16)
void __tsan_read_range(void* p, std::size_t size) { touch(p, size, false); }
void __tsan_write_range(void* p, std::size_t size) { touch(p, size, true); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}

// ---- blocks and their threads ------------------------------------------------------------------

static void enter() {
    (*body)();
    fibres[threadIdx.x].finished = true;
    swapcontext(&fibres[threadIdx.x].context, &scheduler);
}

static void __syncthreads() { swapcontext(&fibres[threadIdx.x].context, &scheduler); }

// Returns false where some threads of the block wait at a barrier that others never reach.
static bool run_block(unsigned threads, unsigned order) {
    std::memset(__start_shared, 0xff, __stop_shared - __start_shared);
    fibres.resize(threads);
    for (Fibre& fibre : fibres) {
        if (!fibre.stack) fibre.stack.reset(new char[STACK]);
        fibre.copies.clear();
        fibre.finished = false;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.get();
        fibre.context.uc_stack.ss_size = STACK;
        makecontext(&fibre.context, enter, 0);
    }
    std::vector<unsigned> turns(threads);
    std::iota(turns.begin(), turns.end(), 0u);
    std::mt19937 generator(order);
    for (;;) {
        ++barriers;
        if (order) std::shuffle(turns.begin(), turns.end(), generator);
        for (unsigned thread : turns) {
            threadIdx.x = thread;
            swapcontext(&scheduler, &fibres[thread].context);
        }
        const auto finished = std::count_if(fibres.begin(), fibres.end(),
                                            [](const Fibre& fibre) { return fibre.finished; });
        if (finished == static_cast<long>(threads)) return true;
        if (finished) return false;
    }
}

// Returns what went wrong, or a null pointer.
static const char* run_grid(const std::function<void()>& kernel, const unsigned* grid,
                            unsigned threads, unsigned order) {
    body = &kernel;
    touched.assign(__stop_shared - __start_shared, Touched{});
    touches = touched.data();
    barriers = 0;
    race[0] = 0;
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
                if (!run_block(threads, order))
                    return "some threads of a block wait at a barrier that others never reach";
    return race[0] ? race : nullptr;
}

// ---- what the device side of the source defines for itself ------------------------------------

#define DEVICE static inline
#define KERNEL(threads, blocks) static void
#define __shared__ static __attribute__((section("shared")))
// A call of the library's fmaf a product would take most of the time.
#define fmaf(a, b, c) ((a) * (b) + (c))

// A copy may arrive at any time from here to where it is awaited: both count as writing.
static void fetch(void* target, const void* source, std::size_t size, bool inside) {
    touch(target, size, true);
    fibres[threadIdx.x].copies.push_back({target, source, size, inside});
}
static void fetch16(void* target, const void* source, bool inside) {
    const auto address = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
    if (address(target) % 16 || address(source) % 16) std::abort();  // as the device would
    fetch(target, source, 16, inside);
}
static void fetch4(void* target, const void* source, bool inside) {
    fetch(target, source, 4, inside);
}
static void await_fetches() {
    for (const Copy& copy : fibres[threadIdx.x].copies) {
        touch(copy.target, copy.size, true);
        if (copy.inside) std::memcpy(copy.target, copy.source, copy.size);
        else std::memset(copy.target, 0, copy.size);
    }
    fibres[threadIdx.x].copies.clear();
}

// By hand: not every compiler has a type for it.
static float half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = std::ldexp(exponent ? 1024.0f + fraction : fraction, std::max(exponent, 1) - 25);
    if (exponent == 31) value = fraction ? NAN : INFINITY;
    return bits & 0x8000 ? -value : value;
}
static unsigned short float_to_half(float value) {
    const unsigned short sign = std::signbit(value) ? 0x8000 : 0;
    const float size = std::fabs(value);
    if (std::isnan(value)) return 0x7e00;
    if (size >= 65520.0f) return sign | 0x7c00;
    if (size == 0.0f) return sign;
    const int exponent = std::max(std::ilogb(size), -14);
    const int steps = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
    return static_cast<unsigned short>(sign | (((exponent + 15) << 10) + steps - 1024));
}
static unsigned float_bits(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
static float bits_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

#include SOURCE

extern "C" {
const char* run_correlation_volume(const Arguments* a, const unsigned* grid, unsigned threads,
                                   unsigned order) {
    return run_grid([a] { correlation_volume(*a); }, grid, threads, order);
}
const char* run_correlation_gradients(const Arguments* a, const unsigned* grid, unsigned threads,
                                      unsigned order) {
    return run_grid([a] { correlation_gradients(*a); }, grid, threads, order);
}
std::size_t size_of_arguments() { return sizeof(Arguments); }
unsigned threads_of_a_block() { return THREADS; }
}
