/* A program that has nothing to do with CUDA. */
#include <stdio.h>
#include <string.h>

int main(void) {
    char line[512];
    int mapped = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        mapped |= strstr(line, "libvgpu_preload") != NULL;
    puts(mapped ? "mapped" : "not mapped");
    return 0;
}
