// The cost volume and its two gradients; see correlation.py for what they mean.
//
// Compiled at run time for one element type and one reach (-DELEMENT=0|1|2 -DREACH=1..8), without
// any header, so that a machine needs no CUDA toolkit. The same text also compiles as plain C++
// below a few lines that stand for the device (tests/cuda_shim.cpp), where a CPU runs it.
//
// One block owns a tile of 4 rows x 32 pixels of one sample. Its threads are (row, dy, group of 4
// neighbouring pixels): each holds 4 pixels x (2 REACH + 1) displacements dx of one dy in
// registers and slides them over a window of one row, so that a value fetched from shared memory
// serves many products. Channels come in stages of a few, fetched while the last ones are used.
// No atomics: every sum has one owner and one order, so results are equal from run to run.

#ifdef __CUDACC__

#define DEVICE __device__ __forceinline__
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

DEVICE unsigned shared_address(const void* pointer) {
    unsigned address;
    asm("{ .reg .u64 p; cvta.to.shared.u64 p, %1; cvt.u32.u64 %0, p; }"
        : "=r"(address) : "l"(pointer));
    return address;
}

// Sixteen bytes from global to shared memory, or zeros, in the background where the device can.
DEVICE void fetch16(void* shared, const void* global, bool inside) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 ::"r"(shared_address(shared)), "l"(global), "r"(inside ? 16 : 0) : "memory");
#else
    struct alignas(16) Bytes { unsigned word[4]; };
    *static_cast<Bytes*>(shared) = inside ? *static_cast<const Bytes*>(global) : Bytes{};
#endif
}

DEVICE void fetch4(void* shared, const void* global, bool inside) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 ::"r"(shared_address(shared)), "l"(global), "r"(inside ? 4 : 0) : "memory");
#else
    *static_cast<unsigned*>(shared) = inside ? *static_cast<const unsigned*>(global) : 0u;
#endif
}

DEVICE void await_fetches() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

DEVICE float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

DEVICE unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

