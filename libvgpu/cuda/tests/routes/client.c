/* A tenant that finds the driver's functions by one route, and calls each family of allocations and launches through it.
 *
 * client ROUTE [VERSION FLAGS | PLUGIN]: after each step it writes a line and waits for one, so that whoever started it can
 * compare what the share is charged with what the driver has handed out:
 *
 *   none            nothing is held
 *   holds BYTES     at least so much is held
 *   refused NAME    a request past the limit came back as CUDA_ERROR_OUT_OF_MEMORY; nothing of it is held
 *   ran NANOS NAME  so much GPU time was taken
 *   absent NAME     the route does not know the function (of a newer CUDA than was asked for)
 *   end COUNT       calls that went through the interposer
 *
 * With LOOK in its environment it only says in which file each function lies, and what cuInit answers.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIB = 1 << 20, LENGTH = 2000000 };

typedef int (*function)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                        uint64_t);
struct name {
    const char *asked, *exported;
    int per_thread;
    function at;
};

#ifdef LINKED
#define FUNCTIONS_BEGIN
#define FUNCTIONS_END
#define N(asked, exported) extern int exported();
#define P(asked, exported) extern int exported();
#include "names.h"
#undef FUNCTIONS_BEGIN
#undef N
#undef P
#define LINK(name) (function)name
#else
#define LINK(name) NULL
#endif
#define FUNCTIONS_BEGIN static struct name names[] = {
#undef FUNCTIONS_END
#define FUNCTIONS_END };
#define N(asked, exported) {#asked, #exported, 0, LINK(exported)},
#define P(asked, exported) {#asked, #exported, 1, LINK(exported)},
#include "names.h"

static void fail(const char *what, const char *why, int code) {
    printf("failed %s %s %d\n", what, why, code);
    exit(1);
}

static void step(const char *what, uint64_t number, const char *name) {
    char line[64];
    printf("%s %llu %s\n", what, (unsigned long long)number, name);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        exit(1);
}

static struct name *find(const char *exported) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i].exported, exported))
            return &names[i];
    fail(exported, "is not in names.h", 0);
    return NULL;
}

#define ADDRESS(value) (uint64_t)(uintptr_t)(value)
#define CALL(name, ...) call(#name, (uint64_t[11]){__VA_ARGS__})
static int call(const char *name, const uint64_t a[11]) {
    function at = find(name)->at;
    if (!at)
        fail(name, "is not found", 0);
    return at(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10]);
}
#define OK(name, ...)                                                                                                  \
    do {                                                                                                               \
        int answer = CALL(name, __VA_ARGS__);                                                                            \
        if (answer)                                                                                                    \
            fail(#name, "gives", answer);                                                                              \
    } while (0)
#define REFUSED(name, ...)                                                                                             \
    do {                                                                                                               \
        int answer = CALL(name, __VA_ARGS__);                                                                            \
        if (answer != 2)                                                                                               \
            fail(#name, "past the limit gives", answer);                                                               \
        step("refused", 0, #name);                                                                                     \
    } while (0)

static void memory(uint64_t limit) {
    uint64_t at = 0, pitch = 0, other = 0;
    OK(cuMemAlloc_v2, ADDRESS(&at), 5 * MIB);
    step("holds", 5 * MIB, "cuMemAlloc");
    OK(cuMemFree_v2, at);
    REFUSED(cuMemAlloc_v2, ADDRESS(&at), limit + 1);
    OK(cuMemAllocPitch_v2, ADDRESS(&at), ADDRESS(&pitch), 1000, 1000, 4);
    step("holds", pitch * 1000, "cuMemAllocPitch");
    OK(cuMemFree_v2, at);
    REFUSED(cuMemAllocPitch_v2, ADDRESS(&at), ADDRESS(&pitch), limit, 2, 4);
    OK(cuMemAllocManaged, ADDRESS(&at), 7 * MIB, 1);
    step("holds", 7 * MIB, "cuMemAllocManaged");
    OK(cuMemFree_v2, at);
    REFUSED(cuMemAllocManaged, ADDRESS(&at), limit + 1, 1);
    OK(cuMemHostAlloc, ADDRESS(&at), 64 * MIB, 0);
    step("none", 0, "cuMemHostAlloc");
    OK(cuMemFreeHost, at);
    /* Width, height, (depth,) format and channels, flags. */
    uint64_t flat[] = {256, 256, 0x20 | 4ull << 32}, deep[] = {64, 32, 32, 0x20 | 4ull << 32, 0};
    uint64_t wide[] = {1 << 14, 1 << 14, 0x20 | 4ull << 32}, wider[] = {1 << 14, 1 << 14, 0, 0x20 | 4ull << 32, 0};
    OK(cuArrayCreate_v2, ADDRESS(&at), ADDRESS(flat));
    OK(cuArray3DCreate_v2, ADDRESS(&other), ADDRESS(deep));
    step("holds", 2 * MIB, "cuArrayCreate");
    OK(cuArrayDestroy, at);
    OK(cuArrayDestroy, other);
    REFUSED(cuArrayCreate_v2, ADDRESS(&at), ADDRESS(wide));
    REFUSED(cuArray3DCreate_v2, ADDRESS(&at), ADDRESS(wider));
    OK(cuMipmappedArrayCreate, ADDRESS(&at), ADDRESS(deep), 1);
    step("holds", MIB, "cuMipmappedArrayCreate");
    OK(cuMipmappedArrayDestroy, at);
    REFUSED(cuMipmappedArrayCreate, ADDRESS(&at), ADDRESS(wider), 1);
}

