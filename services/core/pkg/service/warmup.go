package service

import (
	"context"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// maxWarmUpLine bounds a start or ready command.
const maxWarmUpLine = 8 << 10

func checkWarmUp(u domain.WarmUp) error {
	for field, line := range map[string]string{"start": u.Start, "ready": u.Ready} {
		if len(line) > maxWarmUpLine || strings.ContainsRune(line, 0) {
			return errors.New(errors.InvalidArgument, "the %s command is too long, or has a NUL in it", field).WithField(field).
				WithHint("at most %d bytes; put more into a file of the template", maxWarmUpLine)
		}
	}
	switch {
	case u.Memory:
		return u.Network.Validate("network")
	case u.Ready != "" && u.Start == "":
		return errors.New(errors.InvalidArgument, "a ready command says when what is started, or a memory, may be used").WithField("ready").
			WithHint("give a start command, or ask for a memory, too")
	case u.Driver != "" || u.Network != "":
		return errors.New(errors.InvalidArgument, "driver and network are those of a template's memory").WithField("driver").
			WithHint("ask for a memory, too")
	}
	return nil
}

// placeWarmUp chooses the driver of a template's memory. Returns Unsupported.
func (s *Service) placeWarmUp(ctx context.Context, tx storage.Tx, req *vmm.BuildTemplate) error {
	u := &req.Warm
	if !u.Memory {
		return nil
	}
	if u.Network == "" {
		u.Network = s.config.DefaultNetwork
	}
	if u.Driver == "auto" {
		u.Driver = ""
	}
	workers, err := tx.Workers().All(ctx)
	if err != nil {
		return err
	}
	named := u.Driver
	for _, w := range workers {
		for _, d := range w.Drivers {
			able := d.Usable && can(d, "snapshot:"+string(domain.SnapshotMemory)) && can(d, capForkMemory)
			switch {
			case named == d.Name && !able:
				return errors.New(errors.Unsupported, "the driver %s keeps no memory", d.Name).WithField("driver").
					WithHint("`aetherium doctor` shows what each driver can")
			case !able || named != "" && named != d.Name:
				continue
			case u.Driver == "" || d.Name == s.config.DefaultDriver:
				u.Driver = d.Name
			}
		}
	}
	if u.Driver == "" {
		return errors.New(errors.Unsupported, "no driver here keeps memory").WithField("memory").
			WithHint("`aetherium doctor` shows what each driver can; without a memory the start command is run in each VM")
	}
	for _, w := range workers {
		if infoOf(w, u.Driver).Usable {
			return nil
		}
	}
	return errors.New(errors.Unsupported, "there is no driver %q", u.Driver).WithField("driver").WithHint("`aetherium doctor` lists the drivers")
}
