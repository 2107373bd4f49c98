package logging_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/logging"
)

func open(t *testing.T, path string, size int64, keep int, tell func(error)) *logging.File {
	t.Helper()
	f, err := logging.OpenFile(path, size, keep, tell)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// lines reads a log with all that was put aside of it, the oldest first.
func lines(t *testing.T, path string) (all []string, files int) {
	t.Helper()
	names, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	slices.Reverse(names) // path.3, path.2, path.1, path
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 0 {
			all = append(all, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
		}
	}
	return all, len(names)
}

// Files are put aside without a line being lost or torn, whoever writes, and there
// are never more of them than said.
func TestFileIsPutAside(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	f := open(t, path, 4<<10, 9, func(err error) { t.Error(err) })
	log := slog.New(slog.NewJSONHandler(f, nil))
	const writers, each = 8, 50 // some 30 KB in 8 files
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for n := range each {
				log.Info("m", "w", w, "n", n)
			}
		})
	}
	all.Wait()
	got, files := lines(t, path)
	if len(got) != writers*each || files < 3 {
		t.Fatalf("%d lines in %d files", len(got), files)
	}
	next := make([]int, writers)
	for _, text := range got {
		var l struct{ W, N int }
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if l.N != next[l.W] {
			t.Fatalf("of %d came %d for %d", l.W, l.N, next[l.W])
		}
		next[l.W]++
	}
	for range 2000 {
		log.Info("more")
	}
	if _, files := lines(t, path); files != 10 {
		t.Errorf("%d files", files)
	}
	info, err := os.Stat(path + ".1")
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() > 4<<10 {
		t.Errorf("%v, %v", info, err)
	}
	alone := filepath.Join(t.TempDir(), "alone")
	f = open(t, alone, 100, 0, nil)
	for i := range 100 {
		_, _ = fmt.Fprintf(f, "line %d\n", i)
	}
	if got, files := lines(t, alone); files != 1 || got[len(got)-1] != "line 99" || len(got) > 12 {
		t.Errorf("%d files, %q", files, got)
	}
}

// A file that was moved away or removed is made anew, and what is in it stays
// when a server comes back.
func TestFileIsMadeAnew(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	f := open(t, path, 1<<20, 3, nil)
	_, _ = io.WriteString(f, "one\n")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, _ = io.WriteString(f, "two\n")
		if _, err := os.Stat(path); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it is not there again")
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(f, "nobody's\n")
	again := open(t, path, 1<<20, 3, nil)
	_, _ = io.WriteString(again, "three\n")
	text, err := os.ReadFile(path)
	if err != nil || string(text) != "two\nthree\n" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := logging.OpenFile(filepath.Join(t.TempDir(), "absent", "log"), 1, 1, nil); err == nil {
		t.Error("a file in a directory that is not there was opened")
	}
	if _, err := logging.OpenFile(t.TempDir(), 1, 1, nil); err == nil {
		t.Error("a directory was opened")
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := logging.OpenFile(pipe, 1, 1, nil); err == nil {
		t.Error("a pipe was opened")
	}
	shown := filepath.Join(t.TempDir(), "shown")
	if err := os.WriteFile(shown, nil, 0o644); err != nil { //nolint:gosec // that is what is mended
		t.Fatal(err)
	}
	open(t, shown, 1, 1, nil)
	if info, err := os.Stat(shown); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// A full disk costs lines, all of each, and nobody is kept waiting; it is told once a minute.
func TestFileOnAFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("mounting: %v, %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	var told []error
	path := filepath.Join(dir, "log")
	f := open(t, path, 1<<20, 2, func(err error) { told = append(told, err) })
	line := strings.Repeat("x", 999) + "\n"
	for range 200 {
		if n, err := io.WriteString(f, line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(told) != 1 {
		t.Errorf("told %v", told)
	}
	got, _ := lines(t, path)
	for _, l := range got {
		if l+"\n" != line {
			t.Fatalf("a torn line of %d bytes", len(l))
		}
	}
	if len(got) < 30 || f.Lost() != int64(200-len(got)) {
		t.Errorf("%d lines, %d lost", len(got), f.Lost())
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(f, line)
	if got, _ := lines(t, path); len(got) != 1 || got[0]+"\n" != line {
		t.Errorf("after there was room again: %d lines", len(got))
	}
	for range 200 {
		_, _ = io.WriteString(f, line)
	}
	if len(told) != 1 {
		t.Errorf("when it was full again at once: told %v", told)
	}
}

// Killed at any moment, a process leaves whole lines, and all that it was done with.
func TestFileOfAKilledProcess(t *testing.T) {
	t.Parallel()
	path := os.Getenv("LOGGING_TEST_FILE")
	if path != "" {
		f := open(t, path, 16<<10, 1000, nil)
		for i := 0; ; i++ {
			_, _ = fmt.Fprintf(f, "{\"n\":%d}\n", i)
			fmt.Println(i)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "log")
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestFileOfAKilledProcess$")
	cmd.Env = append(os.Environ(), "LOGGING_TEST_FILE="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r, done := bufio.NewScanner(out), -1
	for done < 5000 && r.Scan() {
		if _, err := fmt.Sscan(r.Text(), &done); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Process.Kill()
	for r.Scan() {
		_, _ = fmt.Sscan(r.Text(), &done)
	}
	_ = cmd.Wait()
	seen := map[int]bool{}
	names, _ := filepath.Glob(path + "*")
	for _, name := range names {
		got, _ := os.ReadFile(name)
		for l := range strings.Lines(string(got)) {
			var v struct{ N int }
			if err := json.Unmarshal([]byte(l), &v); err != nil {
				t.Fatalf("%q: %v", l, err)
			}
			seen[v.N] = true
		}
	}
	for i := range done + 1 {
		if !seen[i] {
			t.Fatalf("line %d of %d is lost", i, done)
		}
	}
}

// Where no other file can be made, lines go on to the one that there is, and those
// that were put aside stay.
func TestFileThatCannotBePutAside(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	f := open(t, path, 100, 4, nil)
	for i := range 60 {
		_, _ = fmt.Fprintf(f, "before %d\n", i)
	}
	before, files := lines(t, path)
	if files != 5 {
		t.Fatalf("%d files", files)
	}
	if err := os.Mkdir(path+".0", 0o700); err != nil { // in the way of the next
		t.Fatal(err)
	}
	for i := range 30 {
		_, _ = fmt.Fprintf(f, "after %d\n", i)
	}
	if err := os.Remove(path + ".0"); err != nil {
		t.Fatal(err)
	}
	after, files := lines(t, path)
	if files != 5 || !slices.Equal(after[:len(before)], before) || len(after) != len(before)+30 || f.Lost() != 0 {
		t.Errorf("%d files, %d lines of %d, %d lost", files, len(after), len(before)+30, f.Lost())
	}
}