static void mapped(uint64_t limit) {
    /* CUmemAllocationProp: pinned memory of device 0. */
    int32_t properties[22] = {1, 0, 1, 0};
    uint64_t handle = 0, at = 0;
    OK(cuMemCreate, ADDRESS(&handle), 16 * MIB, ADDRESS(properties), 0);
    step("holds", 16 * MIB, "cuMemCreate");
    OK(cuMemAddressReserve, ADDRESS(&at), 16 * MIB, 0, 0, 0);
    OK(cuMemMap, at, 16 * MIB, 0, handle, 0);
    OK(cuMemRelease, handle);
    step("holds", 16 * MIB, "cuMemMap");
    OK(cuMemUnmap, at, 16 * MIB);
    step("none", 0, "cuMemUnmap");
    REFUSED(cuMemCreate, ADDRESS(&handle), limit + 2 * MIB, ADDRESS(properties), 0);
}

static void ordered(uint64_t limit) {
    int32_t properties[22] = {1, 0, 1, 0};
    uint64_t at = 0, pool = 0;
    OK(cuMemAllocAsync, ADDRESS(&at), 20 * MIB, 0);
    step("holds", 20 * MIB, "cuMemAllocAsync");
    OK(cuMemFreeAsync, at, 0);
    OK(cuStreamSynchronize, 0);
    REFUSED(cuMemAllocAsync, ADDRESS(&at), limit + 1, 0);
    OK(cuMemPoolCreate, ADDRESS(&pool), ADDRESS(properties));
    OK(cuMemAllocFromPoolAsync, ADDRESS(&at), 20 * MIB, pool, 0);
    step("holds", 20 * MIB, "cuMemAllocFromPoolAsync");
    REFUSED(cuMemAllocFromPoolAsync, ADDRESS(&at + 1), limit, pool, 0);
    OK(cuMemFreeAsync, at, 0);
    OK(cuStreamSynchronize, 0);
    OK(cuMemPoolDestroy, pool);
    step("none", 0, "cuMemPoolDestroy");
    uint64_t graph = 0, node = 0, end = 0, run = 0, stream = 0, wanted[15] = {1, 1};
    wanted[13] = 24 * MIB;
    if (!find("cuGraphAddMemAllocNode")->at) {
        step("absent", 0, "cuGraphAddMemAllocNode");
        return;
    }
    OK(cuStreamCreate, ADDRESS(&stream), 1);
    OK(cuGraphCreate, ADDRESS(&graph), 0);
    OK(cuGraphAddMemAllocNode, ADDRESS(&node), graph, 0, 0, ADDRESS(wanted));
    OK(cuGraphAddMemFreeNode, ADDRESS(&end), graph, ADDRESS(&node), 1, wanted[14]);
    OK(cuGraphInstantiateWithFlags, ADDRESS(&run), graph, 0);
    OK(cuGraphLaunch, run, stream);
    step("holds", 24 * MIB, "cuGraphAddMemAllocNode");
    OK(cuStreamSynchronize, stream);
    OK(cuGraphExecDestroy, run);
    OK(cuGraphDestroy, graph);
    OK(cuDeviceGraphMemTrim, 0);
    step("none", 0, "cuDeviceGraphMemTrim");
}

