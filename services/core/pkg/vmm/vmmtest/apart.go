package vmmtest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/guest"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var apartTests = []behaviour{
	{"what a machine is told and draws", goesOn, testApart},
	{"network", func(c Config, has []string) bool { return goesOn(c, has) && c.Outside != nil }, testApartOutside},
}

// age is how old a snapshot is when machines go on from it: their clocks have
// something to catch up with.
const age = 3 * time.Second

// clockWithin is how far a machine's clock may be from the host's.
const clockWithin = 2 * time.Second

// testApart forks twice and compares what must not be the same.
func testApart(t *testing.T, b *bed) {
	origin := b.machine(t)
	if err := origin.client.Configure(timeout(t), guest.Config{Env: map[string]string{"ORIGINS_SECRET": "s3cret"}, AccessToken: "token"}); err != nil {
		t.Fatal(err)
	}
	// As a template with an SSH server has them.
	origin.run(t, asRoot(shell("mkdir -p /etc/ssh; test -e /etc/ssh/ssh_host_ed25519_key || echo old | tee /etc/ssh/ssh_host_ed25519_key > /etc/ssh/ssh_host_ed25519_key.pub")))
	origin.start(t, asRoot(shell(sshServer)))
	origin.sh(t, "until test -e /var/tmp/ssh/serves; do sleep 0.05; done")
	// As a template with D-Bus has it, and one with a hook.
	origin.run(t, asRoot(shell("mkdir -p /var/lib/dbus; rm -f /var/lib/dbus/machine-id; cp /etc/machine-id /var/lib/dbus/machine-id")))
	origin.run(t, asRoot(shell("mkdir -p /etc/aetherium/resume.d; printf '#!/bin/sh\\n"+hookNotes+"\\n' > /etc/aetherium/resume.d/note; chmod 755 /etc/aetherium/resume.d/note")))
	h := origin.hold(t)
	// The snapshot may take longer than the shorter ones.
	var timers []domain.ID
	for seconds := 2; seconds <= 64; seconds *= 2 {
		timers = append(timers, origin.start(t, shell(fmt.Sprintf("sleep %d; echo over", seconds))))
	}
	origin.start(t, domain.Command{Args: []string{"python3", "-c", drawing}})
	origin.sh(t, "until test -s /var/tmp/drawn; do sleep 0.05; done")
	if err := origin.client.Quiesce(timeout(t)); err != nil {
		t.Fatal(err)
	}
	snap := b.snapshotOf(t, origin.id, domain.SnapshotMemory)
	saved := time.Now()
	if err := origin.client.Thaw(timeout(t)); err != nil {
		t.Fatal(err)
	}
	// It goes on in the origin, which then leaves the processors to the forks.
	origin.sh(t, "n=$(wc -l < /var/tmp/drawn); until test $(wc -l < /var/tmp/drawn) -gt $n; do sleep 0.05; done; touch /var/tmp/enough")
	time.Sleep(age)
	type fork struct {
		*holder
		hostname, firstClock    string
		clockBefore, clockAfter time.Time
		timer                   domain.ID
	}
	forks := make([]fork, 2)
	for i := range forks {
		f := &forks[i]
		x, ids := b.fork(t, snap, func(s *vmm.Spec) { f.hostname = s.Hostname })
		f.holder = h.in(t, x, ids[h.id])
		for _, id := range timers {
			f.timer = cmp.Or(f.timer, ids[id])
		}
		f.clockBefore = time.Now()
		f.firstClock = x.sh(t, "date +%s.%N")
		f.clockAfter = time.Now()
	}
	all := []*holder{h, forks[0].holder, forks[1].holder}

	t.Run("hostname", func(t *testing.T) {
		for _, f := range forks {
			if got := f.x.sh(t, "cat /proc/sys/kernel/hostname"); got != f.hostname {
				t.Errorf("%q, want %q", got, f.hostname)
			}
		}
	})
	t.Run("clock", func(t *testing.T) {
		for _, f := range forks {
			checkClock(t, f.firstClock, f.clockBefore, f.clockAfter)
			before := time.Now()
			checkClock(t, f.ask(t, "clock"), before, time.Now())
			if got := f.ask(t, "steady"); got != "on" {
				t.Errorf("the monotonic clock went %s", got)
			}
		}
	})
	t.Run("random numbers", func(t *testing.T) {
		var drawn []string
		for _, h := range all {
			drawn = append(drawn, h.ask(t, "draw"))
		}
		for i := range strings.Fields(drawn[0]) {
			checkDistinct(t, []string{strings.Fields(drawn[0])[i], strings.Fields(drawn[1])[i], strings.Fields(drawn[2])[i]})
		}
		drawn = nil
		for _, h := range all {
			drawn = append(drawn, h.x.sh(t, "head -c 16 /dev/urandom | od -An -tx1"))
		}
		checkDistinct(t, drawn)
	})
	t.Run("what runs goes on afterwards", func(t *testing.T) {
		var before []string
		for _, f := range forks {
			before = append(before, drawnBefore(t, f.x, saved.Add(age/3)))
		}
		if before[0] != before[1] {
			t.Errorf("with their origin's clock the forks' programs drew %q and %q", before[0], before[1])
		}
		for _, f := range forks {
			f.x.sh(t, "touch /var/tmp/enough")
		}
	})
	t.Run("machine-id", func(t *testing.T) {
		var ids []string
		for _, h := range all {
			id := h.x.sh(t, "cat /etc/machine-id 2>/dev/null || true")
			if h != all[0] && !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) {
				t.Errorf("%q is no machine ID", id)
			}
			ids = append(ids, id)
			if got := h.x.sh(t, "cat /var/lib/dbus/machine-id"); got != id {
				t.Errorf("D-Bus has %q, and the machine %q", got, id)
			}
		}
		checkDistinct(t, ids)
	})
	t.Run("SSH host keys", func(t *testing.T) {
		read := asRoot(shell("cat /etc/ssh/ssh_host_*_key 2>/dev/null"))
		keys := []string{h.x.run(t, read).stdout}
		for _, f := range forks {
			if got := f.x.run(t, read).stdout; got != "" { // none is as good as a new one
				keys = append(keys, got)
			}
		}
		checkDistinct(t, keys)
		for _, f := range forks {
			if len(keys) == len(all) { // else there are no keys to be told of
				f.x.sh(t, "until test -e /var/tmp/ssh/reloaded; do sleep 0.05; done")
			}
			if got := f.x.sh(t, "ls /var/tmp/ssh"); strings.Contains(got, "ended") {
				t.Errorf("the fork's server has ended its connections: %q", got)
			}
		}
		if got := h.x.sh(t, "ls /var/tmp/ssh"); strings.Contains(got, "reloaded") {
			t.Errorf("the origin's server was told: %q", got)
		}
	})
	t.Run("environment", func(t *testing.T) {
		for _, f := range forks {
			if got := f.x.sh(t, "env"); strings.Contains(got, "ORIGINS_SECRET") {
				t.Errorf("the origin's environment is in the fork: %q", got)
			}
		}
		if got := h.x.sh(t, "echo $ORIGINS_SECRET"); got != "s3cret" {
			t.Errorf("the origin has %q", got)
		}
	})
	t.Run("access token", func(t *testing.T) {
		for _, f := range forks {
			if code, body := b.envs(t, f.x.id); code != http.StatusOK || body != "{}" {
				t.Errorf("the fork answers %d %q to who has no token", code, body)
			}
		}
		if code, body := b.envs(t, h.x.id); code != http.StatusUnauthorized {
			t.Errorf("the origin answers %d %q", code, body)
		}
	})
	t.Run("hooks", func(t *testing.T) {
		for _, h := range all {
			want := h.x.sh(t, "cat /proc/sys/kernel/hostname /etc/machine-id")
			if got := h.x.sh(t, "cat /var/tmp/resumed"); got != want {
				t.Errorf("as its hook ran the machine was %q, and it is %q", got, want)
			}
		}
	})
	t.Run("timers", func(t *testing.T) {
		for _, f := range forks {
			if f.timer == "" {
				t.Fatal("all had run out before the snapshot")
			}
			w := f.x.follow(t, f.timer)
			w.midway = true
			if got := w.rest(); got.end != (domain.ExecutionEnd{}) || got.stdout != "over\n" {
				t.Errorf("%+v", got)
			}
			f.x.sh(t, "sleep 0.1")
		}
	})
	t.Run("the origin is as it was", func(t *testing.T) {
		if got := h.ask(t, "files"); got != "still here, on a tmpfs" {
			t.Errorf("%q", got)
		}
		if got := h.ask(t, "steady"); got != "on" {
			t.Errorf("the monotonic clock went %s", got)
		}
	})
}

