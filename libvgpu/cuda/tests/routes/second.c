/* A library named behind the limiter's in /etc/ld.so.preload, in front of one of glibc's functions. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int puts(const char *text) {
    int (*next)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "puts");
    int (*same)(const char *) = (int (*)(const char *))dlvsym(RTLD_NEXT, "puts", "GLIBC_2.2.5");
#ifdef __aarch64__
    same = next;
#endif
    if (!next || next == puts || same != next)
        abort();
    next("next");
    return next(text);
}
