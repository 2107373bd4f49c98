package server

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

// Running makes a look at this host, which lists the machines of each of some
// servers that have processes there, by the control groups that those are in. The
// servers must have been started once, and may be started again meanwhile.
func Running(servers []*Server) (look func() map[*Server][]string) {
	type owner struct {
		s      *Server
		within *regexp.Regexp
	}
	var owners []owner
	for _, s := range servers {
		owners = append(owners, owner{s, s.within()})
	}
	return func() map[*Server][]string {
		found := map[*Server][]string{}
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range dirs {
			groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
			for _, o := range owners {
				in := o.within.FindSubmatch(groups)
				if in == nil {
					continue
				}
				if id := string(in[1]); domain.IsID(id) && !slices.Contains(found[o.s], id) && !zombie(dir) {
					found[o.s] = append(found[o.s], id)
				}
			}
		}
		return found
	}
}

// within finds the machine that a process of the server's belongs to.
func (s *Server) within() *regexp.Regexp {
	return regexp.MustCompile("/aetherium-" + regexp.QuoteMeta(s.lease.Instance) + `(?:\.\w+)?/([^/\s]+)`)
}

// Place is where a machine is by its row: a worker's name, and the VM that has
// it, if any.
type Place struct{ Worker, VM string }

// Places reads where the store has machines, by their IDs.
func (s *Server) Places(ctx context.Context) (map[string]Place, error) {
	store, err := s.store(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = store.Close() }()
	places := map[string]Place{}
	err = store.View(ctx, func(tx storage.Tx) error {
		workers, err := tx.Workers().All(ctx)
		if err != nil {
			return err
		}
		for _, w := range workers {
			rows, err := tx.Machines().OnWorker(ctx, w.ID)
			if err != nil {
				return err
			}
			for _, m := range rows {
				places[string(m.ID)] = Place{w.Name, string(m.VMID)}
			}
		}
		return nil
	})
	return places, err
}

// own is the name of the worker that a process of a fleet is; empty: the
// server is the only one.
func (s *Server) own() string {
	if !strings.HasSuffix(s.program, "-worker") {
		return ""
	}
	return filepath.Base(s.DataDir)
}
