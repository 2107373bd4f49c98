package oci_test

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func TestFreezeLoop(t *testing.T) {
	l := newLab(t)
	l.boot(spec("live"))
	for i := range 3000 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := l.Pause(ctx, "live", domain.PauseFreeze)
		if err != nil {
			t.Log(i, err)
			out, _ := exec.Command("sh", "-c", `cd /sys/fs/cgroup/freezer/aetherium-*/live && echo FROZEN > freezer.state; sleep 0.5; cat freezer.state cgroup.procs; for t in $(cat tasks); do echo; grep -E "State|Tgid|Name" /proc/$t/status; cat /proc/$t/stack; done; echo THAWED > freezer.state`).CombinedOutput()
			t.Fatal(string(out))
		}
		must(t, l.Resume(t.Context(), "live"))
		cancel()
	}
}
