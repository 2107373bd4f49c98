package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// dockerAPI is the engine's API over its socket.
type dockerAPI struct{ c *http.Client }

// api has connections that are kept, enough for all clients.
func (d *docker) api() *dockerAPI {
	path := strings.TrimPrefix(d.sock, "unix://")
	return &dockerAPI{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
		MaxIdleConnsPerHost: 16,
	}}}
}

// do sends a request and decodes the answer; nil: it is read to its end.
func (a *dockerAPI) do(ctx context.Context, method, path string, body, into any) error {
	var text bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&text).Encode(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, &text)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("docker answers %s: %s", resp.Status, firstLine(string(answer)))
	case into == nil:
		return nil
	}
	return json.Unmarshal(answer, into)
}

// inspect looks a container up that runs.
func (a *dockerAPI) inspect(ctx context.Context, box string) error {
	var got struct{ State struct{ Status string } }
	err := a.do(ctx, http.MethodGet, "/containers/"+box+"/json", nil, &got)
	if err == nil && got.State.Status != "running" {
		err = fmt.Errorf("the container is %s", got.State.Status)
	}
	return err
}

// execTrue runs `true` to its end and asks for its exit code, as who wants what
// it wrote and whether it failed has to.
func (a *dockerAPI) execTrue(ctx context.Context, box string) error {
	var made struct{ ID string }
	create := map[string]any{"AttachStdout": true, "AttachStderr": true, "Cmd": []string{"true"}}
	if err := a.do(ctx, http.MethodPost, "/containers/"+box+"/exec", create, &made); err != nil {
		return err
	}
	if err := a.do(ctx, http.MethodPost, "/exec/"+made.ID+"/start", map[string]any{"Detach": false, "Tty": false}, nil); err != nil {
		return err
	}
	var ended struct{ ExitCode *int }
	if err := a.do(ctx, http.MethodGet, "/exec/"+made.ID+"/json", nil, &ended); err != nil {
		return err
	}
	if ended.ExitCode == nil || *ended.ExitCode != 0 {
		return errors.New("true failed, or has not ended")
	}
	return nil
}
