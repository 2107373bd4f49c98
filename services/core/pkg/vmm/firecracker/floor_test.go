package firecracker_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/guest/bootline"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/microvm"
)

// roundsEnv is how often each way is measured.
const roundsEnv = "AETHERIUM_BENCH_ROUNDS"

// TestFloor measures what there is between a wish for a guest and its first
// answer: by the engine, and by bare calls of Firecracker's API with the same
// kernel, initrd and disks, without a jailer. It closes with JSON and asserts nothing.
func TestFloor(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv(roundsEnv))
	if err != nil || rounds < 1 {
		t.Skip(roundsEnv + " does not say how often to measure")
	}
	l := newLab(t)
	var ours, bare []time.Duration
	for range rounds { // in turns: the machine may become slower meanwhile
		g := l.guest(nil)
		g.Link = nil
		began := time.Now()
		pid := l.boot(g)
		answered(t, func(ctx context.Context) (net.Conn, error) { return l.engine.Dial(ctx, g) })
		ours = append(ours, time.Since(began))
		end(l, g, pid)
		bare = append(bare, bareBoot(t, g))
	}
	median := func(all []time.Duration) float64 {
		all = slices.Sorted(slices.Values(all))
		return float64(all[len(all)/2].Microseconds()) / 1000
	}
	out, err := json.Marshal(map[string]any{
		"what": "firecracker: create to first answer", "unit": "ms", "rounds": rounds,
		"engine": median(ours), "bare": median(bare), "ratio": median(ours) / median(bare), "goal": 1.1,
	})
	must(t, err)
	fmt.Println(string(out))
}

// bareBoot is the least that boots a guest.
func bareBoot(t *testing.T, g microvm.Guest) time.Duration {
	t.Helper()
	dir := t.TempDir()
	api, vsock := filepath.Join(dir, "a"), filepath.Join(dir, "v")
	line := bootline.Line{Channel: bootline.ChannelVsock}
	for i, d := range g.Drives {
		line.Drives = append(line.Drives, bootline.Drive{Device: "vd" + string(rune('a'+i)), Role: d.Role})
	}
	args := "console=ttyS0 quiet loglevel=1 reboot=k panic=-1 pci=off i8042.noaux i8042.nomux i8042.dumbkbd " +
		line.String() + " " + os.Getenv(argsEnv)
	began := time.Now()
	cmd := exec.Command(os.Getenv(binaryEnv), "--api-sock", api, "--level", "Warn")
	must(t, cmd.Start())
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return untilThere(ctx, func() (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", api) })
	}}}
	defer client.CloseIdleConnections()
	put := func(path string, body any) {
		raw, err := json.Marshal(body)
		must(t, err)
		r, err := http.NewRequest(http.MethodPut, "http://f"+path, bytes.NewReader(raw))
		must(t, err)
		resp, err := client.Do(r)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			t.Fatalf("%s: %s", path, resp.Status)
		}
	}
	put("/boot-source", map[string]any{"kernel_image_path": g.Kernel.ELF, "initrd_path": g.Kernel.Initrd, "boot_args": args})
	put("/machine-config", map[string]any{"vcpu_count": g.CPUs, "mem_size_mib": g.Memory >> 20, "track_dirty_pages": true})
	for i, d := range g.Drives {
		id := fmt.Sprintf("d%d", i)
		put("/drives/"+id, map[string]any{
			"drive_id": id, "path_on_host": d.Path, "is_root_device": false, "is_read_only": d.ReadOnly, "cache_type": "Writeback",
		})
	}
	put("/vsock", map[string]any{"guest_cid": 3, "uds_path": vsock})
	put("/entropy", map[string]any{})
	put("/actions", map[string]any{"action_type": "InstanceStart"})
	answered(t, func(ctx context.Context) (net.Conn, error) {
		return untilThere(ctx, func() (net.Conn, error) { return bareConnect(vsock) })
	})
	return time.Since(began)
}

func bareConnect(path string) (net.Conn, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprintf(conn, "CONNECT %d\n", vmm.AgentPort)
	said, err := bufio.NewReaderSize(conn, 16).ReadString('\n') // the guest speaks only when asked
	if err != nil || !strings.HasPrefix(said, "OK ") {
		conn.Close()
		return nil, fmt.Errorf("%q: %w", said, err)
	}
	return conn, conn.SetDeadline(time.Time{})
}

// untilThere tries every 10 ms, as the engine does.
func untilThere(ctx context.Context, try func() (net.Conn, error)) (net.Conn, error) {
	for {
		conn, err := try()
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func answered(t *testing.T, dial func(context.Context) (net.Conn, error)) {
	t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}
	resp, err := client.Get("http://guest/hello")
	must(t, err)
	resp.Body.Close()
}
