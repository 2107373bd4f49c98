package executable_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/internal/executable"
)

// Other threads start processes all the time, in namespaces of users of their
// own, which takes them longest to begin.
func TestInstalledProgramsCanBeStartedAtOnce(t *testing.T) {
	program, err := exec.LookPath("true")
	if err != nil {
		t.Skip(err)
	}
	done := make(chan struct{})
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				cmd := exec.CommandContext(t.Context(), program)
				if os.Geteuid() == 0 {
					cmd.SysProcAttr = &syscall.SysProcAttr{
						Cloneflags:  syscall.CLONE_NEWUSER,
						UidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1}},
						GidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1}},
					}
				}
				_ = cmd.Run() // hosts without such namespaces refuse it, later than it matters
			}
		})
	}
	defer others.Wait()
	defer close(done)
	for i := range 300 {
		src, err := os.Open(program)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), strconv.Itoa(i))
		err = executable.Install(src, path, time.Time{})
		_ = src.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := exec.CommandContext(t.Context(), path).Run(); err != nil {
			t.Fatalf("the program of round %d: %v", i, err)
		}
	}
}

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "program")
	at := time.Unix(1_000_000_000, 0)
	for _, text := range []string{"one", "another"} {
		src := filepath.Join(t.TempDir(), "src")
		if err := os.WriteFile(src, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(src)
		if err != nil {
			t.Fatal(err)
		}
		err = executable.Install(f, path, at)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o755 || !info.ModTime().Equal(at) {
		t.Errorf("%+v, %v", info, err)
	}
	// A directory, which cannot be read as a file.
	src, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = src.Close() }()
	if err := executable.Install(src, path, at); err == nil {
		t.Error("a directory was installed")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}
