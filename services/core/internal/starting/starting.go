// Package starting is for tests of what must not meet programs that the process
// starts at the same moment: one that is about to begin has, for a moment, every
// file open that the process has.
package starting

import (
	"context"
	"os"
	"slices"
	"sync"
	"testing"
)

// Others starts one program after the other until the test ends. Each
// has so many files to begin with, which makes it slow to.
func Others(t testing.TB, files int) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	slow := &os.ProcAttr{Files: slices.Repeat([]*os.File{null}, files)}
	ctx, cancel := context.WithCancel(context.Background())
	var others sync.WaitGroup
	others.Go(func() {
		for ctx.Err() == nil {
			p, err := os.StartProcess("/bin/true", []string{"true"}, slow)
			if err == nil {
				_, err = p.Wait()
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		others.Wait()
		_ = null.Close()
	})
}
