package firecracker

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/firecracker/internal/api"
	insidens "github.com/aetherium/aetherium/services/core/pkg/vmm/internal/inside"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
	"golang.org/x/sys/unix"
)

func TestRelease(t *testing.T) {
	t.Parallel()
	r, err := parseRelease("Firecracker v1.12.1\n\n2025-01-01T00:00:00 [anonymous] Firecracker exiting successfully. exit_code=0\n")
	if err != nil || r != (release{1, 12, 1}) || !r.atLeast(1, 12) || r.atLeast(1, 14) || r.atLeast(2, 0) || !r.atLeast(0, 99) {
		t.Errorf("%v, %v", r, err)
	}
	for text, fits := range map[string]bool{"1.11.9": false, "1.12.0": true, "1.15.1": true, "1.16.0": false, "1.16.1": false, "1.16.2": true, "1.17.0": true} {
		r, err := parseRelease("Firecracker v" + text)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.check(); (err == nil) != fits || err != nil && !errors.HasCode(err, errors.Unsupported) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := parseRelease("Jailer\nv1.2.3"); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("no version: %v", err)
	}
}

// A release that was installed over another is seen by the same engine.
func TestUpgrade(t *testing.T) { // not beside others, whose children would have the scripts open as they are run
	if err := checkKVM(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	installed := time.Now().Add(-time.Hour)
	install := func(name, version string) {
		t.Helper()
		script := "#!/bin/sh\necho 'Firecracker v" + version + "'\n"
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		installed = installed.Add(time.Second) // file times may be coarse
		if err := os.Chtimes(path, installed, installed); err != nil {
			t.Fatal(err)
		}
	}
	e, err := New(Config{Binary: filepath.Join(dir, "link-to-firecracker"), Jailer: filepath.Join(dir, "jailer")})
	if err != nil {
		t.Fatal(err)
	}
	link := func(to string) {
		t.Helper()
		_ = os.Remove(e.cfg.Binary)
		if err := os.Symlink(to, e.cfg.Binary); err != nil {
			t.Fatal(err)
		}
	}
	is := func(version string) {
		t.Helper()
		for range 2 {
			if got, err := e.Version(t.Context()); err != nil || !strings.HasPrefix(got, version+" kvm ") {
				t.Errorf("%q, %v, want %s", got, err, version)
			}
		}
	}
	install("firecracker", "1.12.1")
	install("jailer", "1.12.1")
	link("firecracker")
	is("1.12.1")
	install("firecracker", "1.15.1") // of the same length, in the same file
	if _, err := e.Version(t.Context()); !errors.HasCode(err, errors.Unsupported) {
		t.Errorf("half an upgrade: %v", err)
	}
	install("jailer", "1.15.1")
	is("1.15.1")
	install("firecracker-v1.14.2", "1.14.2")
	install("jailer", "1.14.2")
	link("firecracker-v1.14.2")
	is("1.14.2")
}

// What a monitor of another release would write is not what would be said of it: it
// is refused before anything is done to the guest.
func TestSaveByAnotherRelease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"firecracker", "jailer"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	e, err := New(Config{Binary: filepath.Join(dir, "firecracker"), Jailer: filepath.Join(dir, "jailer")})
	if err != nil {
		t.Fatal(err)
	}
	e.found = &host{version: release{1, 15, 1}}
	for at, name := range map[*program]string{&e.found.binary: e.cfg.Binary, &e.found.jailer: e.cfg.Jailer} {
		if *at, err = findProgram(name); err != nil {
			t.Fatal(err)
		}
	}
	for running, code := range map[string]errors.Code{"1.12.1": errors.Conflict, "": errors.Unsupported, "1.15.1": errors.Internal} {
		g := microvm.Guest{Dir: t.TempDir(), UID: uint32(os.Getuid())}
		if err := os.Mkdir(runDir(g), 0o700); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", filepath.Join(runDir(g), apiSocket))
		if err != nil {
			t.Fatal(err)
		}
		var asked []string
		monitor := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.Method+" "+r.URL.Path)
			_, _ = io.WriteString(w, `{"state":"Running","vmm_version":"`+running+`"}`)
		})}
		go func() { _ = monitor.Serve(l) }()
		to := microvm.Memory{Dir: filepath.Join(t.TempDir(), "absent")} // where a saving that is begun fails
		_, err = e.Save(t.Context(), g, to, true, func(context.Context) error { return nil })
		if errors.CodeOf(err) != code {
			t.Errorf("a monitor of version %q: %v", running, err)
		}
		if code == errors.Conflict && (!strings.Contains(err.Error(), running) || errors.Public(err).Hint == "") {
			t.Errorf("%v", err)
		}
		_ = monitor.Close()
		if len(asked) != 1 || asked[0] != "GET /" {
			t.Errorf("the monitor was asked %q", asked)
		}
	}
}

