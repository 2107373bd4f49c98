package osuser

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	maxFileBytes = 4 << 20 // of passwd and of group; what is beyond is ignored
	maxGroups    = 1024    // supplementary groups of one user
	maxName      = 256     // bytes of a user's name from outside
)

// User is an OS user of the machine.
type User struct {
	Name   string
	UID    uint32
	GID    uint32
	Home   string   // absolute; "/" when the user has none
	Groups []uint32 // supplementary groups, the primary one included
}

// DB finds users and groups. It is safe for concurrent use.
type DB struct {
	passwd, group string

	mu     sync.Mutex
	stamps [2]stamp
	byName map[string]*User
	byUID  map[uint32]*User
	groups map[uint32]string // names by ID
}

// stamp tells whether a file changed. An absent file has the zero stamp.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

// NewDB reads users from etc (usually "/etc"), lazily.
func NewDB(etc string) *DB {
	return &DB{passwd: etc + "/passwd", group: etc + "/group"}
}

// Lookup finds a user by name, or by number: "1000" or "1000:1000", as image
// configurations have it (OCI image-spec, config.User). A number without an
// entry is a user without a name whose home is "/".
// Returns Unauthenticated for an unknown user.
func (db *DB) Lookup(name string) (*User, error) {
	if name == "" || len(name) > maxName || strings.ContainsAny(name, "\x00\n/") {
		return nil, errors.New(errors.Unauthenticated, "not a user name: %.64q", name)
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.refresh(); err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the machine's users cannot be read")
	}
	if u, ok := db.byName[name]; ok {
		return u, nil
	}
	uidText, gidText, hasGID := strings.Cut(name, ":")
	uid, err := parseID(uidText)
	if err != nil {
		return nil, errors.New(errors.Unauthenticated, "unknown user %.64q", name)
	}
	u, ok := db.byUID[uid]
	if !ok {
		u = &User{Name: uidText, UID: uid, GID: 0, Home: "/", Groups: []uint32{0}}
		if uid != 0 && !hasGID {
			// Without an entry Docker runs such a user with group 0; a group
			// of the user's own number is what shares nothing with root.
			u.GID, u.Groups = uid, []uint32{uid}
		}
	}
	if !hasGID {
		return u, nil
	}
	gid, err := parseID(gidText)
	if err != nil {
		return nil, errors.New(errors.Unauthenticated, "unknown group in user %.64q", name)
	}
	withGroup := *u
	withGroup.GID, withGroup.Groups = gid, []uint32{gid}
	return &withGroup, nil
}

// UserName gives the name of a user ID, or the number as text.
func (db *DB) UserName(uid uint32) string {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.refresh() == nil {
		if u, ok := db.byUID[uid]; ok {
			return u.Name
		}
	}
	return strconv.FormatUint(uint64(uid), 10)
}

// GroupName gives the name of a group ID, or the number as text.
func (db *DB) GroupName(gid uint32) string {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.refresh() == nil {
		if name, ok := db.groups[gid]; ok {
			return name
		}
	}
	return strconv.FormatUint(uint64(gid), 10)
}

// refresh reads the files again when either has changed. db.mu is held.
func (db *DB) refresh() error {
	var now [2]stamp
	for i, path := range []string{db.passwd, db.group} {
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		now[i] = stamp{modified: info.ModTime(), size: info.Size()}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			now[i].inode = st.Ino
		}
	}
	if db.byName != nil && now == db.stamps {
		return nil
	}
	byName, byUID, groups := map[string]*User{}, map[uint32]*User{}, map[uint32]string{}
	err := eachLine(db.passwd, func(f []string) {
		// name:password:uid:gid:gecos:home:shell (passwd(5))
		if len(f) < 6 {
			return
		}
		uid, uidErr := parseID(f[2])
		gid, gidErr := parseID(f[3])
		if f[0] == "" || uidErr != nil || gidErr != nil || byName[f[0]] != nil {
			return // the first entry of a name counts, as in getpwnam(3)
		}
		u := &User{Name: f[0], UID: uid, GID: gid, Home: f[5], Groups: []uint32{gid}}
		if !strings.HasPrefix(u.Home, "/") {
			u.Home = "/"
		}
		byName[u.Name] = u
		if byUID[uid] == nil {
			byUID[uid] = u
		}
	})
	if err != nil {
		return err
	}
	err = eachLine(db.group, func(f []string) {
		// name:password:gid:members (group(5))
		if len(f) < 4 {
			return
		}
		gid, err := parseID(f[2])
		if f[0] == "" || err != nil {
			return
		}
		if _, ok := groups[gid]; !ok {
			groups[gid] = f[0]
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if u := byName[strings.TrimSpace(member)]; u != nil && gid != u.GID && len(u.Groups) < maxGroups {
				u.Groups = append(u.Groups, gid)
			}
		}
	})
	if err != nil {
		return err
	}
	db.byName, db.byUID, db.groups, db.stamps = byName, byUID, groups, now
	return nil
}

// eachLine calls fn with the colon-separated fields of each line. An absent file has no lines.
func eachLine(path string, fn func(fields []string)) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(io.LimitReader(f, maxFileBytes))
	lines.Buffer(make([]byte, 0, 4096), 1<<20)
	for lines.Scan() {
		if line := lines.Text(); !strings.HasPrefix(line, "#") {
			fn(strings.Split(line, ":"))
		}
	}
	return lines.Err()
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 { // -1 means "no change" to the kernel
		return 0, errors.Plain("not an ID")
	}
	return uint32(n), nil
}
