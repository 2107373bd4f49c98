// Package finish makes a root filesystem fit to be a template: mount points,
// placeholders for the files that each VM gets its own of, the user `user`,
// sudo without a password, and an environment that login shells keep. It only
// edits files; nothing of the image is run on the host.
package finish

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
)

// UserName is the account that commands run as by default.
const UserName = "user"

// DefaultPath is the search path where an image gives none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const maxFile = 4 << 20 // of account files and the like

// Options steer the finishing.
type Options struct {
	Env       map[string]string // the image's; a login shell keeps its PATH
	KeepOwner bool              // off for unprivileged processes
	Note      func(string)
}

type finisher struct {
	*tree.Tree
	Options
}

// Apply finishes the tree. Running it again changes nothing.
// Returns InvalidArgument when the image is in its way.
func Apply(t *tree.Tree, o Options) error {
	f := finisher{t, o}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"mount points", f.mountPoints},
		{"placeholders", f.placeholders},
		{"accounts", f.accounts},
		{"sudo", f.sudo},
		{"login profile", f.profile},
		{"python", f.python},
	} {
		if err := step.do(); err != nil {
			switch {
			case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
				return errors.Wrap(err, errors.NoSpace, "the disk is full")
			case errors.CodeOf(err) != errors.Internal:
				return err
			}
			return errors.Wrap(err, errors.InvalidArgument, "the root filesystem's %s cannot be set up", step.what)
		}
	}
	return nil
}

func (f finisher) attr(mode uint32, uid, gid int) tree.Attr {
	if !f.KeepOwner {
		uid, gid = -1, -1
	}
	return tree.Attr{Mode: mode, UID: uid, GID: gid}
}

// mountPoints: those that every VM mounts over must be real directories, since
// a link would send the mount elsewhere. Device nodes and what was in /proc
// and /sys belong to the machine that the image was made on.
func (f finisher) mountPoints() error {
	d, err := f.Dir("")
	if err != nil {
		return err
	}
	if err := d.SetAttr(".", f.attr(0o755, 0, 0)); err != nil {
		return err
	}
	for _, m := range []struct {
		name  string
		mode  uint32
		empty bool
	}{
		{"proc", 0o555, true}, {"sys", 0o555, true}, {"dev", 0o755, true}, {".aetherium", 0o755, true},
		{"run", 0o755, false}, {"tmp", 0o1777, false},
	} {
		if err := f.EnsureDir(m.name, f.attr(m.mode, 0, 0)); err != nil {
			return err
		}
		if m.empty {
			if err := f.Empty(m.name); err != nil {
				return err
			}
		}
	}
	// Nothing is mounted over these, so they may be links within the image.
	for name, mode := range map[string]uint32{"etc": 0o755, "home": 0o755, "root": 0o700, "var/tmp": 0o1777} {
		if err := f.MkdirAll(name, mode); err != nil {
			return err
		}
	}
	return nil
}

// placeholders are regular files, so that each VM's own can be bound on them,
// and hold something harmless until then.
func (f finisher) placeholders() error {
	for name, content := range map[string]string{
		"etc/resolv.conf": "",
		"etc/hostname":    "localhost\n",
		"etc/hosts":       "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
	} {
		if err := f.WriteFile(name, []byte(content), f.attr(0o644, 0, 0)); err != nil {
			return err
		}
	}
	return nil
}

// executable tells whether a program is there, links followed in the tree.
func (f finisher) executable(name string) bool {
	st, err := f.Stat(name)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0
}

func (f finisher) exists(name string) bool {
	_, err := f.Stat(name)
	return err == nil
}

func (f finisher) sudo() error {
	if !f.exists("etc/sudoers") {
		return nil
	}
	rule := "# Root in a VM is an unprivileged user of its host.\n" + UserName + " ALL=(ALL:ALL) NOPASSWD: ALL\n"
	if err := f.EnsureDir("etc/sudoers.d", f.attr(0o755, 0, 0)); err != nil {
		return err
	}
	if err := f.WriteFile("etc/sudoers.d/aetherium", []byte(rule), f.attr(0o440, 0, 0)); err != nil {
		return err
	}
	main, err := f.ReadFile("etc/sudoers", maxFile)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(main)) {
		l := strings.Fields(line)
		if len(l) == 2 && (l[0] == "@includedir" || l[0] == "#includedir") && path.Clean(l[1]) == "/etc/sudoers.d" {
			return nil
		}
	}
	return f.WriteFile("etc/sudoers", append(ensureNewline(main), "@includedir /etc/sudoers.d\n"...), f.attr(0o440, 0, 0))
}

// profile keeps for login shells (`bash -l`) what the environment has:
// distributions' /etc/profile sets PATH anew and leaves the locale unset.
func (f finisher) profile() error {
	search := f.Env["PATH"]
	if search == "" {
		search = DefaultPath
	}
	var dirs []string
	for dir := range strings.SplitSeq(search, ":") {
		if strings.HasPrefix(dir, "/") {
			dirs = append(dirs, dir)
		}
	}
	text := fmt.Sprintf(profileText, quote(strings.Join(dirs, ":")))
	if err := f.WriteFile("etc/profile.d/aetherium.sh", []byte(text), f.attr(0o644, 0, 0)); err != nil {
		return err
	}
	if f.exists("etc/profile") {
		return nil
	}
	const profile = "for i in /etc/profile.d/*.sh; do\n  [ -r \"$i\" ] && . \"$i\"\ndone\nunset i\n"
	return f.WriteFile("etc/profile", []byte(profile), f.attr(0o644, 0, 0))
}

// profileText puts the template's search path first, in its order, and keeps
// what else the shell has.
const profileText = `# The template's environment, which /etc/profile does not keep.
aetherium_path=$PATH
PATH=%s
aetherium_ifs=$IFS
IFS=:
for aetherium_dir in $aetherium_path; do
  case ":$PATH:" in *":$aetherium_dir:"*) ;; *) PATH=$PATH:$aetherium_dir ;; esac
done
IFS=$aetherium_ifs
unset aetherium_path aetherium_dir aetherium_ifs
export PATH
export LANG="${LANG:-C.UTF-8}"
`

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// python makes `python` mean Python 3 where nothing else does.
func (f finisher) python() error {
	if !f.executable("usr/bin/python3") {
		return nil
	}
	for _, dir := range []string{"usr/local/bin", "usr/bin", "bin"} {
		if _, err := f.Lstat(dir + "/python"); !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	uid := 0
	if !f.KeepOwner {
		uid = -1
	}
	return f.ReplaceSymlink("python3", "usr/bin/python", uid, uid)
}

func ensureNewline(b []byte) []byte {
	if len(b) > 0 && b[len(b)-1] != '\n' {
		return append(b, '\n')
	}
	return b
}
