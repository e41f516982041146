/* A program with CUDA's runtime linked into it, as nvcc does it: how far it gets, without addresses. */
#include <stddef.h>
#include <stdio.h>

int cudaRuntimeGetVersion(int *), cudaDriverGetVersion(int *), cudaGetDeviceCount(int *), cudaGetLastError(void);
int cudaMalloc(void **, size_t), cudaMemGetInfo(size_t *, size_t *);

int main(void) {
    int number = 0;
    void *address = NULL;
    size_t free = 0, total = 0;
    int code = cudaRuntimeGetVersion(&number);
    printf("cudaRuntimeGetVersion %d %d\n", code, number);
    code = cudaDriverGetVersion(&number);
    printf("cudaDriverGetVersion %d %d\n", code, number);
    number = 0;
    code = cudaGetDeviceCount(&number);
    printf("cudaGetDeviceCount %d %d\n", code, number);
    printf("cudaGetLastError %d\n", cudaGetLastError());
    code = cudaMalloc(&address, 4096);
    printf("cudaMalloc %d %d\n", code, address != NULL);
    code = cudaMemGetInfo(&free, &total);
    printf("cudaMemGetInfo %d %zu %zu\n", code, free, total);
    return 0;
}
