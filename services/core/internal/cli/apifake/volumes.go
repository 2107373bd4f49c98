package apifake

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// volume finds a volume by ID or name. The caller holds mu.
func (s *Server) volume(name string) (api.Volume, error) {
	i := slices.IndexFunc(s.volumes, func(v api.Volume) bool { return v.ID == name || v.Name == name })
	if i < 0 {
		return api.Volume{}, errors.New(errors.NotFound, "no volume is named %q", name)
	}
	return s.volumes[i], nil
}

// mounts finds the volumes that a VM shall have. The caller holds mu.
func (s *Server) mounts(asked []api.VolumeMount) ([]api.VMVolume, error) {
	var out []api.VMVolume
	for _, m := range asked {
		v, err := s.volume(m.Volume)
		if err != nil {
			return nil, err
		}
		m.Volume = v.Name
		out = append(out, api.VMVolume{VolumeID: v.ID, VolumeMount: m})
	}
	return out, nil
}

func (s *Server) volumeRoutes(handle register) {
	with := func(f func(w http.ResponseWriter, v api.Volume) error) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			v, err := s.volume(r.PathValue("volume"))
			if err != nil {
				return err
			}
			return f(w, v)
		}
	}
	handle("GET /volumes", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return page(w, r, s.volumes)
	})
	handle("POST /volumes", func(w http.ResponseWriter, r *http.Request) error {
		var req api.CreateVolume
		if err := readJSON(r, &req); err != nil {
			return err
		}
		if err := domain.ValidateVolumeName("name", req.Name); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, err := s.volume(req.Name); err == nil {
			return errors.New(errors.AlreadyExists, "a volume named %q exists already", req.Name).WithField("name")
		}
		v := api.Volume{ID: newID(), Name: req.Name, DiskBytes: req.DiskBytes, WorkerID: newID(), CreatedAt: time.Now()}
		s.volumes = append(s.volumes, v)
		writeJSON(w, http.StatusCreated, v)
		return os.Mkdir(filepath.Join(s.dir, v.ID), 0o755)
	})
	handle("GET /volumes/{volume}", with(func(w http.ResponseWriter, v api.Volume) error {
		writeJSON(w, http.StatusOK, v)
		return nil
	}))
	handle("DELETE /volumes/{volume}", with(func(w http.ResponseWriter, v api.Volume) error {
		for _, vm := range s.vms {
			if vm.State != "deleted" && slices.ContainsFunc(vm.Volumes, func(m api.VMVolume) bool { return m.VolumeID == v.ID }) {
				return errors.New(errors.Conflict, "the volume is in use by 1 VMs").WithHint("delete them first")
			}
		}
		s.volumes = slices.DeleteFunc(s.volumes, func(other api.Volume) bool { return other.ID == v.ID })
		w.WriteHeader(http.StatusNoContent)
		return nil
	}))
}
