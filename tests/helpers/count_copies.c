/* Counts what ggml copies from tensors to the host, on any backend; preloaded in front of libggml-base. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

size_t n_copied_to_host = 0;

/* one of these functions can call another */
static _Thread_local int depth = 0;

static void * enter(const char * name, size_t size) {
    n_copied_to_host += depth++ == 0 ? size : 0;
    return dlsym(RTLD_NEXT, name);
}

void ggml_backend_tensor_get(const void * tensor, void * data, size_t offset, size_t size) {
    void (*get)(const void *, void *, size_t, size_t) = enter("ggml_backend_tensor_get", size);
    get(tensor, data, offset, size);
    depth--;
}

void ggml_backend_tensor_get_async(void * backend, const void * tensor, void * data, size_t offset, size_t size) {
    void (*get)(void *, const void *, void *, size_t, size_t) = enter("ggml_backend_tensor_get_async", size);
    get(backend, tensor, data, offset, size);
    depth--;
}

void ggml_backend_tensor_get_2d(const void * tensor, void * data, size_t offset, size_t size, size_t n_copies,
                                size_t stride_tensor, size_t stride_data) {
    void (*get)(const void *, void *, size_t, size_t, size_t, size_t, size_t) =
        enter("ggml_backend_tensor_get_2d", n_copies * size);
    get(tensor, data, offset, size, n_copies, stride_tensor, stride_data);
    depth--;
}

void ggml_backend_tensor_get_2d_async(void * backend, const void * tensor, void * data, size_t offset, size_t size,
                                      size_t n_copies, size_t stride_tensor, size_t stride_data) {
    void (*get)(void *, const void *, void *, size_t, size_t, size_t, size_t, size_t) =
        enter("ggml_backend_tensor_get_2d_async", n_copies * size);
    get(backend, tensor, data, offset, size, n_copies, stride_tensor, stride_data);
    depth--;
}
