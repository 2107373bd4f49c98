// Command fc-pager serves the memory of one guest that Firecracker restores by
// userfaultfd; see package pager. The firecracker engine starts it.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker/pager"
)

func main() {
	runtime.GOMAXPROCS(2) // one serves, one waits: there is one of these for each guest
	if err := pager.Main(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fc-pager:", err)
		os.Exit(1)
	}
}
