package hostlease_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/hostlease"
	"github.com/aetherium/aetherium/services/core/pkg/network/internal/nspair"
)

func TestBlocksAreLeasedOnce(t *testing.T) {
	t.Parallel()
	r, err := hostlease.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const low, high = 1 << 28, 1<<28 + 10*hostlease.BlockSize
	reserved := []nspair.Range{{Base: low + hostlease.BlockSize + 5, Count: 1}}
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen, full := map[uint32]int{}, 0
	for i := range 12 {
		wg.Go(func() {
			name := fmt.Sprintf("i%d", i%3)
			err := r.Update(name, func(v *hostlease.View) error {
				v.Mine.Instance = name
				base, err := v.AddBlock(low, high, reserved)
				if err == nil {
					mu.Lock()
					seen[base]++
					mu.Unlock()
					err = v.Save()
				}
				return err
			})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				if full++; !errors.HasCode(err, errors.CapacityExhausted) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(seen) != 9 || full != 3 || seen[low+hostlease.BlockSize] != 0 {
		t.Errorf("leased %v, refused %d; want nine different ones, without the reserved, and three refusals", seen, full)
	}
	for base, n := range seen {
		if n != 1 {
			t.Errorf("block %#x was leased %d times", base, n)
		}
	}
}

func TestReservedIDs(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for path, text := range map[string]string{
		"etc/subuid": "alice:1073741824:65536\nbroken\nbob:x:y\n",
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nremote:x:1200000000:1200000000::/:/bin/false\n",
		"etc/group":  "root:x:0:\n",
	} {
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := hostlease.ReservedIDs(root)
	want := []nspair.Range{{Base: 1073741824, Count: 65536}, {Base: 0, Count: 1}, {Base: 1200000000, Count: 1}, {Base: 0, Count: 1}}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
}

func TestADamagedLeaseIsNotPassedOver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, err := hostlease.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "leases", "bad.json"), []byte(`{"version":`), 0o600); err != nil {
		t.Fatal(err)
	}
	err = r.Update("good", func(*hostlease.View) error { t.Error("ran"); return nil })
	if !errors.HasCode(err, errors.Conflict) {
		t.Errorf("%v", err)
	}
}
