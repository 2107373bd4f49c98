package finish

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
)

// The account files' forms are passwd(5), group(5), shadow(5), gshadow(5).

const (
	firstID = 1000
	lastID  = 60000
	home    = "/home/" + UserName
)

type lines []string

func (f finisher) read(name string) (lines, error) {
	b, err := f.ReadFile(name, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out lines
	for l := range strings.Lines(string(b)) {
		if l = strings.TrimRight(l, "\r\n"); l != "" {
			out = append(out, l)
		}
	}
	return out, nil
}

func (l lines) bytes() []byte { return []byte(strings.Join(l, "\n") + "\n") }

// find gives the fields of the entry with the name.
func (l lines) find(name string) []string {
	for _, line := range l {
		if strings.HasPrefix(line, name+":") {
			return strings.Split(line, ":")
		}
	}
	return nil
}

// ids are those that the third fields name.
func (l lines) ids() map[int]bool {
	out := map[int]bool{}
	for _, line := range l {
		if p := strings.Split(line, ":"); len(p) > 2 {
			if id, err := strconv.Atoi(p[2]); err == nil {
				out[id] = true
			}
		}
	}
	return out
}

// accounts makes sure of root and of the user, by hand rather than by useradd:
// the image's programs are not run on the host.
func (f finisher) accounts() error {
	passwd, err := f.read("etc/passwd")
	if err != nil {
		return err
	}
	group, err := f.read("etc/group")
	if err != nil {
		return err
	}
	if passwd.find("root") == nil {
		passwd = append(lines{"root:x:0:0:root:/root:" + f.shell()}, passwd...)
	}
	if group.find("root") == nil {
		group = append(lines{"root:x:0:"}, group...)
	}
	var uid, gid int
	dir := home
	if have := passwd.find(UserName); have != nil {
		if len(have) < 7 {
			return errors.New(errors.InvalidArgument, "the image's /etc/passwd has a malformed entry for %q", UserName)
		}
		uid, _ = strconv.Atoi(have[2])
		gid, _ = strconv.Atoi(have[3])
		if uid <= 0 || gid < 0 {
			return errors.New(errors.InvalidArgument, "the image's user %q is not an ordinary user", UserName)
		}
		if have[5] != "" && have[5] != "/" {
			dir = have[5]
		}
	} else {
		uids, gids := passwd.ids(), group.ids()
		for uid = firstID; uids[uid] || gids[uid]; uid++ {
			if uid == lastID {
				return errors.New(errors.InvalidArgument, "the image has no user ID left for %q", UserName)
			}
		}
		gid = uid
		if old := group.find(UserName); len(old) > 2 {
			if gid, err = strconv.Atoi(old[2]); err != nil {
				return errors.New(errors.InvalidArgument, "the image's /etc/group has a malformed entry for %q", UserName)
			}
		} else {
			group = append(group, fmt.Sprintf("%s:x:%d:", UserName, gid))
		}
		if uid != firstID {
			f.Note(fmt.Sprintf("user ID %d is taken in this image: %s has %d", firstID, UserName, uid))
		}
		passwd = append(passwd, fmt.Sprintf("%s:x:%d:%d::%s:%s", UserName, uid, gid, home, f.shell()))
	}
	if err := f.WriteFile("etc/passwd", passwd.bytes(), f.attr(0o644, 0, 0)); err != nil {
		return err
	}
	if err := f.WriteFile("etc/group", group.bytes(), f.attr(0o644, 0, 0)); err != nil {
		return err
	}
	if err := f.shadows(group); err != nil {
		return err
	}
	return f.home(dir, uid, gid)
}

// shadows adds locked entries; without them PAM's account check, and so sudo, fails.
func (f finisher) shadows(group lines) error {
	shadowGID := 0
	if g := group.find("shadow"); len(g) > 2 {
		shadowGID, _ = strconv.Atoi(g[2])
	}
	for _, s := range []struct{ name, entry string }{
		{"etc/shadow", UserName + ":!:19000:0:99999:7:::"},
		{"etc/gshadow", UserName + ":!::"},
	} {
		have, err := f.read(s.name)
		if err != nil {
			return err
		}
		if have == nil || have.find(UserName) != nil {
			continue
		}
		if err := f.WriteFile(s.name, append(have, s.entry).bytes(), f.attr(0o640, 0, shadowGID)); err != nil {
			return err
		}
	}
	return nil
}

func (f finisher) shell() string {
	for _, s := range []string{"bin/bash", "usr/bin/bash", "usr/local/bin/bash"} {
		if f.executable(s) {
			return "/" + s
		}
	}
	return "/bin/sh"
}

// home makes the user's home with what /etc/skel holds.
func (f finisher) home(dir string, uid, gid int) error {
	name, err := tree.Clean(dir)
	if err != nil {
		return err
	}
	if name == "" {
		return nil // the root is no home of its own
	}
	if _, err := f.Stat(name); errors.Is(err, fs.ErrNotExist) {
		if err := f.MkdirAll(name, 0o755); err != nil {
			return err
		}
		if err := f.EnsureDir(name, f.attr(0o755, uid, gid)); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	for _, file := range []string{".bashrc", ".profile", ".bash_logout"} {
		content, err := f.ReadFile("etc/skel/"+file, maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if _, err := f.Lstat(name + "/" + file); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := f.WriteFile(name+"/"+file, content, f.attr(0o644, uid, gid)); err != nil {
			return err
		}
	}
	return nil
}
