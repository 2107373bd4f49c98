package e2e

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// A task's command goes on while the server is killed, and is followed by the
// next one: it runs once, and nothing of it is lost.
func TestTasksOutliveTheServer(t *testing.T) {
	t.Parallel()
	_, redis := jobs(t)
	for name, setting := range map[string]string{"memory": "AETHERIUM_QUEUE=", "redis": redis} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := own(t, setting, "AETHERIUM_POOL_SIZE=0")
			c := patient(t, s)
			first, err := c.CreateTask(limited(t), api.CreateTask{
				VM: &api.CreateVM{Network: "none"}, Stdin: "input\n", Results: []string{"kept"},
				Command: api.Command{Command: `echo started; sleep 2; cat; echo result >kept`},
			})
			if err != nil {
				t.Fatal(err)
			}
			then, err := c.CreateTask(limited(t), api.CreateTask{VM: &api.CreateVM{Network: "none"}, Command: api.Command{Args: []string{"false"}}, MaxAttempts: 2, BackoffMS: 1, After: []string{first.ID}})
			if err != nil {
				t.Fatal(err)
			}
			r, w := io.Pipe()
			go func() { _ = w.CloseWithError(c.TaskOutput(t.Context(), first.ID, true, w)) }()
			line := make([]byte, len("started\n"))
			if _, err := io.ReadFull(r, line); err != nil || string(line) != "started\n" {
				t.Fatalf("%q, %v", line, err)
			}
			if err := s.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := s.Start(limited(t)); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(r) // goes on where the connection broke
			if err != nil || string(rest) != "input\n" {
				t.Errorf("the rest of the output is %q, %v", rest, err)
			}
			done, err := c.WaitTask(limited(t), first.ID)
			if err != nil {
				t.Fatalf("%+v, %v", done, err)
			}
			var result api.TaskResult
			if err := json.Unmarshal(done.Result, &result); err != nil || len(result.Files) != 1 || string(result.Files[0].Content) != "result\n" || done.Attempts != 1 {
				t.Errorf("%+v, %+v, %v", done, result, err)
			}
			failed, err := c.WaitTask(limited(t), then.ID)
			if err == nil || !strings.Contains(err.Error(), "exited with 1") || failed.Attempts != 2 {
				t.Errorf("%+v, %v", failed, err)
			}
			for _, id := range []string{done.VMID, failed.VMID} {
				if vm, err := c.DeleteVM(limited(t), id); err != nil || vm.State != "deleted" || vm.Tombstone.By != "task "+done.ID && vm.Tombstone.By != "task "+failed.ID {
					t.Errorf("the task's VM is left: %+v, %v", vm, err)
				}
			}
		})
	}
}
