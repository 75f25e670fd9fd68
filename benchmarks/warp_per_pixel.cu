// The cost volume as the field's public kernels compute it, to be timed beside ours: 32 threads for
// each output pixel, over channels; in the gradients 32 for each element, over displacements.
// Features are copied to channels-last with a border of zeros first. Float32, mean over channels.

#ifdef __CUDACC__
#define DEVICE __device__ __forceinline__
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#endif

constexpr int SIDE = 2 * REACH + 1;
constexpr int THREADS = 32;

struct Arguments {
    const float* padded[2];  // x1, x2: (batch, height + 2 REACH, width + 2 REACH, channel)
    const float* grad;       // of the volume, (batch, SIDE * SIDE, height, width)
    float* volume;
    float* gradients[2];     // (batch, channel, height, width)
    int channels, height, width, batch;
};

DEVICE const float* pixel(const Arguments& a, int which, int sample, int y, int x) {
    const long long row = static_cast<long long>(sample) * (a.height + 2 * REACH) + y + REACH;
    return a.padded[which] + (row * (a.width + 2 * REACH) + x + REACH) * a.channels;
}

DEVICE long long element(const Arguments& a, int planes, int sample, int plane, int y, int x) {
    return ((static_cast<long long>(sample) * planes + plane) * a.height + y) * a.width + x;
}

// What thread 0 returns is the sum over the block's threads.
DEVICE float sum_of_block(float* parts, float part) {
    parts[threadIdx.x] = part;
    __syncthreads();
    float sum = 0;
    if (threadIdx.x == 0)
        for (int i = 0; i < THREADS; ++i) sum += parts[i];
    __syncthreads();
    return sum;
}

// Grid: width, height, batch.
KERNEL(THREADS, 1) correlation_volume(const Arguments a) {
    __shared__ float parts[THREADS];
    const int x = blockIdx.x, y = blockIdx.y, sample = blockIdx.z;
    const float* left = pixel(a, 0, sample, y, x);
    for (int k = 0; k < SIDE * SIDE; ++k) {
        const float* right = pixel(a, 1, sample, y + k / SIDE - REACH, x + k % SIDE - REACH);
        float part = 0;
        for (int c = threadIdx.x; c < a.channels; c += THREADS) part += left[c] * right[c];
        const float sum = sum_of_block(parts, part);
        if (threadIdx.x == 0) a.volume[element(a, SIDE * SIDE, sample, k, y, x)] = sum / a.channels;
    }
}

// Grid: width, height, 2 * batch * channels.
KERNEL(THREADS, 1) correlation_gradients(const Arguments a) {
    __shared__ float parts[THREADS];
    const int x = blockIdx.x, y = blockIdx.y;
    const int second = blockIdx.z >= static_cast<unsigned>(a.batch * a.channels);
    const int rest = static_cast<int>(blockIdx.z) - second * a.batch * a.channels;
    const int sample = rest / a.channels, c = rest % a.channels;
    float part = 0;
    for (int k = threadIdx.x; k < SIDE * SIDE; k += THREADS) {
        const int dy = k / SIDE - REACH, dx = k % SIDE - REACH;
        const int to_y = second ? y - dy : y + dy, to_x = second ? x - dx : x + dx;
        const int grad_y = second ? to_y : y, grad_x = second ? to_x : x;
        if (grad_y < 0 || grad_y >= a.height || grad_x < 0 || grad_x >= a.width) continue;
        part += a.grad[element(a, SIDE * SIDE, sample, k, grad_y, grad_x)] *
                pixel(a, 1 - second, sample, to_y, to_x)[c];
    }
    const float sum = sum_of_block(parts, part);
    if (threadIdx.x == 0)
        a.gradients[second][element(a, a.channels, sample, c, y, x)] = sum / a.channels;
}
