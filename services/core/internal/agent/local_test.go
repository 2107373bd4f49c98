package agent_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"

	"connectrpc.com/connect"
)

// The machine's services learn the environment for whom they ask with the
// token, when they are root's or the default user's.
func TestLocalServices(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it asks as several users")
	}
	r := newRig(t)
	socket := filepath.Join(filepath.Dir(r.socket), "local.sock")
	l, err := net.Listen("unix", socket)
	must(t, err)
	must(t, os.Chmod(socket, 0o777)) //nolint:gosec // an abstract socket has no mode
	served := make(chan error, 1)
	go func() { served <- r.agent.ServeLocal(r.ctx, l) }()
	t.Cleanup(func() {
		_ = l.Close()
		<-served
	})
	_, err = r.machine.Configure(r.ctx, connect.NewRequest(&guestv1.ConfigureRequest{Env: map[string]string{"A": "b"}, AccessToken: "right", DefaultUser: "user"}))
	must(t, err)
	for _, tc := range []struct {
		uid               uint32
		path, token, want string
	}{
		{0, "envs", "right", `{"A":"b"}200`},
		{1000, "envs", "right", `{"A":"b"}200`},
		{1000, "envs", "wrong", "401"},
		{1001, "envs", "right", "000"}, // not even an answer
		{1000, "metrics", "right", "404"},
		{0, "init", "right", "404"},
	} {
		cmd := exec.CommandContext(r.ctx, "curl", "-s", "--unix-socket", socket, "-H", "X-Access-Token: "+tc.token, "-w", "%{http_code}", "http://agent/"+tc.path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tc.uid, Gid: tc.uid}}
		out, _ := cmd.Output() // which fails where there is no answer
		if got := strings.ReplaceAll(string(out), "\n", ""); !strings.HasSuffix(got, tc.want) || strings.HasPrefix(tc.want, "{") && got != tc.want {
			t.Errorf("user %d, %s, %s token: %q, want %q", tc.uid, tc.path, tc.token, got, tc.want)
		}
	}
}
