package microvm_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// watched is an engine that remembers the drives of the guests that it boots.
type watched struct {
	microvm.Engine
	drives map[string][]microvm.Drive
}

func (e *watched) Boot(ctx context.Context, g microvm.Guest) (int, error) {
	e.drives[g.ID] = g.Drives
	return e.Engine.Boot(ctx, g)
}

// mountLab is a lab with files to be mounted; boot boots a machine with some of
// them and gives the images that it has for them.
type mountLab struct {
	*lab
	watched *watched
}

func newMountLab(t *testing.T) *mountLab {
	t.Helper()
	e := &watched{drives: map[string][]microvm.Drive{}}
	return &mountLab{newLab(t, func(c *microvm.Config) { e.Engine, c.Engine = c.Engine, e }), e}
}

// publish has a version of a tool in its place at once, as the cache of tools does.
func (l *mountLab) publish(version, content string) {
	l.t.Helper()
	staged, final := l.dir+"/staged", l.dir+"/tools/node/"+version
	must(l.t, os.MkdirAll(staged+"/bin", 0o755))
	must(l.t, os.WriteFile(staged+"/bin/node", []byte(content), 0o755))
	must(l.t, os.MkdirAll(filepath.Dir(final), 0o755))
	must(l.t, os.RemoveAll(final))
	must(l.t, os.Rename(staged, final))
}

// profile replaces a file by one with the content.
func (l *mountLab) profile(content string) {
	l.t.Helper()
	must(l.t, os.WriteFile(l.dir+"/profile.new", []byte(content), 0o644))
	must(l.t, os.Rename(l.dir+"/profile.new", l.dir+"/profile.sh"))
}

func (l *mountLab) with(id string, versions ...string) (images []string) {
	l.t.Helper()
	s := spec(id)
	var roles []string
	for _, v := range versions {
		s.Mounts = append(s.Mounts, vmm.HostMount{Source: l.dir + "/tools/node/" + v, Target: "/opt/node/" + v, ReadOnly: true})
		roles = append(roles, bootline.RoleMount+"/opt/node/"+v)
	}
	s.Mounts = append(s.Mounts, vmm.HostMount{Source: l.dir + "/profile.sh", Target: "/etc/profile.d/tools.sh", ReadOnly: true})
	roles = append(roles, bootline.RoleFile+"/etc/profile.d/tools.sh")
	l.boot(s)
	drives := l.watched.drives[id][2:]
	if len(drives) != len(roles) {
		l.t.Fatalf("%s has the drives %+v, not %q", id, drives, roles)
	}
	for i, d := range drives {
		if d.Role != roles[i] || !d.ReadOnly {
			l.t.Errorf("%s has the drive %+v, not %s", id, d, roles[i])
		}
		images = append(images, d.Path)
	}
	return images
}

// has looks for a file in an image.
func (l *mountLab) has(image, name, content string, mode os.FileMode) {
	l.t.Helper()
	dir := l.t.TempDir()
	if out, err := exec.Command("fsck.erofs", "--extract="+dir, "--overwrite", image).CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, name))
	must(l.t, err)
	info, err := os.Stat(filepath.Join(dir, name))
	must(l.t, err)
	if string(got) != content || info.Mode() != mode {
		l.t.Errorf("%s in %s is %q, %v", name, image, got, info.Mode())
	}
}

// A machine has what is mounted as it is when the machine is made: each version of
// a tool by itself, whatever there was of that name before, and files, too. What is
// the same is one image for all.
func TestMountsAreFresh(t *testing.T) {
	t.Parallel()
	l := newMountLab(t)
	l.publish("1", "first")
	l.profile("one")
	one := l.with("one", "1")
	l.has(one[0], "bin/node", "first", 0o755)
	l.has(one[1], bootline.FileName, "one", 0o644)

	l.publish("2", "second")
	l.profile("one") // written anew by the worker's next life
	two := l.with("two", "2", "1")
	l.has(two[0], "bin/node", "second", 0o755)
	if two[1] != one[0] || two[2] != one[1] {
		t.Errorf("what has not changed has another image: %q, %q", one, two)
	}

	l.publish("1", "again")
	l.profile("two")
	three := l.with("three", "1")
	l.has(three[0], "bin/node", "again", 0o755)
	l.has(three[1], bootline.FileName, "two", 0o644)
	l.has(one[0], "bin/node", "first", 0o755)

	// A machine keeps what it has, also where that is no longer on the host.
	must(t, l.Delete(t.Context(), "two"))
	must(t, l.Stop(t.Context(), "one", time.Minute))
	must(t, os.RemoveAll(l.dir+"/tools"))
	long := time.Now().Add(-365 * 24 * time.Hour)
	for _, path := range append(append(one, two...), three...) {
		must(t, os.Chtimes(path, long, long))
	}
	left := filepath.Dir(one[0]) + "/.file-of-a-crash"
	must(t, os.MkdirAll(left+"/x", 0o755))
	l.reopen()
	must(t, l.Start(t.Context(), "one"))
	for path, want := range map[string]bool{one[0]: true, one[1]: true, two[0]: false, three[0]: true, left: false} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v", path, err)
		}
	}
}

// What cannot be mounted is said before anything is made.
func TestWhatCannotBeMounted(t *testing.T) {
	t.Parallel()
	l := newMountLab(t)
	s := spec("one")
	s.RootFS = l.dir + "/rootfs"
	most := l.watched.MaxDrives() - 2
	for range most + 1 {
		s.Mounts = append(s.Mounts, vmm.HostMount{Source: l.dir + "/rootfs", Target: "/x", ReadOnly: true})
	}
	_, err := l.Create(t.Context(), s)
	code(t, err, errors.InvalidArgument)
	if err != nil && !strings.Contains(err.Error(), "at most 4") {
		t.Errorf("too many: %v", err)
	}
	for name, c := range map[string]struct {
		source string
		want   errors.Code
	}{
		"a device":       {"/dev/null", errors.InvalidArgument},
		"a large file":   {l.dir + "/large", errors.InvalidArgument},
		"what is absent": {l.dir + "/absent", errors.NotFound},
	} {
		must(t, os.WriteFile(l.dir+"/large", make([]byte, 1<<20+1), 0o644))
		s.MachineID, s.Mounts = strings.ReplaceAll(name, " ", "-"), []vmm.HostMount{{Source: c.source, Target: "/x", ReadOnly: true}}
		_, err := l.Create(t.Context(), s)
		code(t, err, c.want)
	}
}
