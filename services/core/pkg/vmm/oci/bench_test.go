package oci_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func BenchmarkMachine(b *testing.B) {
	l := newLab(b)
	b.Run("create+start", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			id := fmt.Sprintf("m%d", i)
			l.boot(spec(id))
			b.StopTimer()
			must(b, l.Delete(b.Context(), id))
			b.StartTimer()
		}
	})
	b.Run("create", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			id := fmt.Sprintf("c%d", i)
			_, err := l.Create(b.Context(), spec(id))
			must(b, err)
			b.StopTimer()
			must(b, l.Delete(b.Context(), id))
			b.StartTimer()
		}
	})
	b.Run("delete", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			id := fmt.Sprintf("d%d", i)
			l.boot(spec(id))
			b.StartTimer()
			must(b, l.Delete(b.Context(), id))
		}
	})
	l.boot(spec("live"))
	b.Run("dial", func(b *testing.B) {
		for b.Loop() {
			c, err := l.Dial(b.Context(), "live", 49983)
			must(b, err)
			must(b, c.Close())
		}
	})
	b.Run("pause+resume", func(b *testing.B) {
		for b.Loop() {
			must(b, l.Pause(b.Context(), "live", domain.PauseFreeze))
			must(b, l.Resume(b.Context(), "live"))
		}
	})
	b.Run("snapshot", func(b *testing.B) {
		var frozen float64
		n := 0
		for ; b.Loop(); n++ {
			info, err := l.Snapshot(b.Context(), "live", fmt.Sprintf("s%d", n), domain.SnapshotDisk)
			must(b, err)
			frozen += float64(info.Frozen.Microseconds())
		}
		b.ReportMetric(frozen/float64(n), "us-frozen/op")
	})
}

// BenchmarkBareRuntime runs the very bundle of a machine by hand.
func BenchmarkBareRuntime(b *testing.B) {
	l := newLab(b)
	l.boot(spec("model"))
	instance, err := os.ReadFile(l.dir + "/instance")
	must(b, err)
	config, err := os.ReadFile(filepath.Join(l.dir, "run/b/model/config.json"))
	must(b, err)
	bundle := b.TempDir()
	must(b, os.WriteFile(bundle+"/config.json", config, 0o600))
	must(b, exec.Command("runc", "--root", l.dir+"/run/r", "kill", string(instance)+"-model", "KILL").Run())
	_, err = l.Wait(b.Context(), "model")
	must(b, err)
	null, err := os.Open("/dev/null")
	must(b, err)
	root := b.TempDir()
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("bare%d", i)
		cmd := exec.Command("runc", "--root", root, "run", "--detach", "--preserve-fds", "1", "--no-new-keyring", "--bundle", bundle, id)
		cmd.ExtraFiles = []*os.File{null}
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		b.StopTimer()
		if out, err := exec.Command("runc", "--root", root, "delete", "--force", id).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		b.StartTimer()
	}
}
