package agent_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"connectrpc.com/connect"

	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

func TestSDKStart(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	o := r.startSDK(`{"process":{"cmd":"/bin/bash","args":["-l","-c","echo $USER $LOGNAME $HOME $PWD $X; echo e >&2; id -Gn 2>/dev/null || id -G; exit 3"],"envs":{"X":"y"}}}`).readAll()
	if want := "user user " + r.home + " " + r.home + " y\n"; !strings.HasPrefix(o.stdout, want) || o.stderr != "e\n" {
		t.Errorf("stdout %q stderr %q", o.stdout, o.stderr)
	}
	if !strings.Contains(o.stdout, "2000") && !strings.Contains(o.stdout, "extra") {
		t.Errorf("supplementary groups: %q", o.stdout)
	}
	if o.pid == 0 || o.end["exitCode"] != 3.0 || o.end["exited"] != true || o.end["status"] != "exit status 3" || o.err != nil {
		t.Errorf("pid %v end %v error %v", o.pid, o.end, o.err)
	}
	o = r.startSDK(`{"process":{"cmd":"sh","args":["-c","kill -9 $$"]}}`, "Authorization", basic("root")).readAll()
	if o.end["exitCode"] != -1.0 || o.end["exited"] == true || o.end["status"] != "signal: killed" {
		t.Errorf("end after a signal %v", o.end)
	}
}

func TestSDKStartErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, tc := range map[string]struct{ body, user, code string }{
		"unknown user": {`{"process":{"cmd":"true"}}`, "nobody-here", "unauthenticated"},
		"missing cwd":  {`{"process":{"cmd":"true","cwd":"/no/such"}}`, "root", "invalid_argument"},
		"no program":   {`{"process":{"cmd":"no-such-program"}}`, "root", "invalid_argument"},
		"no command":   {`{}`, "root", "invalid_argument"},
	} {
		o := r.startSDK(tc.body, "Authorization", basic(tc.user)).readAll()
		if o.err["code"] != tc.code {
			t.Errorf("%s: %v", name, o.err)
		}
	}
	for _, method := range []string{"SendSignal", "SendInput", "CloseStdin", "Update"} {
		status, body := r.rpc("/process.Process/"+method, `{"process":{"pid":4000000}}`)
		if status != http.StatusNotFound || body["code"] != "not_found" {
			t.Errorf("%s on an unknown process: %d %v", method, status, body)
		}
	}
}

// cat starts a `cat` through the SDKs' service and returns its selector.
func (r *rig) cat(extra string) (*sdkStream, string) {
	r.t.Helper()
	s := r.startSDK(`{"process":{"cmd":"cat"}`+extra+`}`, "Authorization", basic("root"))
	kind, value := s.event() // flushed at once: cat is silent
	if kind != "start" {
		r.t.Fatalf("first event %s", kind)
	}
	return s, fmt.Sprintf(`{"pid":%.0f}`, value["pid"])
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestSDKInput(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s, process := r.cat(`,"tag":"kitty"`)
	if _, body := r.rpc("/process.Process/List", `{}`); !strings.Contains(fmt.Sprint(body), "tag:kitty") {
		t.Errorf("list %v", body)
	}
	if status, body := r.rpc("/process.Process/SendInput", `{"process":{"tag":"kitty"},"input":{"stdin":"`+b64("one ")+`"}}`); status != 200 {
		t.Fatalf("input %d %v", status, body)
	}
	// A client stream over HTTP/1.1, as SDKs send it.
	var stream []byte
	stream = append(stream, frame(`{"start":{"process":`+process+`}}`)...)
	stream = append(stream, frame(`{"keepalive":{}}`)...)
	stream = append(stream, frame(`{"data":{"input":{"stdin":"`+b64("two")+`"}}}`)...)
	status, _, body := call(t, http.DefaultClient, http.MethodPost, r.sdk+"/process.Process/StreamInput",
		strings.NewReader(string(stream)), "Content-Type", "application/connect+json")
	if status != 200 || strings.Contains(body, "error") {
		t.Errorf("stream input %d %q", status, body)
	}
	if status, body := r.rpc("/process.Process/CloseStdin", `{"process":`+process+`}`); status != 200 {
		t.Errorf("close %d %v", status, body)
	}
	if o := s.readAll(); o.stdout != "one two" || o.end == nil {
		t.Errorf("stdout %q end %v", o.stdout, o.end)
	}
	if status, body := r.rpc("/process.Process/SendInput", `{"process":`+process+`,"input":{"stdin":""}}`); body["code"] != "not_found" {
		t.Errorf("input after the end: %d %v", status, body)
	}
	// The exit is kept for a late Connect.
	late := r.stream("/process.Process/Connect", `{"process":`+process+`}`).readAll()
	if late.pid == 0 || late.end == nil {
		t.Errorf("late connect %+v", late)
	}
	if o := r.startSDK(`{"process":{"cmd":"cat"},"stdin":false}`, "Authorization", basic("root")).readAll(); o.end == nil {
		t.Errorf("without stdin %+v", o)
	}
}

func TestSDKTerminal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.startSDK(`{"process":{"cmd":"bash","args":["--norc","-i"],"envs":{"PS1":"$ "}},"pty":{"size":{"cols":70,"rows":20}}}`, "Authorization", basic("root"))
	_, value := s.event()
	process := fmt.Sprintf(`{"pid":%.0f}`, value["pid"])
	_, _ = r.rpc("/process.Process/Update", `{"process":`+process+`,"pty":{"size":{"cols":71,"rows":21}}}`)
	if status, body := r.rpc("/process.Process/SendInput", `{"process":`+process+`,"input":{"pty":"`+b64("stty size; exit 5\n")+`"}}`); status != 200 {
		t.Fatalf("input %d %v", status, body)
	}
	o := s.readAll()
	if !strings.Contains(o.pty, "21 71") || o.end["exitCode"] != 5.0 {
		t.Errorf("terminal %q end %v", o.pty, o.end)
	}
}

