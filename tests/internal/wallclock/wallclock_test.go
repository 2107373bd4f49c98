package wallclock_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/aetherium/aetherium/tests/internal/wallclock"
)

// TestMain is a launcher, too, and a program that tells the time whenever it is asked.
func TestMain(m *testing.M) {
	wallclock.Main()
	if len(os.Args) == 2 && os.Args[1] == "tell-the-time" {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			fmt.Println(time.Now().UnixMilli())
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestSet(t *testing.T) {
	if !wallclock.Supported {
		t.Skip("not on this processor")
	}
	clock, err := wallclock.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	through, err := clock.Through()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), through[0], append(through[1:], os.Args[0], "tell-the-time")...)
	cmd.Stderr = os.Stderr
	asks, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	tells, told := io.Pipe()
	cmd.Stdout = told
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewScanner(tells)
	for _, ahead := range []time.Duration{0, time.Hour, -48 * time.Hour, 0, 10 * 365 * 24 * time.Hour} {
		if err := clock.Set(ahead); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		if _, err := fmt.Fprintln(asks); err != nil {
			t.Fatal(err)
		}
		if !answers.Scan() {
			t.Fatal("no answer: ", answers.Err())
		}
		after := time.Now()
		ms, err := strconv.ParseInt(answers.Text(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := time.UnixMilli(ms); got.Before(before.Add(ahead).Truncate(time.Millisecond)) || got.After(after.Add(ahead)) {
			t.Errorf("%s ahead, it is %s; here it is %s", ahead, got, after)
		}
	}
	_ = asks.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}