// sshServer is a program by sshd's name that notes when it is to read its keys again,
// with a child of that name as those that serve a connection are, which the same
// signal would end.
const sshServer = `set -e
umask 022
mkdir -p /var/tmp/ssh /var/tmp/child
{ echo '#!/bin/sh'; echo 'trap "touch /var/tmp/ssh/ended" HUP; touch /var/tmp/ssh/serves; while :; do sleep 0.1; done'; } > /var/tmp/child/sshd
{ echo '#!/bin/sh'; echo 'trap "touch /var/tmp/ssh/reloaded" HUP; /var/tmp/child/sshd & while :; do sleep 0.1; done'; } > /var/tmp/sshd
chmod 755 /var/tmp/child/sshd /var/tmp/sshd
exec /var/tmp/sshd`

// drawing is a program that draws numbers until it is enough, and notes when.
const drawing = `
import os, time
with open("/var/tmp/drawn", "w") as f:
    while not os.path.exists("/var/tmp/enough"):
        drawn = os.urandom(8).hex() # first: one that is drawn in time has the time of then, or a later one
        f.write("%.6f %s\n" % (time.time(), drawn))
        f.flush()
        time.sleep(0.01)
`

// drawnBefore tells how much a machine's program drew while its clock was before
// a time, and what came last. It waits until it has drawn after that.
func drawnBefore(t *testing.T, x *box, at time.Time) string {
	t.Helper()
	sec := strconv.FormatInt(at.Unix(), 10)
	x.sh(t, "until tail -n 1 /var/tmp/drawn | awk '$1 > "+sec+" {late = 1} END {exit !late}'; do sleep 0.05; done")
	return x.sh(t, "awk '$1 <= "+sec+" {n++; last = $0} END {print n, last}' /var/tmp/drawn")
}

