package oci

import (
	"context"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// RuntimeAuto chooses the runtime: crun, which starts a machine in a third of
// the time, where it is installed and does start one; else runc. Machines do not
// depend on it, and go on when another start chooses another.
const RuntimeAuto = "auto"

// choose makes the driver of [RuntimeAuto].
func choose(ctx context.Context, cfg Config) (*Driver, error) {
	cfg.Runtime = "crun"
	fast, crunErr := New(ctx, cfg)
	if crunErr == nil {
		info := fast.Info(ctx)
		if info.Usable {
			return fast, nil
		}
		fast.log.Warn("crun does not work here", "reason", info.Reason)
		crunErr = errors.New(errors.Unsupported, "crun does not work here: %s", info.Reason)
		if err := fast.Close(); err != nil {
			return nil, err
		}
	}
	cfg.Runtime = "runc"
	d, err := New(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, crunErr)
	}
	return d, nil
}