func TestSDKSignal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s, process := r.cat("")
	if status, body := r.rpc("/process.Process/SendSignal", `{"process":`+process+`,"signal":"SIGNAL_SIGTERM"}`); status != 200 {
		t.Errorf("signal %d %v", status, body)
	}
	if o := s.readAll(); o.end["status"] != "signal: terminated" {
		t.Errorf("end %v", o.end)
	}
}

func TestSDKDeadlineKillsAndDroppingDoesNot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	watch, err := r.executions.Watch(r.ctx, connect.NewRequest(&guestv1.WatchRequest{}))
	must(t, err)
	o := r.startSDK(`{"process":{"cmd":"sleep","args":["1000"]}}`, "Connect-Timeout-Ms", "100", "Authorization", basic("root")).readAll()
	if o.end == nil && o.err["code"] != "deadline_exceeded" {
		t.Errorf("after the deadline: end %v error %v", o.end, o.err)
	}
	watch.Receive()
	ex, _ := r.attach(resume(watch.Msg().GetExecution().GetExecutionId(), 0))
	if got := r.drain(ex, 0); !got.end.GetTimedOut() || got.end.GetSignal() != 9 {
		t.Errorf("the process ended with %v", got.end)
	}

	s, process := r.cat("")
	s.cancel()
	_, _ = io.Copy(io.Discard, s.res.Body) // until the stream is gone
	again := r.stream("/process.Process/Connect", `{"process":`+process+`}`)
	if kind, _ := again.event(); kind != "start" {
		t.Fatal("the process is gone with its stream")
	}
	_, _ = r.rpc("/process.Process/SendInput", `{"process":`+process+`,"input":{"stdin":"`+b64("alive")+`"}}`)
	_, _ = r.rpc("/process.Process/CloseStdin", `{"process":`+process+`}`)
	if o := again.readAll(); o.stdout != "alive" {
		t.Errorf("stdout %q", o.stdout)
	}
}

func TestSDKKeepalive(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.startSDK(`{"process":{"cmd":"cat"}}`, "Keepalive-Ping-Interval", "1", "Authorization", basic("root"))
	_, _ = s.event()
	if kind, _ := s.event(); kind != "keepalive" {
		t.Errorf("got %s", kind)
	}
}

// Processes of SDKs do not stall when nobody reads: the oldest output gives way.
func TestSDKProcessWithoutReadersDoesNotStall(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	watching, stop := context.WithCancel(r.ctx)
	defer stop()
	watch, err := r.executions.Watch(watching, connect.NewRequest(&guestv1.WatchRequest{}))
	must(t, err)
	fifo := r.home + "/fifo"
	must(t, os.WriteFile(r.home+"/run", []byte("mkfifo "+fifo+"; read go < "+fifo+"; head -c 5000000 /dev/zero; echo over\n"), 0o644))
	s := r.startSDK(`{"process":{"cmd":"sh","args":["`+r.home+`/run"]}}`, "Authorization", basic("root"))
	_, _ = s.event()
	s.cancel()
	_, _ = io.Copy(io.Discard, s.res.Body)
	watch.Receive()
	id := watch.Msg().GetExecution().GetExecutionId()
	stop() // a host that watches would be waited for
	r.sh("root", "until [ -p "+fifo+" ]; do :; done; echo go > "+fifo)
	// Attach only once it has ended: an attached host is waited for.
	for {
		list, err := r.executions.List(r.ctx, connect.NewRequest(&guestv1.ListRequest{}))
		must(t, err)
		if e := list.Msg.GetExecutions()[0]; e.GetExecutionId() == id && e.GetEnd() != nil {
			break
		}
	}
	ex, _ := r.attach(resume(id, 0))
	msg, err := ex.Receive()
	must(t, err)
	from := msg.GetOutput().GetOffset()
	if want := int64(5000005 - 1<<20); from != want {
		t.Errorf("what is left begins at %d, want %d", from, want)
	}
	rest := r.drain(ex, from+int64(len(msg.GetOutput().GetData())))
	if !strings.HasSuffix(rest.stdout.String(), "over\n") {
		t.Errorf("ends with %.20q", rest.stdout.String())
	}
}

