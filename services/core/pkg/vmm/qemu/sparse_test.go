package qemu

import (
	"sync"
	"testing"
)

// Memories that are saved at the same time together take no more of the host's
// memory than one may: what was promised counts, written or not.
func TestPassagesShareTheMemory(t *testing.T) {
	t.Parallel()
	p := passages{available: func() (int64, error) { return 40 << 20, nil }}
	const length = 8 << 20
	var all sync.WaitGroup
	opened := make([]*passage, 10)
	for i := range opened {
		all.Go(func() {
			var err error
			if opened[i], err = p.open(length); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	count := 0
	for _, f := range opened {
		if f == nil {
			continue
		}
		if info, err := f.Stat(); err != nil || info.Size() != length {
			t.Errorf("%v, %v", info, err)
		}
		count++
	}
	if count != 2 {
		t.Errorf("%d of 8 MiB each where all may take 20", count)
	}
	for _, f := range opened {
		if f != nil {
			_ = f.Close()
			f.release() // it counts once
		}
	}
	if f, err := p.open(20 << 20); f == nil || err != nil {
		t.Errorf("what was closed is not given back: %v, %v", f, err)
	} else {
		_ = f.Close()
	}
	if f, err := p.open(20<<20 + 1); f != nil || err != nil {
		t.Errorf("more than half: %v, %v", f, err)
	}
}
