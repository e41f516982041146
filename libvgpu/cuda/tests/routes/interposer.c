/* Another library in front of the driver's: it counts the calls to every function of names.h and hands them on to the next
 * one by RTLD_NEXT, as tracers and profilers do. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

long interposed;

/* All of them take at most eleven integers or pointers; a function that takes fewer does not look at the others. */
#define HAND_ON(name)                                                                                                  \
    int name(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h, uint64_t i, \
             uint64_t j, uint64_t k) {                                                                                 \
        static int (*next)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,   \
                           uint64_t, uint64_t);                                                                        \
        if (!next)                                                                                                     \
            next = (int (*)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,  \
                            uint64_t, uint64_t))dlsym(RTLD_NEXT, #name);                                               \
        if (!next || (void *)next == (void *)name)                                                                     \
            abort();                                                                                                   \
        interposed++;                                                                                                  \
        return next(a, b, c, d, e, f, g, h, i, j, k);                                                                  \
    }
#define FUNCTIONS_BEGIN
#define FUNCTIONS_END
#define N(asked, exported) HAND_ON(exported)
#define P(asked, exported) HAND_ON(exported)
#include "names.h"