static void launches(void) {
    static const char code[] =
        ".version 7.0\n.target sm_50\n.address_size 64\n.visible .entry spin(.param .u64 n)\n{ ret; }\n";
    uint64_t module = 0, spin = 0, stream = 0, graph = 0, run = 0, length = LENGTH;
    void *parameters[] = {&length};
    uint64_t given = ADDRESS(parameters);
    OK(cuModuleLoadData, ADDRESS(&module), ADDRESS(code));
    OK(cuModuleGetFunction, ADDRESS(&spin), module, ADDRESS("spin"));
    OK(cuStreamCreate, ADDRESS(&stream), 1);
#define RAN(name)                                                                                                      \
    OK(cuCtxSynchronize, 0);                                                                                           \
    step("ran", LENGTH, name)
    OK(cuLaunchKernel, spin, 1, 1, 1, 32, 1, 1, 0, 0, given, 0);
    RAN("cuLaunchKernel");
    OK(cuLaunchKernel, spin, 1, 1, 1, 32, 1, 1, 0, stream, given, 0);
    RAN("cuLaunchKernel on a stream");
    OK(cuLaunchCooperativeKernel, spin, 1, 1, 1, 32, 1, 1, 0, 0, given);
    RAN("cuLaunchCooperativeKernel");
    if (find("cuLaunchKernelEx")->at) {
        /* CUlaunchConfig: grid, block, bytes of shared memory; stream; attributes, how many. */
        struct {
            uint32_t shape[7];
            uint64_t stream, attributes;
            uint32_t count;
        } config = {{1, 1, 1, 32, 1, 1, 0}, 0, 0, 0};
        OK(cuLaunchKernelEx, ADDRESS(&config), spin, given, 0);
        RAN("cuLaunchKernelEx");
    } else {
        step("absent", 0, "cuLaunchKernelEx");
    }
    OK(cuStreamBeginCapture_v2, stream, 0);
    OK(cuLaunchKernel, spin, 1, 1, 1, 32, 1, 1, 0, stream, given, 0);
    OK(cuStreamEndCapture, stream, ADDRESS(&graph));
    OK(cuGraphInstantiate_v2, ADDRESS(&run), graph, 0, 0, 0);
    OK(cuGraphLaunch, run, stream);
    RAN("cuGraphLaunch");
    OK(cuFuncSetBlockShape, spin, 32, 1, 1);
    OK(cuParamSetSize, spin, sizeof length);
    OK(cuParamSetv, spin, 0, ADDRESS(&length), sizeof length);
    OK(cuLaunch, spin);
    RAN("cuLaunch");
    OK(cuLaunchGrid, spin, 1, 1);
    RAN("cuLaunchGrid");
    OK(cuLaunchGridAsync, spin, 1, 1, stream);
    RAN("cuLaunchGridAsync");
}

static int look(void) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Dl_info info = {0};
        const char *file = names[i].at && dladdr((void *)names[i].at, &info) ? info.dli_fname : "/absent";
        printf("%s %d %s\n", names[i].exported, names[i].per_thread, strrchr(file, '/') + 1);
    }
    printf("cuInit %d\n", CALL(cuInit, 0));
    return 0;
}

