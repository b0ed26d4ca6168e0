// Lets one of the next allocations fail, all buffers, or the computation of graphs; preloaded in front of libstdc++ and ggml.

#include <dlfcn.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>

extern "C" {
    // how many allocations from now fails, the first is 1; 0: none
    long fail_allocation = 0;

    // the size in bytes from which no buffer is allocated; 0: all are
    size_t fail_size = 0;

    // 1: graphs of llama.cpp are not computed
    int fail_computation = 0;

    // calls of the functions that copy to and from a tensor
    long n_transfers = 0;
}

static bool fails() {
    return fail_allocation > 0 && --fail_allocation == 0;
}

template<typename T>
static T next(T, const char * name) {
    return (T) dlsym(RTLD_NEXT, name);
}

void * operator new(size_t size) {
    void * res = fails() ? nullptr : malloc(size);
    if (!res) {
        throw std::bad_alloc();
    }
    return res;
}

extern "C" int posix_memalign(void ** pointer, size_t alignment, size_t size) noexcept {
    static const auto call = next(&posix_memalign, "posix_memalign");

    // where less is missing, ggml ends the process
    const bool is_buffer = size >= 1 << 16;

    return (is_buffer && fails()) || (fail_size > 0 && size >= fail_size) ? ENOMEM : call(pointer, alignment, size);
}

extern "C" int ggml_backend_sched_graph_compute_async(void * sched, void * graph) {
    return fail_computation ? -1 : next(&ggml_backend_sched_graph_compute_async, "ggml_backend_sched_graph_compute_async")(sched, graph);
}

extern "C" void ggml_backend_tensor_get(const void * tensor, void * data, size_t offset, size_t size) {
    n_transfers++;
    next(&ggml_backend_tensor_get, "ggml_backend_tensor_get")(tensor, data, offset, size);
}

extern "C" void ggml_backend_tensor_set(void * tensor, const void * data, size_t offset, size_t size) {
    n_transfers++;
    next(&ggml_backend_tensor_set, "ggml_backend_tensor_set")(tensor, data, offset, size);
}
