package service

import (
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// driverFor finds the driver that a worker makes a VM with: the one that is asked
// for, or for auto the first that can be used and isolates as it is asked to.
// Returns Unsupported, Unavailable.
func (s *Service) driverFor(w *domain.Worker, spec domain.VMSpec) (domain.DriverInfo, error) {
	if spec.Driver == domain.DriverAuto {
		return s.anyDriverFor(w, spec)
	}
	i := slices.IndexFunc(w.Drivers, func(d domain.DriverInfo) bool { return d.Name == spec.Driver })
	if i < 0 {
		return domain.DriverInfo{}, errors.New(errors.Unsupported, "there is no driver %q", spec.Driver).WithField("driver").
			WithHint("`aetherium doctor` lists the drivers")
	}
	d := w.Drivers[i]
	switch {
	case !d.Isolation.AtLeast(spec.MinIsolation) && d.Isolation != "":
		return d, errors.New(errors.Unsupported, "the driver %s isolates by %s, not by %s", d.Name, d.Isolation, spec.MinIsolation).
			WithField("min_isolation").WithHint("%s", isolators(w, spec.MinIsolation))
	case !d.Usable:
		return d, errors.New(errors.Unsupported, "the driver %s cannot be used here: %s", d.Name, d.Reason).WithField("driver").
			WithHint("`aetherium doctor` shows what this host offers")
	case len(spec.Mounts) > 0 && !can(d, CanVolumes):
		return d, noVolumes(w, d.Name)
	}
	return d, nil
}

// noVolumes refuses a VM volumes that its driver cannot show it.
func noVolumes(w *domain.Worker, driver string) error {
	err := errors.New(errors.Unsupported, "the driver %s cannot give VMs volumes", driver).WithField("volumes")
	for _, d := range w.Drivers {
		if d.Usable && can(d, CanVolumes) {
			return err.WithHint("the driver %s can", d.Name)
		}
	}
	return err.WithHint("no driver here can")
}

// anyDriverFor is driverFor for auto: the default driver, else the others in their
// order. What isolates less than a container is never chosen unless the request
// says that so little is enough.
func (s *Service) anyDriverFor(w *domain.Worker, spec domain.VMSpec) (domain.DriverInfo, error) {
	minimum, without := spec.MinIsolation, ""
	enough := func(d domain.DriverInfo) bool {
		if minimum == "" {
			return d.Name == s.config.DefaultDriver || d.Isolation.AtLeast(domain.IsolationContainer)
		}
		return d.Isolation.AtLeast(minimum)
	}
	for _, name := range append([]string{s.config.DefaultDriver}, domain.Drivers()...) {
		for _, d := range w.Drivers {
			switch {
			case d.Name != name || !d.Usable || !enough(d):
			case len(spec.Mounts) > 0 && !can(d, CanVolumes):
				without = d.Name
			default:
				return d, nil
			}
		}
	}
	if without != "" {
		return domain.DriverInfo{}, noVolumes(w, without)
	}
	if minimum == "" {
		return domain.DriverInfo{}, errors.New(errors.Unsupported, "no driver here isolates by container or better").WithField("driver").
			WithHint("ask for a driver by name: %s", isolators(w, domain.IsolationContainerRoot))
	}
	return domain.DriverInfo{}, errors.New(errors.Unsupported, "no driver here isolates by %s", minimum).
		WithField("min_isolation").WithHint("%s", isolators(w, minimum))
}

// isolators says which of a worker's drivers could isolate so, or why they cannot.
func isolators(w *domain.Worker, minimum domain.Isolation) string {
	var can, could []string
	for _, d := range w.Drivers {
		switch {
		case d.Isolation != "" && !d.Isolation.AtLeast(minimum):
		case d.Usable:
			can = append(can, d.Name)
		case d.Isolation != "":
			could = append(could, d.Name+" cannot be used: "+firstLine(d.Reason))
		}
	}
	if len(can) > 0 {
		return "these can: " + strings.Join(can, ", ")
	}
	if len(could) > 0 {
		return strings.Join(could, "; ")
	}
	return "`aetherium doctor` shows what each driver gives"
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