// Only releases that have the balloon's page reporting are asked for it: an older
// one refuses a field that it does not know.
func TestBalloon(t *testing.T) {
	t.Parallel()
	for r, want := range map[release]string{
		{1, 12, 1}: "", {1, 13, 1}: "", {1, 14, 0}: `{"amount_mib":0,"deflate_on_oom":true,"free_page_reporting":true}`,
		{1, 16, 2}: `{"amount_mib":0,"deflate_on_oom":true,"free_page_reporting":true}`,
	} {
		path, got := filepath.Join(t.TempDir(), "s"), ""
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		monitor := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/balloon" {
				raw, _ := io.ReadAll(r.Body)
				got += string(raw)
			}
			w.WriteHeader(http.StatusNoContent)
		})}
		go func() { _ = monitor.Serve(l) }()
		c := api.New(func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) })
		e, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.configure(t.Context(), c, &host{version: r}, microvm.Guest{CPUs: 1, Memory: 128 << 20}); err != nil {
			t.Error(err)
		}
		c.Close()
		_ = monitor.Close()
		if got != want {
			t.Errorf("%s is told %q of a balloon", r, got)
		}
	}
}

// Where a release writes what changed wrongly, memories are written whole.
func TestTracks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg    Config
		r      release
		memory int64
		want   bool
	}{
		{Config{}, release{1, 12, 1}, 8 << 30, true}, {Config{}, release{1, 14, 1}, 3 << 30, true}, {Config{}, release{1, 14, 2}, 8 << 30, true},
		{Config{}, release{1, 14, 0}, 3<<30 + 1<<20, false}, {Config{}, release{1, 14, 1}, 8 << 30, false},
		{Config{FullSnapshots: true}, release{1, 12, 1}, 1 << 30, false},
	} {
		e, err := New(c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.tracks(&host{version: c.r}, microvm.Guest{Memory: c.memory}); got != c.want {
			t.Errorf("%s with %d bytes: %t", c.r, c.memory, got)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"backend": {Backend: "nbd"},
		"rate":    {Disk: Limit{OpsPerSecond: -1}},
	} {
		if _, err := New(cfg); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	e, err := New(Config{Binary: filepath.Join(t.TempDir(), "firecracker")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Version(t.Context()); !errors.HasCode(err, errors.Unsupported) || errors.Public(err).Hint == "" {
		t.Errorf("not installed: %v", err)
	}
	if l := limiter(Limit{}); l != nil {
		t.Errorf("no limit is one: %+v", l)
	}
	if l := limiter(Limit{BytesPerSecond: 5}); l.Ops != nil || l.Bandwidth.Size != 5 || l.Bandwidth.RefillMS != 1000 {
		t.Errorf("%+v", l)
	}
}

func TestBootArgs(t *testing.T) {
	t.Parallel()
	e, err := New(Config{KernelArgs: "mitigations=off"})
	if err != nil {
		t.Fatal(err)
	}
	args := e.bootArgs(microvm.Guest{Drives: []microvm.Drive{{Role: "root"}, {Role: "disk"}, {Role: "mount:/data"}}})
	line, err := bootline.Parse(args)
	if err != nil || line.Channel != bootline.ChannelVsock || len(line.Drives) != 3 || line.Drives[2] != (bootline.Drive{Device: "vdc", Role: "mount:/data"}) {
		t.Errorf("%+v, %v", line, err)
	}
	if !strings.HasSuffix(args, " mitigations=off") || !strings.Contains(args, "reboot=k") {
		t.Error(args)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := microvm.Guest{ID: "a-1", UID: 5, CPUs: 1, Memory: 1 << 27}
	if err := check(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*microvm.Guest){
		"no processor": func(g *microvm.Guest) { g.CPUs = 0 },
		"33":           func(g *microvm.Guest) { g.CPUs = 33 },
		"memory":       func(g *microvm.Guest) { g.Memory++ },
		"root":         func(g *microvm.Guest) { g.UID = 0 },
		"a path":       func(g *microvm.Guest) { g.ID = "../x" },
		"disks":        func(g *microvm.Guest) { g.Drives = make([]microvm.Drive, maxDrives+1) },
	} {
		g := good
		change(&g)
		if check(g) == nil {
			t.Error(name)
		}
	}
}

// What a monitor puts in place of its socket leads nowhere.
func TestConnectFollowsNoLink(t *testing.T) {
	t.Parallel()
	g := microvm.Guest{Dir: t.TempDir(), UID: uint32(os.Getuid())}
	if err := os.Mkdir(runDir(g), 0o700); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink(elsewhere, filepath.Join(runDir(g), vsockSocket)); err != nil {
		t.Fatal(err)
	}
	if conn, err := connect(t.Context(), g, vsockSocket); err == nil {
		conn.Close()
		t.Error("it goes where a link leads")
	}
	// The path may be longer than an address has room for.
	deep := microvm.Guest{Dir: filepath.Join(t.TempDir(), strings.Repeat("d", 120)), UID: g.UID}
	if err := os.MkdirAll(runDir(deep), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := listenUffd(deep)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn, err := connect(t.Context(), deep, uffdSocket)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	deep.UID++
	if _, err := connect(t.Context(), deep, uffdSocket); !errors.HasCode(err, errors.GuestFault) {
		t.Errorf("another user's: %v", err)
	}
}

// A page server ends with the thread that started it until it has given up its
// rights, and its monitor may come to speak before: that is waited for.
func TestSlowPageServer(t *testing.T) {
	t.Parallel()
	g := microvm.Guest{Dir: t.TempDir(), UID: 12345}
	if err := os.Mkdir(runDir(g), 0o700); err != nil {
		t.Fatal(err)
	}
	var api net.Listener
	err := insidens.OwnThread(func() (err error) {
		l, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(runDir(g), apiSocket+"0"))
		if err != nil {
			return err
		}
		api = l
		// The connections are to one who listens as the guest's user. This thread ends.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(g.UID), uintptr(g.UID), uintptr(g.UID)); errno != 0 {
			return errno
		}
		raw, err := l.(*net.UnixListener).SyscallConn()
		if err != nil {
			return err
		}
		var listenErr error
		if err := raw.Control(func(fd uintptr) { listenErr = unix.Listen(int(fd), 8) }); err != nil {
			return err
		}
		return listenErr
	})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	if err := os.Rename(filepath.Join(runDir(g), apiSocket+"0"), filepath.Join(runDir(g), apiSocket)); err != nil {
		t.Fatal(err)
	}
	server := exec.Command("sh", "-c", "read go; exec setpriv --reuid=12345 --regid=12345 --clear-groups cat")
	in, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = server.Wait()
	}()
	ready := make(chan error, 1)
	go func() {
		m := &monitor{process: server.Process, ended: make(chan struct{})}
		_, err := m.wait(t.Context(), &launch{guest: g, newPIDs: true})
		ready <- err
	}()
	asked := make(chan struct{})
	go func() {
		for {
			conn, err := api.Accept()
			if err != nil {
				return
			}
			conn.Close()
			select {
			case asked <- struct{}{}:
			case <-t.Context().Done():
				return
			}
		}
	}()
	for range 3 {
		select {
		case <-asked:
		case err := <-ready:
			t.Fatalf("a page server that has all rights is taken for one that lives on: %v", err)
		}
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case <-asked:
		case err := <-ready:
			if err != nil {
				t.Error(err)
			}
			return
		}
	}
}

// A monitor that answers in another way than Firecracker's is not believed.
func TestGreeting(t *testing.T) {
	t.Parallel()
	for answer, code := range map[string]errors.Code{
		"OK 1073741824\nrest": "", "NO\n": errors.GuestFault, strings.Repeat("x", 1000): errors.GuestFault, "": errors.Internal,
	} {
		ours, theirs := net.Pipe()
		go func() {
			buf := make([]byte, 64)
			n, _ := theirs.Read(buf)
			if string(buf[:n]) == "CONNECT 49983\n" {
				_, _ = theirs.Write([]byte(answer))
			}
			_ = theirs.Close()
		}()
		if err := greet(ours, bootline.AgentPort); errors.CodeOf(err) != code {
			t.Errorf("%.20q: %v", answer, err)
		}
		if code == "" {
			buf := make([]byte, 8)
			if n, _ := ours.Read(buf); string(buf[:n]) != "rest" {
				t.Errorf("what follows is %q", buf[:n])
			}
		}
		_ = ours.Close()
	}
}

// What a guest says is kept as far as a pipe holds it, and nobody waits.
func TestConsole(t *testing.T) {
	t.Parallel()
	g := microvm.Guest{Dir: t.TempDir()}
	f, err := makeConsole(g)
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	e.keepConsole(g, f)
	if said := e.said(g); said != "" {
		t.Errorf("%q", said)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { // as the monitor does, which does not wait
		for err == nil {
			_, err = unix.Write(int(fd), []byte(strings.Repeat("x\x1b", 1000)))
		}
	})
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a full console: %v", err)
	}
	said, err := e.Console(context.Background(), g)
	if err != nil || len(said) == 0 || len(said) > 64<<10 || strings.Trim(string(said), "x") != "" {
		t.Errorf("%d bytes, %v", len(said), err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

func TestBase(t *testing.T) {
	t.Parallel()
	g := microvm.Guest{Dir: t.TempDir(), Memory: 1 << 20}
	if b, err := takeBase(g); b != nil || err != nil {
		t.Errorf("none: %v, %v", b, err)
	}
	m := microvm.Memory{Dir: t.TempDir()}
	for _, name := range []string{memoryFile, stateFile} {
		if err := os.WriteFile(filepath.Join(m.Dir, name), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := form{Version: formVersion, ID: "one", Memory: g.Memory}
	for _, step := range []error{f.keep(m), writeBase(g, base{m.Dir, "one"})} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if b, err := takeBase(g); b == nil || err != nil {
		t.Errorf("%v, %v", b, err)
	}
	// It is good for once: until the next one is whole, none is known.
	if b, err := takeBase(g); b != nil || err != nil {
		t.Errorf("again: %v, %v", b, err)
	}
	if err := writeBase(g, base{m.Dir, "another"}); err != nil {
		t.Fatal(err)
	}
	if b, err := takeBase(g); b != nil || err != nil {
		t.Errorf("another's: %v, %v", b, err)
	}
}

func TestCopySparse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	content := make([]byte, 8<<20)
	copy(content[1<<20:], "one")
	copy(content[7<<20:], "two")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{1 << 20, 7 << 20} {
		if _, err := f.WriteAt(content[at:at+3], at); err != nil {
			t.Fatal(err)
		}
	}
	_ = f.Close()
	if err := copySparse(from, to); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to)
	if err != nil || string(got) != string(content) {
		t.Error("the copy is another")
	}
	// A monitor may put something else there.
	for name, make := range map[string]func(string) error{
		"link": func(p string) error { return os.Symlink(from, p) },
		"dir":  func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		p := filepath.Join(dir, name)
		if err := make(p); err != nil {
			t.Fatal(err)
		}
		if copySparse(p, to) == nil || share(p, to) == nil {
			t.Errorf("a %s is copied", name)
		}
	}
}
