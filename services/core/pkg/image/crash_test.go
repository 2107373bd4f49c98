package image_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image"
)

// crashDir names the store that this test binary, run again, builds in.
const crashDir = "AETHERIUM_TEST_CRASH_DIR"

// crashMirror makes it a build of Debian packages from that mirror.
const crashMirror = "AETHERIUM_TEST_CRASH_MIRROR"

// TestCrashChild is the process that the tests below kill.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("is run by TestKilledBuild")
	}
	s, err := image.Open(image.Config{Dir: dir, DebianMirror: os.Getenv(crashMirror), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(crashMirror) != "" {
		_, err = s.Build(t.Context(), "killed", domain.TemplateSource{Packages: []string{"git"}}, nil)
		t.Fatal("the build ended:", err)
	}
	_, err = s.BuildTar(t.Context(), "killed", os.Stdin, nil)
	t.Fatal("the build ended:", err)
}

func TestKilledBuild(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "images")
	child := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	child.Env = append(os.Environ(), crashDir+"="+dir)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	// More than a pipe holds: when the write returns, the child is unpacking.
	raw := rootTar(t)
	big := append(raw[:len(raw)-1024:len(raw)-1024], rootTarEndless(t, 4<<20)...)
	if _, err := io.Copy(in, bytes.NewReader(big)); err != nil {
		t.Fatal(err)
	}
	if names := entries(t, dir); len(names) != 1 || !strings.HasPrefix(names[0], ".tmp-killed-") {
		t.Errorf("the store has %v", names)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	if ws, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended on its own: %v", child.ProcessState)
	}
	s, err := image.Open(image.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("half a build is listed: %v, %v", list, err)
	}
	if _, err := s.BuildTar(t.Context(), "killed", bytes.NewReader(rootTar(t)), nil); err != nil {
		t.Errorf("the build cannot be made again: %v", err)
	}
	if err := s.Close(); err != nil { // sweeping may be cut short; the next one completes it
		t.Error(err)
	}
	s = open(t, image.Config{Dir: dir})
	if _, err := s.Get(t.Context(), "killed"); err != nil {
		t.Error(err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if names := entries(t, dir); !slices.Equal(names, []string{"killed"}) {
		t.Errorf("left behind: %v", names)
	}
}

// hangingMirror accepts requests and never answers; the channel tells of the first.
func hangingMirror(t *testing.T) (string, <-chan struct{}) {
	t.Helper()
	asked := make(chan struct{})
	var once sync.Once
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(asked) })
		<-r.Context().Done()
	}))
	t.Cleanup(srv.Close)
	return srv.URL, asked
}

// When the worker is killed, nothing goes on writing into what is swept.
func TestKilledPackages(t *testing.T) {
	t.Parallel()
	needRoot(t)
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("needs mmdebstrap")
	}
	mirror, asked := hangingMirror(t)
	dir := filepath.Join(t.TempDir(), "images")
	child := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	child.Env = append(os.Environ(), crashDir+"="+dir, crashMirror+"="+mirror, "no_proxy=127.0.0.1")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked // mmdebstrap's apt is at work
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", child.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var helpers []int // descriptors of the first processes of their PID namespaces
	for _, l := range lists {
		b, _ := os.ReadFile(l)
		for f := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			helpers = append(helpers, fd)
		}
	}
	if len(helpers) != 1 {
		t.Errorf("the build runs %d helpers", len(helpers))
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	// A namespace's first process is gone only after all others in it.
	for _, fd := range helpers {
		for {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != unix.EINTR {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
		}
	}
	s := open(t, image.Config{Dir: dir})
	if err := s.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestCanceledPackages(t *testing.T) {
	t.Parallel()
	needRoot(t)
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("needs mmdebstrap")
	}
	mirror, asked := hangingMirror(t)
	dir := filepath.Join(t.TempDir(), "images")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-asked
		cancel()
	}()
	s := open(t, image.Config{Dir: dir, DebianMirror: mirror})
	if _, err := s.Build(ctx, "x", domain.TemplateSource{Packages: []string{"git"}}, nil); !errors.HasCode(err, errors.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

// rootTarEndless is a tar entry of n bytes whose archive never ends.
func rootTarEndless(t *testing.T, n int) []byte {
	t.Helper()
	whole := rootTar(t)
	header := bytes.Clone(whole[:512])
	copy(header, "big\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	copy(header[124:136], []byte("77777777777\x00")) // 8 GiB
	copy(header[148:156], "        ")
	sum := 0
	for _, c := range header {
		sum += int(c)
	}
	copy(header[148:156], []byte(octal(sum)))
	return append(header, make([]byte, n)...)
}

func octal(n int) string {
	const digits = "01234567"
	out := []byte("000000\x00 ")
	for i := 5; i >= 0; i-- {
		out[i] = digits[n%8]
		n /= 8
	}
	return string(out)
}
