// Package names tests what has the names of previews resolve on a host, on one
// like those of users: Debian, in a mount namespace and on a disk that end with
// each test. It needs root, and Debian's archive.
package names

import (
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/tests/internal/server"
)

// host runs a script, $3, where the file system of Debian, $1, is the root's
// lower layer, and the project's scripts, $2, are at /src/scripts. What is mounted
// or written ends with it.
const host = `set -e
room=$(mktemp -d); trap 'rmdir "$room"' EXIT
mount -t tmpfs none "$room"; trap 'umount -R -l "$room"; rmdir "$room"' EXIT
cd "$room"; mkdir upper work root
mount -t overlay none -o lowerdir="$1",upperdir=upper,workdir=work root
mount --rbind /dev root/dev; mount -t proc none root/proc
mkdir -p root/src/scripts; mount --bind "$2" root/src/scripts
for f in hosts resolv.conf; do cat /etc/$f >root/etc/$f; done
chroot root bash -c "$3" </dev/null 2>&1`

// before has nobody resolve the names but the C library itself, as a name server
// may well know them, and only Debian's archive be found.
const before = `for archive in $(grep -oE '//[^/ ]+' /etc/apt/sources.list | tr -d / | sort -u); do
  echo "$(getent ahostsv4 "$archive" | awk 'NR == 1 { print $1 }') $archive" >>/etc/hosts
done
echo >/etc/resolv.conf
! getent ahosts 1-a.aeth.localhost || echo "they resolve already"
`

func TestNames(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		want   []string // is said, one after the other
		fails  bool
	}{
		"nobody to ask": {script: before + `/src/scripts/names.sh --offer; getent ahosts 1-a.aeth.localhost || echo untouched`,
			want: []string{"do not resolve", `"make names" installs`, "untouched"}},
		"refused": {script: before + `NAMES=no /src/scripts/names.sh --offer; getent ahosts 1-a.aeth.localhost || echo untouched`,
			want: []string{"do not resolve", `"make names" installs`, "untouched"}},
		"another domain": {script: before + `AETHERIUM_LISTEN_PREVIEW_DOMAIN=vm.example /src/scripts/names.sh`,
			want: []string{"Names below vm.example do not", "in its zone"}, fails: true},
		"another domain, offered": {script: before + `AETHERIUM_LISTEN_PREVIEW_DOMAIN=vm.example NAMES=yes /src/scripts/names.sh --offer`,
			want: []string{"Names below vm.example do not", "in its zone"}},
		"no apt": {script: before + `rm /usr/bin/apt-get; /src/scripts/names.sh`,
			want: []string{"do not resolve", "systemd-resolved"}, fails: true},
		"no apt, offered": {script: before + `rm /usr/bin/apt-get; NAMES=yes /src/scripts/names.sh --offer`,
			want: []string{"do not resolve", "systemd-resolved"}},
		"taken": {script: before + `NAMES=yes /src/scripts/names.sh --offer && getent ahosts 8080-abcdefghij0123456789.aeth.localhost && /src/scripts/names.sh`,
			want: []string{"do not resolve", "installing libnss-myhostname", "resolve now", "127.0.0.1", "resolve on this host"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said, err := run(t, tc.script)
			if (err != nil) != tc.fails {
				t.Errorf("it ended with %v", err)
			}
			rest := said
			for _, want := range tc.want {
				var found bool
				if _, rest, found = strings.Cut(rest, want); !found {
					t.Fatalf("it does not say %q where it should:\n%s", want, said)
				}
			}
			if strings.Contains(said, "already") {
				t.Errorf("names resolve before anything is done:\n%s", said)
			}
		})
	}
}

// run carries out a script on such a host, and gives what it said.
func run(t *testing.T, script string) (string, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("it needs root")
	}
	if os.Getenv("AETHERIUM_TEST_OFFLINE") != "" {
		t.Skip("packages come from Debian's archive")
	}
	rootfs := cmp.Or(os.Getenv("AETHERIUM_TEST_ROOTFS"), os.Getenv("AETHERIUM_TEST_OTHER_ROOTFS"))
	if rootfs == "" {
		t.Skip("AETHERIUM_TEST_OTHER_ROOTFS names no root filesystem")
	}
	root, err := server.Root()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "unshare", "--mount", "bash", "-c", host, "host", rootfs, filepath.Join(root, "scripts"), script).Output()
	return string(out), err
}
