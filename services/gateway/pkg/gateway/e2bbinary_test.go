package gateway_test

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	filesystempb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/filesystem/filesystempbconnect"
	processpb "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/process"
	"github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/process/processpbconnect"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// binaryProcesses answers with what it was asked.
type binaryProcesses struct {
	processpbconnect.UnimplementedProcessHandler
}

func (binaryProcesses) List(context.Context, *connect.Request[processpb.ListRequest]) (*connect.Response[processpb.ListResponse], error) {
	return connect.NewResponse(&processpb.ListResponse{Processes: []*processpb.ProcessInfo{{Pid: 7, Config: &processpb.ProcessConfig{Cmd: "cat"}}}}), nil
}

func (binaryProcesses) Start(_ context.Context, r *connect.Request[processpb.StartRequest], s *connect.ServerStream[processpb.StartResponse]) error {
	// Bytes that are no text show that nothing on the way takes them for some.
	for _, e := range []*processpb.ProcessEvent{
		{Event: &processpb.ProcessEvent_Start{Start: &processpb.ProcessEvent_StartEvent{Pid: 7}}},
		{Event: &processpb.ProcessEvent_Data{Data: &processpb.ProcessEvent_DataEvent{Output: &processpb.ProcessEvent_DataEvent_Stdout{
			Stdout: append([]byte{0, 0xff, '\n'}, r.Msg.GetProcess().GetCmd()...),
		}}}},
		{Event: &processpb.ProcessEvent_End{End: &processpb.ProcessEvent_EndEvent{ExitCode: -1, Exited: true}}},
	} {
		if err := s.Send(&processpb.StartResponse{Event: e}); err != nil {
			return err
		}
	}
	return nil
}

func (binaryProcesses) StreamInput(_ context.Context, s *connect.ClientStream[processpb.StreamInputRequest]) (*connect.Response[processpb.StreamInputResponse], error) {
	got := 0
	for s.Receive() {
		got++
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	r := connect.NewResponse(&processpb.StreamInputResponse{})
	r.Header().Set("X-Got", strconv.Itoa(got))
	return r, nil
}

type binaryFiles struct {
	filesystempbconnect.UnimplementedFilesystemHandler
}

func (binaryFiles) Stat(_ context.Context, r *connect.Request[filesystempb.StatRequest]) (*connect.Response[filesystempb.StatResponse], error) {
	if r.Msg.GetPath() != "/there" {
		return nil, connect.NewError(connect.CodeNotFound, errors.Plain("no such file"))
	}
	return connect.NewResponse(&filesystempb.StatResponse{Entry: &filesystempb.EntryInfo{Name: "there", Size: 1 << 40, Mode: 0o644}}), nil
}

func (binaryFiles) WatchDir(_ context.Context, _ *connect.Request[filesystempb.WatchDirRequest], s *connect.ServerStream[filesystempb.WatchDirResponse]) error {
	for _, e := range []*filesystempb.WatchDirResponse{
		{Event: &filesystempb.WatchDirResponse_Start{Start: &filesystempb.WatchDirResponse_StartEvent{}}},
		{Event: &filesystempb.WatchDirResponse_Filesystem{Filesystem: &filesystempb.FilesystemEvent{Name: "new"}}},
	} {
		if err := s.Send(e); err != nil {
			return err
		}
	}
	return nil
}

// asSandbox has each request name its sandbox and show a token, as clients do.
type asSandbox struct {
	client    *http.Client
	id, token string
}

// Do implements connect.HTTPClient.
func (a asSandbox) Do(r *http.Request) (*http.Response, error) {
	r.Header.Set("E2b-Sandbox-Id", a.id)
	r.Header.Set("E2b-Sandbox-Port", strconv.Itoa(vmm.AgentPort))
	r.Header.Set("X-Access-Token", a.token)
	return a.client.Do(r)
}

// Clients that speak to a sandbox's agent in binary get through as those do that
// speak JSON.
func TestE2BBinaryClients(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	mux := http.NewServeMux()
	mux.Handle(processpbconnect.NewProcessHandler(binaryProcesses{}))
	mux.Handle(filesystempbconnect.NewFilesystemHandler(binaryFiles{}))
	made := agentOf(t, l, mux)
	as := asSandbox{l.client, made.SandboxID, made.EnvdAccessToken}
	base, ctx := "http://"+l.addr, t.Context()
	processes, files := processpbconnect.NewProcessClient(as, base), filesystempbconnect.NewFilesystemClient(as, base)

	list, err := processes.List(ctx, connect.NewRequest(&processpb.ListRequest{}))
	if err != nil || len(list.Msg.GetProcesses()) != 1 || list.Msg.GetProcesses()[0].GetConfig().GetCmd() != "cat" {
		t.Fatalf("%v, %v", list, err)
	}
	if kind := list.Header().Get("Content-Type"); kind != "application/proto" {
		t.Errorf("it spoke %s", kind)
	}
	started, err := processes.Start(ctx, connect.NewRequest(&processpb.StartRequest{Process: &processpb.ProcessConfig{Cmd: "cat"}}))
	if err != nil {
		t.Fatal(err)
	}
	var events []*processpb.ProcessEvent
	for started.Receive() {
		events = append(events, started.Msg().GetEvent())
	}
	if err := errors.Join(started.Err(), started.Close()); err != nil || len(events) != 3 || events[0].GetStart().GetPid() != 7 ||
		string(events[1].GetData().GetStdout()) != "\x00\xff\ncat" || events[2].GetEnd().GetExitCode() != -1 {
		t.Errorf("%v, %v", events, err)
	}
	input := processes.StreamInput(ctx)
	for range 3 {
		if err := input.Send(&processpb.StreamInputRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := input.CloseAndReceive(); err != nil || r.Header().Get("X-Got") != "3" {
		t.Errorf("%v, %v", r, err)
	}

	stat, err := files.Stat(ctx, connect.NewRequest(&filesystempb.StatRequest{Path: "/there"}))
	if err != nil || stat.Msg.GetEntry().GetSize() != 1<<40 {
		t.Errorf("%v, %v", stat, err)
	}
	if _, err := files.Stat(ctx, connect.NewRequest(&filesystempb.StatRequest{Path: "/not"})); connect.CodeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v", err)
	}
	watched, err := files.WatchDir(ctx, connect.NewRequest(&filesystempb.WatchDirRequest{Path: "/"}))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for watched.Receive() {
		names = append(names, watched.Msg().GetFilesystem().GetName())
	}
	if err := errors.Join(watched.Err(), watched.Close()); err != nil || strings.Join(names, ",") != ",new" {
		t.Errorf("%q, %v", names, err)
	}

	as.token = "wrong"
	if _, err := processpbconnect.NewProcessClient(as, base).List(ctx, connect.NewRequest(&processpb.ListRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("with a wrong token: %v", err)
	}
	refused, err := processpbconnect.NewProcessClient(as, base).Start(ctx, connect.NewRequest(&processpb.StartRequest{}))
	if err == nil {
		for refused.Receive() {
			t.Error("it was let in")
		}
		err = errors.Join(refused.Err(), refused.Close())
	}
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("with a wrong token: %v", err)
	}
}
