package oci_test

import (
	"context"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/oci"
)

// slowVolumes take their time over one volume.
type slowVolumes struct {
	oci.Volumes
	slow       string
	came, gone chan struct{} // it is asked for; it may be made
}

func (v *slowVolumes) Create(ctx context.Context, id string, limit int64) error {
	if id == v.slow {
		close(v.came)
		<-v.gone
	}
	return v.Volumes.Create(ctx, id, limit)
}

// TestACopyHoldsUpNoOther has the copy of one template take long.
func TestACopyHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	volumes := &slowVolumes{slow: "oci-t-slow", came: make(chan struct{}), gone: make(chan struct{})}
	l := newLab(t, ways["copy"], func(c *oci.Config) { volumes.Volumes, c.Volumes = c.Volumes, volumes })
	create := func(ctx context.Context, id, build string) error {
		s := spec(id)
		s.BuildID = build
		_, err := l.Create(ctx, s)
		return err
	}
	must(t, create(t.Context(), "before", "there"))
	slow := make(chan error, 1)
	go func() { slow <- create(t.Context(), "slow", "slow") }()
	<-volumes.came
	released := time.AfterFunc(30*time.Second, func() { close(volumes.gone) }) // should somebody wait for it who must not
	within, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := create(within, "other", "there"); err != nil || within.Err() != nil {
		t.Errorf("of a template that has its copy: %v, %v", err, within.Err())
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := create(short, "same", "slow"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("of the template that is copied, past its caller's end: %v", err)
	}
	if released.Stop() {
		close(volumes.gone)
	}
	must(t, <-slow)
}
