// A CUDA driver for machines without one: what correlation_cuda calls of libcuda.so.1, with the checks
// of its arguments that the real one makes. Two devices of compute capability 9.0; their memory is
// the process's own. An image that is a library for this CPU (cuda_shim.cpp) is run; machine code
// for a GPU is loaded, and running it does nothing.

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

enum Result {
    SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, LAUNCH_FAILED = 719,
};

using Kernel = const char* (*)(const void* arguments, const unsigned* grid, unsigned threads,
                               unsigned order);
struct Context { int device; };
struct Module { Context* context; std::string image; void* library; };
struct Function { Module* module; Kernel kernel; };

static bool initialized;
static Context devices[2] = {{0}, {1}};
static thread_local std::vector<Context*> current;
static std::uintptr_t stream_of_last_launch;
static int device_of_last_launch = -1;

extern "C" {

Result cuInit(unsigned) { initialized = true; return SUCCESS; }

Result cuDeviceGet(int* device, int index) {
    if (!initialized) return NOT_INITIALIZED;
    if (index < 0 || index >= 2) return INVALID_DEVICE;
    *device = index;
    return SUCCESS;
}

Result cuDeviceGetAttribute(int* value, int attribute, int) {
    constexpr int MAJOR = 75, MINOR = 76;
    if (attribute != MAJOR && attribute != MINOR) return INVALID_VALUE;
    *value = attribute == MAJOR ? 9 : 0;
    return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(Context** context, int device) {
    *context = &devices[device];
    return SUCCESS;
}

Result cuCtxPushCurrent_v2(Context* context) { current.push_back(context); return SUCCESS; }

Result cuCtxPopCurrent_v2(Context** context) {
    if (current.empty()) return INVALID_CONTEXT;
    *context = current.back();
    current.pop_back();
    return SUCCESS;
}

Result cuModuleLoadData(Module** module, const char* image) {
    if (current.empty()) return INVALID_CONTEXT;
    if (std::memcmp(image, "\177ELF", 4) != 0) return INVALID_IMAGE;
    std::uint16_t machine;
    std::uint64_t sections;
    std::memcpy(&machine, image + 18, 2);
    std::memcpy(&sections, image + 40, 8);  // their table is the last thing in either file
    std::uint16_t section_size, section_count;
    std::memcpy(&section_size, image + 58, 2);
    std::memcpy(&section_count, image + 60, 2);
    const std::size_t size = sections + std::size_t{section_size} * section_count;
    constexpr int CUDA = 190;
    void* library = nullptr;
    if (machine != CUDA) {
        const int file = memfd_create("kernels", 0);
        if (write(file, image, size) != static_cast<ssize_t>(size)) return INVALID_IMAGE;
        // Left open: the next image would get this number, and so be taken for this library.
        library = dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_NOW);
        if (!library) return INVALID_IMAGE;
    }
    *module = new Module{current.back(), std::string(image, size), library};
    return SUCCESS;
}

Result cuModuleGetFunction(Function** function, Module* module, const char* name) {
    void* kernel = nullptr;
    if (module->library) {
        kernel = dlsym(module->library, (std::string("run_") + name).c_str());
        if (!kernel) return NOT_FOUND;
    } else if (module->image.find(name) == std::string::npos) {
        return NOT_FOUND;
    }
    *function = new Function{module, reinterpret_cast<Kernel>(kernel)};
    return SUCCESS;
}

Result cuLaunchKernel(Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                      unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                      void* stream, void** parameters, void** extra) {
    if (current.empty()) return INVALID_CONTEXT;
    if (function->module->context != current.back()) return INVALID_HANDLE;
    const unsigned grid[] = {grid_x, grid_y, grid_z};
    if (!grid_x || !grid_y || !grid_z || grid_x > 0x7fffffffu || grid_y > 65535 || grid_z > 65535)
        return INVALID_VALUE;
    if (!block_x || block_x > 1024 || block_y != 1 || block_z != 1) return INVALID_VALUE;
    if (shared_bytes || !parameters || extra) return INVALID_VALUE;
    stream_of_last_launch = reinterpret_cast<std::uintptr_t>(stream);
    device_of_last_launch = current.back()->device;
    if (!function->kernel) return SUCCESS;
    return function->kernel(parameters[0], grid, block_x, 1) ? LAUNCH_FAILED : SUCCESS;
}

Result cuGetProcAddress_v2(const char* name, void** function, int, std::uint64_t, int* status) {
    static void* self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    *function = dlsym(self, (std::string(name) + "_v2").c_str());
    if (!*function) *function = dlsym(self, name);
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}

// NVRTC asks for a table that nobody documents, and compiles as well without it.
Result cuGetExportTable(const void**, const void*) { return NOT_FOUND; }

// ---- for the tests ---------------------------------------------------------------------------

std::uintptr_t last_stream() { return stream_of_last_launch; }
int last_device() { return device_of_last_launch; }
int contexts_left() { return static_cast<int>(current.size()); }
}