DEVICE unsigned float_bits(float value) {
    unsigned bits;
    asm("mov.b32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

DEVICE float bits_float(unsigned bits) {
    float value;
    asm("mov.b32 %0, %1;" : "=f"(value) : "r"(bits));
    return value;
}

#endif

// ---- element types: 0 float, 1 half, 2 bfloat16; sums are always float ------------------------

#if ELEMENT == 0
typedef float Element;
DEVICE float widen(Element value) { return value; }
DEVICE Element narrow(float value) { return value; }
#else
typedef unsigned short Element;
#if ELEMENT == 1
DEVICE float widen(Element bits) { return half_to_float(bits); }
DEVICE Element narrow(float value) { return float_to_half(value); }
#else
DEVICE float widen(Element bits) { return bits_float(static_cast<unsigned>(bits) << 16); }
// Round to nearest even by hand: the oldest devices have no such instruction. A NaN stays one.
DEVICE Element narrow(float value) {
    const unsigned bits = float_bits(value);
    if (value != value) return static_cast<Element>((bits >> 16) | 0x40u);
    return static_cast<Element>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
#endif
#endif

struct alignas(4 * sizeof(Element)) Quad { Element at[4]; };
struct alignas(16) FloatQuad { float at[4]; };

// ---- sizes -----------------------------------------------------------------------------------

constexpr int SIDE = 2 * REACH + 1;
constexpr int ROWS = REACH <= 4 ? 4 : 2;  // of a tile
constexpr int GROUPS = 8;           // of four pixels, in a row of a tile
constexpr int COLUMNS = 4 * GROUPS;
constexpr int THREADS = ROWS * SIDE * GROUPS;
constexpr int STAGE = REACH <= 4 ? 4 : 2;  // channels in shared memory at a time, twice

// Blocks that a multiprocessor must hold, which bounds the registers of a thread: with two, none
// is spilled from sm_80 on. Before that the shared memory would not hold two anyway.
#if __CUDA_ARCH__ >= 800 && REACH <= 4
constexpr int BLOCKS = 2;
#else
constexpr int BLOCKS = 1;
#endif

constexpr int PER_FETCH = 16 / static_cast<int>(sizeof(Element));
// The halo left and right, rounded up so that a fetch of 16 bytes never straddles the frame's edge.
constexpr int MARGIN = (REACH + PER_FETCH - 1) / PER_FETCH * PER_FETCH;
constexpr int HALO_ROWS = ROWS + 2 * REACH;
constexpr int HALO_COLUMNS = COLUMNS + 2 * MARGIN;
// A thread's window: whole quads that cover REACH pixels left and right of its four.
constexpr int WINDOW_START = (MARGIN - REACH) / 4 * 4;
constexpr int WINDOW_SKIP = MARGIN - REACH - WINDOW_START;
constexpr int WINDOW = (WINDOW_SKIP + 4 + 2 * REACH + 3) / 4 * 4;

struct Map {                 // (batch, channel, height, width) with strides in elements
    const Element* data;
    long long batch, channel, row, column;
    int vectors;             // 16-byte fetches are aligned and never straddle the frame's edge
};

struct Arguments {
    Map inputs[2];           // x1, x2
    Map grad;                // of the volume, (batch, SIDE * SIDE, height, width)
    Element* volume;         // contiguous, as are the gradients
    Element* gradients[2];   // of x1, of x2
    int channels, height, width;
    int tile_rows, tile_columns;      // tiles of a sample; a launch has batch * rows * columns
    int first;               // always 0, but with a constant ptxas spills registers for sm_80
    int chunk;               // channels that a block of the gradients handles
};

struct Tile { long long sample; int top, left; };

DEVICE Tile own_tile(const Arguments& a) {
    const int per_sample = a.tile_rows * a.tile_columns;
    const int sample = static_cast<int>(blockIdx.x) / per_sample;
    const int rest = static_cast<int>(blockIdx.x) - sample * per_sample;
    const int row = rest / a.tile_columns;
    return {sample, row * ROWS, (rest - row * a.tile_columns) * COLUMNS};
}

// Fetch STAGE channels of a window of TALL x WIDE pixels into shared memory; 0 outside the frame.
template <int TALL, int WIDE>
DEVICE void fetch_stage(Element* target, const Map& map, const Arguments& a, long long sample,
                        int channel, int last_channel, int top, int left) {
    const Element* source = map.data + sample * map.batch;
    if (map.vectors) {
        constexpr int FETCHES = WIDE / PER_FETCH;
        for (int task = threadIdx.x; task < STAGE * TALL * FETCHES; task += THREADS) {
            const int c = channel + task / (TALL * FETCHES);
            const int y = top + task / FETCHES % TALL;
            const int x = left + task % FETCHES * PER_FETCH;
            const bool inside = c < last_channel && y >= 0 && y < a.height && x >= 0 && x < a.width;
            const long long offset = inside ? c * map.channel + y * map.row + x : 0;
            fetch16(target + task * PER_FETCH, source + offset, inside);
        }
        return;
    }
    // Neighbouring threads take what lies together: channels of a channels-last map, else pixels.
    const bool channels_last = map.channel < map.column;
    for (int task = threadIdx.x; task < STAGE * TALL * WIDE; task += THREADS) {
        const int slot = channels_last ? task % STAGE : task / (TALL * WIDE);
        const int pixel = channels_last ? task / STAGE : task % (TALL * WIDE);
        const int c = channel + slot, y = top + pixel / WIDE, x = left + pixel % WIDE;
        const bool inside = c < last_channel && y >= 0 && y < a.height && x >= 0 && x < a.width;
        const long long offset = inside ? c * map.channel + y * map.row + x * map.column : 0;
        Element* to = target + slot * (TALL * WIDE) + pixel;
        if constexpr (sizeof(Element) == 4) fetch4(to, source + offset, inside);
        else *to = inside ? source[offset] : Element(0);
    }
}

DEVICE void widen_window(float (&window)[WINDOW], const Element* from) {
#pragma unroll
    for (int quad = 0; quad < WINDOW / 4; ++quad) {
        const Quad values = reinterpret_cast<const Quad*>(from)[quad];
#pragma unroll
        for (int i = 0; i < 4; ++i) window[4 * quad + i] = widen(values.at[i]);
    }
}

// Store four neighbouring pixels of a contiguous map, as one where they are whole and aligned.
DEVICE void store_quad(Element* row, int x, int width, const float (&values)[4], float scale) {
    if (width % 4 == 0) {
        if (x >= width) return;
        Quad quad;
#pragma unroll
        for (int i = 0; i < 4; ++i) quad.at[i] = narrow(values[i] * scale);
        *reinterpret_cast<Quad*>(row + x) = quad;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (x + i < width) row[x + i] = narrow(values[i] * scale);
}

// ---- the volume ------------------------------------------------------------------------------

// Grid: x = batch * tile_rows * tile_columns.
KERNEL(THREADS, BLOCKS) correlation_volume(const Arguments a) {
    alignas(16) __shared__ Element near[2][STAGE * ROWS * COLUMNS];
    alignas(16) __shared__ Element far[2][STAGE * HALO_ROWS * HALO_COLUMNS];
    const Tile tile = own_tile(a);
    const int group = threadIdx.x % GROUPS;
    const int dy = threadIdx.x / GROUPS % SIDE;
    const int row = threadIdx.x / (GROUPS * SIDE);

    float sums[SIDE][4] = {};
    const int stages = (a.channels + STAGE - 1) / STAGE;
    auto fetch = [&](int stage) {
        const int first = stage * STAGE;
        fetch_stage<ROWS, COLUMNS>(near[stage & 1], a.inputs[0], a, tile.sample, first, a.channels,
                                   tile.top, tile.left);
        fetch_stage<HALO_ROWS, HALO_COLUMNS>(far[stage & 1], a.inputs[1], a, tile.sample, first,
                                             a.channels, tile.top - REACH, tile.left - MARGIN);
    };
    fetch(0);
    for (int stage = 0; stage < stages; ++stage) {
        await_fetches();
        __syncthreads();  // this stage is here, and nobody reads the buffer of the next one
        if (stage + 1 < stages) fetch(stage + 1);
#pragma unroll
        for (int c = 0; c < STAGE; ++c) {
            const Quad left = *reinterpret_cast<const Quad*>(
                &near[stage & 1][(c * ROWS + row) * COLUMNS + 4 * group]);
            float window[WINDOW];
            widen_window(window, &far[stage & 1][(c * HALO_ROWS + row + dy) * HALO_COLUMNS +
                                                 4 * group + WINDOW_START]);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float value = widen(left.at[i]);
#pragma unroll
                for (int dx = 0; dx < SIDE; ++dx)
                    sums[dx][i] = fmaf(value, window[WINDOW_SKIP + i + dx], sums[dx][i]);
            }
        }
    }

    const int y = tile.top + row;
    if (y >= a.height) return;
    const long long plane = static_cast<long long>(a.height) * a.width;
    Element* to = a.volume + (tile.sample * SIDE * SIDE + dy * SIDE) * plane +
                  static_cast<long long>(y) * a.width;
#pragma unroll
    for (int dx = 0; dx < SIDE; ++dx)
        store_quad(to + dx * plane, tile.left + 4 * group, a.width, sums[dx], 1.0f / a.channels);
}

// ---- the gradients ---------------------------------------------------------------------------

// grad_x1[c, y, x] = 1/C sum of grad[dy, dx, y, x] * x2[c, y + dy, x + dx]
// grad_x2[c, y, x] = 1/C sum of grad[-dy, -dx, y + dy, x + dx] * x1[c, y + dy, x + dx]
// Both gather, so one text does both. A thread keeps the gradients of its four pixels for its dy
// through all channels; the SIDE threads of a pixel add up through shared memory, dy by dy.
// Grid: x as above, y = which gradient, z = chunks of channels.
KERNEL(THREADS, BLOCKS) correlation_gradients(const Arguments a) {
    alignas(16) __shared__ Element far[2][STAGE * HALO_ROWS * HALO_COLUMNS];
    __shared__ FloatQuad parts[STAGE][SIDE][ROWS * GROUPS];
    const Tile tile = own_tile(a);
    const int which = a.first + static_cast<int>(blockIdx.y);
    const bool second = which == 1;
    const int group = threadIdx.x % GROUPS;
    const int dy = threadIdx.x / GROUPS % SIDE;
    const int row = threadIdx.x / (GROUPS * SIDE);
    const int y = tile.top + row, x = tile.left + 4 * group;

    float weights[SIDE][4];
    {
        const int source_y = second ? y + dy - REACH : y;
        const Element* grad = a.grad.data + tile.sample * a.grad.batch;
#pragma unroll
        for (int dx = 0; dx < SIDE; ++dx) {
            const int k = second ? SIDE * SIDE - 1 - (dy * SIDE + dx) : dy * SIDE + dx;
            const Element* from = grad + k * a.grad.channel + source_y * a.grad.row;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int source_x = second ? x + i + dx - REACH : x + i;
                const bool inside = y < a.height && source_y >= 0 && source_y < a.height &&
                                    source_x >= 0 && source_x < a.width;
                weights[dx][i] = inside ? widen(from[source_x * a.grad.column]) : 0.0f;
            }
        }
    }

    const int begin = static_cast<int>(blockIdx.z) * a.chunk;
    const int end = begin + a.chunk < a.channels ? begin + a.chunk : a.channels;
    const int stages = (end - begin + STAGE - 1) / STAGE;
    auto fetch = [&](int stage) {
        fetch_stage<HALO_ROWS, HALO_COLUMNS>(far[stage & 1], a.inputs[1 - which], a, tile.sample,
                                             begin + stage * STAGE, end, tile.top - REACH,
                                             tile.left - MARGIN);
    };
    fetch(0);
    for (int stage = 0; stage < stages; ++stage) {
        await_fetches();
        __syncthreads();  // this stage is here, and the parts of the last one are summed
        if (stage + 1 < stages) fetch(stage + 1);
#pragma unroll 2
        for (int c = 0; c < STAGE; ++c) {
            float window[WINDOW];
            widen_window(window, &far[stage & 1][(c * HALO_ROWS + row + dy) * HALO_COLUMNS +
                                                 4 * group + WINDOW_START]);
            FloatQuad part = {};
#pragma unroll
            for (int dx = 0; dx < SIDE; ++dx)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    part.at[i] = fmaf(weights[dx][i], window[WINDOW_SKIP + i + dx], part.at[i]);
            parts[c][dy][row * GROUPS + group] = part;
        }
        __syncthreads();  // all parts are here
        for (int task = threadIdx.x; task < STAGE * ROWS * GROUPS; task += THREADS) {
            const int c = task / (ROWS * GROUPS), slot = task % (ROWS * GROUPS);
            const int channel = begin + stage * STAGE + c, to_y = tile.top + slot / GROUPS;
            if (channel >= end || to_y >= a.height) continue;
            float sum[4] = {};
#pragma unroll 3
            for (int part = 0; part < SIDE; ++part)
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[i] += parts[c][part][slot].at[i];
            const long long line = (tile.sample * a.channels + channel) * a.height + to_y;
            store_quad(a.gradients[which] + line * a.width, tile.left + slot % GROUPS * 4, a.width,
                       sum, 1.0f / a.channels);
        }
    }
}
