/* An allocator in front of glibc's, as profilers of memory are: it looks for the next one when it is first asked for
 * memory, and a lookup that asks for memory itself would not end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <unistd.h>

void *malloc(size_t size) {
    static void *(*next)(size_t);
    static int looking;
    if (!next) {
        if (looking)
            _exit(99);
        looking = 1;
        next = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
        looking = 0;
    }
    return next(size);
}
