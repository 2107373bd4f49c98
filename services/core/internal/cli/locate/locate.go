// Package locate finds the server and the key to talk to it: what the user
// says, or what a server on this host has left in its data directory.
package locate

import (
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// FileName is what a server leaves in its data directory for clients.
const FileName = "client.json"

// SystemDir is the data directory of a server of the whole host.
const SystemDir = "/var/lib/aetherium"

const (
	maxFileBytes = 64 << 10
	maxKeyBytes  = 4 << 10
)

// Given is what the user says: flags, then environment.
type Given struct {
	URL     string
	Key     string
	KeyFile string
	// DataDir is $AETHERIUM_DATA_DIR; where it is set, no other is searched.
	DataDir string
	// SystemDir is searched before Home's; empty: none.
	SystemDir string
	Home      string
}

// Server is where to connect to.
type Server struct {
	URL  string
	Key  string
	From string // the file that said so; empty: the user did
}

// left is the content of client.json.
type left struct {
	URL     string `json:"url"`
	KeyFile string `json:"key_file"`
}

// place is a data directory. One in the working directory may have come with
// somebody's archive or repository: it is trusted with nothing but its own.
type place struct {
	dir       string
	untrusted bool
}

// Find finds the server. Returns NotFound where none has left a trace,
// PermissionDenied where there is one that this user may not use, and
// InvalidArgument for a bad key or file.
func Find(g Given) (Server, error) {
	key, err := g.key()
	if err != nil {
		return Server{}, err
	}
	if g.URL != "" && key != "" {
		return Server{URL: g.URL, Key: key}, nil
	}
	found, err := g.discover(key == "")
	switch {
	case g.URL == "" && err != nil:
		return Server{}, err
	case g.URL == "":
		if key != "" {
			found.Key = key
		}
		return found, nil
	case err == nil && sameOrigin(found.URL, g.URL):
		return Server{URL: g.URL, Key: found.Key}, nil
	}
	return Server{URL: g.URL}, nil // a key that is found belongs to its own server only
}

func (g Given) key() (string, error) {
	if g.Key != "" || g.KeyFile == "" {
		return strings.TrimSpace(g.Key), nil
	}
	f, err := os.Open(g.KeyFile)
	if err != nil {
		return "", unreadable("the key file "+g.KeyFile, err)
	}
	return readKey(f, g.KeyFile)
}

func (g Given) places() []place {
	if g.DataDir != "" {
		return []place{{dir: g.DataDir}}
	}
	p := []place{{dir: ".aetherium", untrusted: true}}
	if g.SystemDir != "" {
		p = append(p, place{dir: g.SystemDir})
	}
	if g.Home != "" {
		p = append(p, place{dir: filepath.Join(g.Home, ".local/share/aetherium")})
	}
	return p
}

func (g Given) discover(wantKey bool) (Server, error) {
	var denied error
	var searched []string
	for _, p := range g.places() {
		s, err := p.read(wantKey)
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, fs.ErrNotExist):
			searched = append(searched, p.dir)
		case errors.HasCode(err, errors.PermissionDenied):
			// Another place may hold a server of this user's own.
			if denied == nil {
				denied = err
			}
		default:
			return Server{}, err
		}
	}
	if denied != nil {
		return Server{}, denied
	}
	return Server{}, errors.New(errors.NotFound, "no server is known here: there is no %s in %s", FileName, strings.Join(searched, ", ")).
		WithHint("start one with: make up — or say where it is with --url and --key-file (AETHERIUM_URL, AETHERIUM_API_KEY)")
}

func (p place) read(wantKey bool) (Server, error) {
	root, err := os.OpenRoot(p.dir)
	if err != nil {
		return Server{}, unreadable(p.dir, err)
	}
	defer func() { _ = root.Close() }()
	name := filepath.Join(p.dir, FileName)
	f, err := root.Open(FileName)
	if err != nil {
		return Server{}, unreadable(name, err)
	}
	defer func() { _ = f.Close() }()
	if err := owned(f, name); err != nil {
		return Server{}, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	var l left
	if err == nil {
		err = json.Unmarshal(raw, &l)
	}
	if err != nil || l.URL == "" {
		return Server{}, errors.Wrap(err, errors.InvalidArgument, "%s is not what a server leaves there", name).WithHint("start the server again, or use --url")
	}
	s := Server{URL: l.URL, From: name}
	if p.untrusted && !OnThisHost(l.URL) {
		return s, errors.New(errors.PermissionDenied, "%s names a server that is not on this host", name).
			WithHint("if you trust it: --url %q --key-file %q", l.URL, l.KeyFile)
	}
	if wantKey && l.KeyFile != "" {
		s.Key, err = p.key(root, l.KeyFile)
	}
	return s, err
}

// key reads the key file. It must lie in the data directory, so that nothing
// written there can have another of the user's files sent somewhere.
func (p place) key(root *os.Root, file string) (string, error) {
	if filepath.IsAbs(file) {
		abs, err := filepath.Abs(p.dir)
		if err != nil {
			return "", err
		}
		if real, err := filepath.EvalSymlinks(abs); err == nil {
			if dir, err := filepath.EvalSymlinks(filepath.Dir(file)); err == nil {
				abs, file = real, filepath.Join(dir, filepath.Base(file))
			}
		}
		if file, err = filepath.Rel(abs, file); err != nil || !filepath.IsLocal(file) {
			return "", errors.New(errors.PermissionDenied, "%s names a key file outside of its directory", filepath.Join(p.dir, FileName)).
				WithHint("if you trust it, name the file with --key-file")
		}
	}
	name := filepath.Join(p.dir, file)
	f, err := root.Open(file)
	if err != nil {
		return "", unreadable("the key file "+name, err)
	}
	return readKey(f, name)
}

func readKey(f *os.File, name string) (string, error) {
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyBytes+1))
	if err != nil {
		return "", unreadable("the key file "+name, err)
	}
	key := strings.TrimSpace(string(raw))
	if key == "" || len(raw) > maxKeyBytes || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New(errors.InvalidArgument, "%s holds no API key", name) // its content stays unsaid
	}
	return key, nil
}

// owned makes sure that nobody else can have written the file.
func owned(f *os.File, name string) error {
	info, err := f.Stat()
	if err != nil {
		return unreadable(name, err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid()) && info.Mode().Perm()&0o022 == 0 {
		return nil
	}
	return errors.New(errors.PermissionDenied, "%s could have been written by somebody else", name).
		WithHint("it must belong to you or root and be writable by the owner only; or use --url and --key-file")
}

func unreadable(what string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.Wrap(err, errors.NotFound, "%s does not exist", what)
	case errors.Is(err, fs.ErrPermission):
		return errors.Wrap(err, errors.PermissionDenied, "%s may not be read by this user", what).
			WithHint("run this as the server's user (sudo), or give a key by AETHERIUM_API_KEY or --key-file")
	}
	return errors.Wrap(err, errors.InvalidArgument, "%s cannot be read", what)
}

// OnThisHost reports whether a server's URL leads to this host.
func OnThisHost(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || (ip != nil && (ip.IsLoopback() || ip.IsUnspecified()))
}

func sameOrigin(a, b string) bool {
	ua, errA := url.Parse(a)
	ub, errB := url.Parse(b)
	return errA == nil && errB == nil && ua.Scheme == ub.Scheme && ua.Host == ub.Host
}
