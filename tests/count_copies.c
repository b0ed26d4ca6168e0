/* Counts what CUDA copies to the host, preloaded in front of libcudart. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

enum { DEVICE_TO_HOST = 2 };

size_t n_copied_to_host = 0;

static void * next(const char * name) {
    return dlsym(RTLD_NEXT, name);
}

int cudaMemcpy(void * dst, const void * src, size_t size, int kind) {
    int (*copy)(void *, const void *, size_t, int) = next("cudaMemcpy");
    n_copied_to_host += kind == DEVICE_TO_HOST ? size : 0;
    return copy(dst, src, size, kind);
}

int cudaMemcpyAsync(void * dst, const void * src, size_t size, int kind, void * stream) {
    int (*copy)(void *, const void *, size_t, int, void *) = next("cudaMemcpyAsync");
    n_copied_to_host += kind == DEVICE_TO_HOST ? size : 0;
    return copy(dst, src, size, kind, stream);
}

int cudaMemcpy2DAsync(void * dst, size_t dpitch, const void * src, size_t spitch, size_t width, size_t height, int kind,
                      void * stream) {
    int (*copy)(void *, size_t, const void *, size_t, size_t, size_t, int, void *) = next("cudaMemcpy2DAsync");
    n_copied_to_host += kind == DEVICE_TO_HOST ? width * height : 0;
    return copy(dst, dpitch, src, spitch, width, height, kind, stream);
}