// hookNotes has a hook write down who the machine is.
const hookNotes = "cat /proc/sys/kernel/hostname /etc/machine-id > /var/tmp/resumed"

// envs asks a machine's agent for what its programs are told, as an SDK without a
// token does.
func (b *bed) envs(t *testing.T, machine string) (code int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return b.Driver.Dial(ctx, machine, vmm.AgentPort)
		},
	}}
	req, err := http.NewRequestWithContext(timeout(t), http.MethodGet, "http://agent/envs", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(text))
}

func checkDistinct(t *testing.T, values []string) {
	t.Helper()
	seen := map[string]bool{}
	for _, v := range values {
		if seen[v] {
			t.Errorf("%q comes twice in %q", v, values)
		}
		seen[v] = true
	}
}

// checkClock compares what a machine's clock said between two moments of the host's.
func checkClock(t *testing.T, said string, before, after time.Time) {
	t.Helper()
	seconds, err := strconv.ParseFloat(said, 64)
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMicro(int64(seconds * 1e6))
	if at.Before(before.Add(-clockWithin)) || at.After(after.Add(clockWithin)) {
		t.Errorf("the clock said %s between %s and %s", at.UTC(), before.UTC(), after.UTC())
	}
}

// testApartOutside forks a machine that is connected to somebody outside.
func testApartOutside(t *testing.T, b *bed) {
	nat := func(s *vmm.Spec) { s.Network = domain.NetworkNAT }
	host, port, err := net.SplitHostPort(b.config.Outside(t))
	if err != nil {
		t.Fatal(err)
	}
	origin := b.machine(t, nat)
	h := origin.hold(t)
	h.ask(t, "connect "+host+" "+port)
	if got := h.ask(t, "talk"); got != "alive" {
		t.Fatalf("the origin's connection is %s", got)
	}
	snap := b.snapshotOf(t, origin.id, domain.SnapshotMemory)
	one, two := b.forkOf(t, snap, h, nat), b.forkOf(t, snap, h, nat)
	t.Run("connections", func(t *testing.T) {
		for _, h := range []*holder{one, two} {
			if got := h.ask(t, "talk"); got != "closed" {
				t.Errorf("the fork's connection is %s", got)
			}
			h.ask(t, "connect "+host+" "+port)
			if got := h.ask(t, "talk"); got != "alive" {
				t.Errorf("the fork's new connection is %s", got)
			}
		}
		if got := h.ask(t, "talk"); got != "alive" {
			t.Errorf("the origin's connection is %s", got)
		}
	})
	t.Run("addresses", func(t *testing.T) {
		const address = `import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("192.0.2.1", 9)); print(s.getsockname()[0])`
		var macs, addresses []string
		for _, h := range []*holder{h, one, two} {
			macs = append(macs, h.x.sh(t, "cat $(ls -d /sys/class/net/* | grep -v /lo$ | head -n 1)/address"))
			addresses = append(addresses, h.x.run(t, python(address)).stdout)
		}
		checkDistinct(t, macs)
		checkDistinct(t, addresses)
	})
}
