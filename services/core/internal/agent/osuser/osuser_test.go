package osuser_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	etc := t.TempDir()
	write(t, etc+"/passwd", "# comment\nroot:x:0:0:root:/root:/bin/bash\nbroken\nuser:x:1000:1000:,,,:/home/user:/bin/bash\nuser:x:1:1::/second:/x\nhomeless:x:7:8:::\n")
	write(t, etc+"/group", "root:x:0:\nuser:x:1000:\nsudo:x:27:user,root\nusers:x:100: user \n")
	db := osuser.NewDB(etc)
	for name, want := range map[string]osuser.User{
		"root":      {Name: "root", UID: 0, GID: 0, Home: "/root", Groups: []uint32{0, 27}},
		"user":      {Name: "user", UID: 1000, GID: 1000, Home: "/home/user", Groups: []uint32{1000, 27, 100}},
		"1000":      {Name: "user", UID: 1000, GID: 1000, Home: "/home/user", Groups: []uint32{1000, 27, 100}},
		"1000:5":    {Name: "user", UID: 1000, GID: 5, Home: "/home/user", Groups: []uint32{5}},
		"homeless":  {Name: "homeless", UID: 7, GID: 8, Home: "/", Groups: []uint32{8}},
		"4242":      {Name: "4242", UID: 4242, GID: 4242, Home: "/", Groups: []uint32{4242}},
		"4242:4243": {Name: "4242", UID: 4242, GID: 4243, Home: "/", Groups: []uint32{4243}},
	} {
		got, err := db.Lookup(name)
		if err != nil || got.Name != want.Name || got.UID != want.UID || got.GID != want.GID || got.Home != want.Home || !slices.Equal(got.Groups, want.Groups) {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
	for _, name := range []string{"", "nobody", "a/b", "x\x00", "4294967295", "-1", "1:x", strings.Repeat("u", 300)} {
		if u, err := db.Lookup(name); !errors.HasCode(err, errors.Unauthenticated) {
			t.Errorf("%q: %v %v", name, u, err)
		}
	}
	if db.UserName(1000) != "user" || db.GroupName(27) != "sudo" || db.UserName(9) != "9" || db.GroupName(9) != "9" {
		t.Error("names of IDs")
	}
	// A changed file is read again.
	write(t, etc+"/passwd.new", "new:x:5:5::/new:/bin/sh\n")
	if err := os.Rename(etc+"/passwd.new", etc+"/passwd"); err != nil {
		t.Fatal(err)
	}
	if u, err := db.Lookup("new"); err != nil || u.UID != 5 {
		t.Errorf("after a change: %v %v", u, err)
	}
	if _, err := db.Lookup("user"); err == nil {
		t.Error("a removed user is still known")
	}
	if u, err := osuser.NewDB(t.TempDir()).Lookup("0"); err != nil || u.UID != 0 {
		t.Errorf("without files: %v %v", u, err)
	}
}

// Many users at once, on threads that root's own work shares.
func TestDoKeepsIdentitiesApart(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("acting as other users needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "osuser")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 16 {
		u := &osuser.User{Name: "u", UID: uint32(5000 + i), GID: uint32(6000 + i), Groups: []uint32{uint32(6000 + i), 7000}}
		all.Go(func() {
			for range 50 {
				name := filepath.Join(dir, u.Name+string(rune('a'+i)))
				err := osuser.Do(u, func() error {
					if _, err := os.ReadFile(secret); !errors.Is(err, os.ErrPermission) {
						t.Errorf("%d reads root's file: %v", u.UID, err)
					}
					return os.WriteFile(name, nil, 0o644)
				})
				var st unix.Stat_t
				if err != nil || unix.Stat(name, &st) != nil || st.Uid != u.UID || st.Gid != u.GID {
					t.Errorf("made %d:%d as %d (%v)", st.Uid, st.Gid, u.UID, err)
				}
				if _, err := os.ReadFile(secret); err != nil {
					t.Errorf("root is no longer root: %v", err)
				}
				_ = os.Remove(name)
			}
		})
	}
	all.Wait()
}

// outside is set in the copy of this test that runs in a user namespace.
const outside = "AETHERIUM_TEST_OUTSIDE"

// A user's number can lie outside of what the machine's user namespace maps:
// that is the caller's mistake and not the agent's.
func TestDoRefusesNumbersOutsideOfTheMap(t *testing.T) {
	t.Parallel()
	if os.Getenv(outside) != "" {
		err := osuser.Do(&osuser.User{Name: "70000", UID: 70000, GID: 70000, Groups: []uint32{70000}}, func() error { return nil })
		var e *errors.Error
		if !errors.As(err, &e) || e.Code != errors.InvalidArgument || e.Field != "user" {
			t.Errorf("70000 of 0 to 65535: %v", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("mapping a range of users needs root")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestDoRefusesNumbersOutsideOfTheMap$")
	cmd.Env = append(os.Environ(), outside+"=1")
	ids := []syscall.SysProcIDMap{{HostID: 100000, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
