package journal_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

const writerEnv = "AETHERIUM_TEST_JOURNAL_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerEnv); dir != "" {
		write(dir)
	}
	os.Exit(m.Run())
}

func killKey() journal.Key {
	return journal.Key{VM: "vvvvvvvvvvvvvvvvvvvv", Epoch: 1, Execution: "eeeeeeeeeeeeeeeeeeee"}
}

// write appends numbered lines for as long as it lives, and tells after each
// how far it came.
func write(dir string) {
	s, err := journal.OpenStore(dir, journal.Options{MaxBytes: 1 << 20})
	if err != nil {
		panic(err)
	}
	j, err := s.Open(killKey())
	if err != nil {
		panic(err)
	}
	out := bufio.NewWriterSize(os.Stdout, 16)
	for i := j.NextOffset() / 100; ; i++ {
		line := fmt.Appendf(nil, "%-99d\n", i)
		// More than is new, as after a resume.
		if err := j.Append(i*100, domain.Stdout, line); err != nil {
			panic(err)
		}
		_, _ = fmt.Fprintln(out, j.NextOffset())
	}
}

// TestKilledWriter kills a process that writes, again and again: what it was
// told is kept must be there, whole and in order.
func TestKilledWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	told := int64(0)
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerEnv+"="+dir)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		for range 500 * (round + 1) {
			if !lines.Scan() {
				t.Fatal("the writer ended by itself")
			}
			if told, err = strconv.ParseInt(lines.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		s, err := journal.OpenStore(dir, journal.Options{MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		j := open(t, s, killKey())
		if j.NextOffset() < told || j.NextOffset()%100 != 0 {
			t.Fatalf("%d bytes are kept, it was told of %d", j.NextOffset(), told)
		}
		first := j.FirstOffset()
		got := read(t, s, killKey(), first).data.String()
		if int64(len(got)) != j.NextOffset()-first {
			t.Fatalf("%d bytes can be read from %d on, of %d", len(got), first, j.NextOffset())
		}
		for i := 0; i < len(got); i += 100 {
			if want := (first + int64(i)) / 100; strings.TrimSpace(got[i:i+100]) != strconv.FormatInt(want, 10) {
				t.Fatalf("%q at offset %d", got[i:i+100], first+int64(i))
			}
		}
		j.Close()
		_ = s.Close()
	}
}