__attribute__((visibility("default"))) int drive(void) {
    if (getenv("LOOK"))
        return look();
    uint64_t context = 0, free = 0, total = 0, device = 0;
    OK(cuInit, 0);
    OK(cuDevicePrimaryCtxRetain, ADDRESS(&context), 0);
    OK(cuCtxSetCurrent, context);
    OK(cuMemGetInfo_v2, ADDRESS(&free), ADDRESS(&total));
    OK(cuMemGetInfo_v2, 0, 0);
    OK(cuDeviceTotalMem_v2, ADDRESS(&device), 0);
    step("total", total, "cuMemGetInfo");
    step("total", device, "cuDeviceTotalMem");
    memory(total);
    mapped(total);
    ordered(total);
    launches();
    long *interposed = dlsym(RTLD_DEFAULT, "interposed");
    step("end", interposed ? (uint64_t)*interposed : 0, "of the interposer");
    return 0;
}

static void *load(const char *name, int flags) {
    void *library = dlopen(name, flags);
    if (!library)
        fail(name, dlerror(), 0);
    return library;
}

/* The exported names by dlsym on a handle. */
static void look_up(void *library, int per_thread) {
    char own[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int flavour = per_thread && names[i].per_thread;
        snprintf(own, sizeof own, "%s%s", names[i].exported, flavour ? "_ptsz" : "");
        names[i].at = (function)dlsym(library, own);
    }
}

/* The plain names by cuGetProcAddress, which is itself asked for at the version. */
static void ask(void *library, int version, uint64_t flags) {
    int (*first)(const char *, void **, int, uint64_t, int *) = dlsym(library, "cuGetProcAddress_v2");
    void *lookup = NULL;
    int status = 0;
    if (!first || first("cuGetProcAddress", &lookup, version, flags, &status) || !lookup)
        fail("cuGetProcAddress", "is not found", version);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *found = NULL;
        if (version < 12000) {
            /* The older one has no status; what lies where the newer one's argument is must not be written to. */
            int (*old)(const char *, void **, int, uint64_t) = lookup;
            old(names[i].asked, &found, version, flags);
        } else {
            int (*new)(const char *, void **, int, uint64_t, int *) = lookup;
            new (names[i].asked, &found, version, flags, &status);
            if (!found != (status != 0))
                fail(names[i].asked, "has the status", status);
        }
        names[i].at = (function)found;
    }
}

int main(int count, char **arguments) {
    const char *route = count > 1 ? arguments[1] : "", *cuda = "libcuda.so.1";
    if (!strcmp(route, "link"))
        return drive();
    if (!strcmp(route, "plugin")) {
        int (*run)(void) = (int (*)(void))dlsym(load(arguments[2], RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND), "drive");
        return run();
    }
    if (!strcmp(route, "dlvsym")) {
        /* The driver's symbols have no versions: none is found by one, and none must be found past the limiter. */
        void *library = load(cuda, RTLD_NOW);
        const char *versions[] = {"GLIBC_2.2.5", "GLIBC_2.34", "libcuda.so.1", "CUDA_12", "Base"};
        int found = 0;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            for (size_t v = 0; v < sizeof versions / sizeof *versions; v++)
                found += dlvsym(library, names[i].exported, versions[v]) != NULL;
        printf("found %d\n", found);
        return 0;
    }
    if (!strcmp(route, "dlopen"))
        look_up(load(cuda, RTLD_NOW | RTLD_LOCAL), 0);
    else if (!strcmp(route, "dlopen-per-thread"))
        look_up(load(cuda, RTLD_NOW | RTLD_LOCAL), 1);
    else if (!strcmp(route, "global"))
        load(cuda, RTLD_LAZY | RTLD_GLOBAL), look_up(RTLD_DEFAULT, 0);
    else if (!strcmp(route, "deepbind"))
        look_up(load(cuda, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND), 0);
    else if (!strcmp(route, "dlmopen")) {
        void *library = dlmopen(LM_ID_NEWLM, cuda, RTLD_NOW);
        if (!library)
            fail("dlmopen", dlerror(), 0);
        look_up(library, 0);
    } else if (!strcmp(route, "cuGetProcAddress"))
        ask(load(cuda, RTLD_NOW), atoi(arguments[2]), (uint64_t)atoi(arguments[3]));
    else
        fail(route, "is no route", 0);
    return drive();
}