// A slow SDK client gets everything, and nothing is held beyond the window,
// although the host acknowledges quickly.
func TestSDKSlowReaderLosesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	watch, err := r.executions.Watch(r.ctx, connect.NewRequest(&guestv1.WatchRequest{}))
	must(t, err)
	s := r.startSDK(`{"process":{"cmd":"seq","args":["1000000"]}}`, "Authorization", basic("root"))
	watch.Receive()
	id := watch.Msg().GetExecution().GetExecutionId()
	client := make(chan *sdkOutput, 1)
	go func() {
		defer close(client) // a reader that fails ends its goroutine
		client <- s.readAll()
	}()
	// The host watches: it gets all, however late it attaches.
	for {
		list, err := r.executions.List(r.ctx, connect.NewRequest(&guestv1.ListRequest{}))
		must(t, err)
		if list.Msg.GetExecutions()[0].GetOutputBytes() >= 1<<20 {
			break
		}
	}
	host, _ := r.attach(resume(id, 0))
	h, o := r.drain(host, 0), <-client
	if o == nil {
		t.FailNow()
	}
	if h.stdout.String() != o.stdout || len(o.stdout) != 6888896 {
		t.Errorf("the SDK read %d bytes, the host %d", len(o.stdout), h.stdout.Len())
	}
}

func TestSDKAccessToken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const secret = "s3cret"
	_, err := r.machine.Configure(r.ctx, connect.NewRequest(&guestv1.ConfigureRequest{
		AccessToken: secret, DefaultUser: "root", Env: map[string]string{"K": "v"},
	}))
	must(t, err)
	for _, tc := range []struct{ method, path string }{
		{"POST", "/process.Process/List"}, {"POST", "/filesystem.Filesystem/Stat"}, {"GET", "/envs"}, {"GET", "/metrics"}, {"GET", "/files?path=/etc/hostname"},
	} {
		for token, want := range map[string]int{"": 401, "wrong": 401} {
			status, _, body := call(t, http.DefaultClient, tc.method, r.sdk+tc.path, strings.NewReader("{}"),
				"Content-Type", "application/json", "X-Access-Token", token)
			if status != want {
				t.Errorf("%s with token %q: %d %s", tc.path, token, status, body)
			}
		}
	}
	if o := r.startSDK(`{"process":{"cmd":"true"}}`).readAll(); o.err["code"] != "unauthenticated" {
		t.Errorf("start without a token: %+v", o)
	}
	if o := r.startSDK(`{"process":{"cmd":"true"}}`, "X-Access-Token", secret).readAll(); o.end == nil {
		t.Errorf("start with the token: %+v", o)
	}
	if status, _, body := call(t, http.DefaultClient, "GET", r.sdk+"/envs", nil, "X-Access-Token", secret); status != 200 || body != "{\"K\":\"v\"}\n" {
		t.Errorf("envs %d %s", status, body)
	}
	if status, _, body := call(t, http.DefaultClient, "GET", r.sdk+"/metrics", nil, "X-Access-Token", secret); status != 200 ||
		!strings.Contains(body, `"mem_total":`) || !strings.Contains(body, `"cpu_used_pct":`) {
		t.Errorf("metrics %d %s", status, body)
	}
	if status, _, _ := call(t, http.DefaultClient, "GET", r.sdk+"/health", nil); status != 204 {
		t.Errorf("health %d", status)
	}
	for token, want := range map[string]int{"": 401, "other": 401, secret: 204} {
		status, _, _ := call(t, http.DefaultClient, "POST", r.sdk+"/init", strings.NewReader(`{"envVars":{"N":"1"}}`), "X-Access-Token", token)
		if status != want {
			t.Errorf("init with %q: %d", token, status)
		}
	}
	// What only the host may do is not served to the guest.
	for _, path := range []string{"/aetherium/file?path=/etc/passwd", "/aetherium.guest.v1.ExecutionService/List", "/aetherium.guest.v1.MachineService/Configure"} {
		if status, _, _ := call(t, http.DefaultClient, "POST", r.sdk+path, strings.NewReader("{}"), "Content-Type", "application/json", "X-Access-Token", secret); status != 404 {
			t.Errorf("%s is served to guests: %d", path, status)
		}
	}
}
