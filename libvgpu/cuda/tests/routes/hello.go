// A program that has nothing to do with CUDA: threads, timers and signals of Go's runtime beside glibc.
package main

/*
#include <dlfcn.h>
#include <stdlib.h>
static void *find(void) { return dlsym(RTLD_DEFAULT, "getpid"); }
*/
import "C"

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	var group sync.WaitGroup
	for i := 0; i < 16; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			runtime.LockOSThread()
			if C.find() == nil {
				panic("dlsym finds nothing")
			}
			time.Sleep(time.Millisecond)
		}()
	}
	group.Wait()
	syscall.Kill(syscall.Getpid(), syscall.SIGUSR1)
	fmt.Println(<-signals)
}
