package envd

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/access"
	"github.com/aetherium/aetherium/services/core/internal/agent/machine"
	"github.com/aetherium/aetherium/services/core/internal/agent/settings"
	"github.com/aetherium/aetherium/services/core/internal/agent/wire"
)

const maxInit = 4 << 20

// HTTP serves the endpoints beside the Connect services.
type HTTP struct {
	Guard *access.Guard
	Meter *machine.Meter
	Clock *machine.Clock
}

// Register registers /health, /metrics, /envs and /init.
func (s *HTTP) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /metrics", s.metrics)
	s.RegisterEnvs(mux)
	mux.HandleFunc("POST /init", s.init)
}

// RegisterEnvs registers /envs alone.
func (s *HTTP) RegisterEnvs(mux *http.ServeMux) { mux.HandleFunc("GET /envs", s.envs) }

func (s *HTTP) envs(w http.ResponseWriter, r *http.Request) {
	if err := s.Guard.Token(r.Header); err != nil {
		wire.EnvdError(w, err)
		return
	}
	env := maps.Clone(s.Guard.Settings.Get().Env)
	if env == nil {
		env = map[string]string{}
	}
	w.Header().Set("Cache-Control", "no-store")
	wire.JSON(w, http.StatusOK, env)
}

func (s *HTTP) metrics(w http.ResponseWriter, r *http.Request) {
	if err := s.Guard.Token(r.Header); err != nil {
		wire.EnvdError(w, err)
		return
	}
	m, err := s.Meter.Read(time.Now())
	if err != nil {
		wire.EnvdError(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	wire.JSON(w, http.StatusOK, map[string]any{
		"ts": m.At.Unix(), "cpu_count": m.CPUs, "cpu_used_pct": m.CPUPercent,
		"mem_total": m.MemoryTotal, "mem_used": m.MemoryUsed, "mem_cache": m.MemoryCache,
		"mem_total_mib": m.MemoryTotal >> 20, "mem_used_mib": m.MemoryUsed >> 20,
		"disk_total": m.DiskTotal, "disk_used": m.DiskUsed,
	})
}

// initRequest is what a host of the field tells a machine. Absent fields stay as they are.
type initRequest struct {
	EnvVars        map[string]string `json:"envVars"`
	AccessToken    *string           `json:"accessToken"`
	DefaultUser    *string           `json:"defaultUser"`
	DefaultWorkdir *string           `json:"defaultWorkdir"`
	Timestamp      *time.Time        `json:"timestamp"`
}

// init is POST /init. Once a token is set only its holder may change anything.
func (s *HTTP) init(w http.ResponseWriter, r *http.Request) {
	var req initRequest
	body := http.MaxBytesReader(w, r.Body, maxInit)
	if err := json.NewDecoder(body).Decode(&req); err != nil && !errors.Is(err, io.EOF) {
		wire.EnvdError(w, errors.Wrap(err, errors.InvalidArgument, "the body is not the expected JSON"))
		return
	}
	err := s.Guard.Settings.Update(func(now *settings.Settings) error {
		shown := r.Header.Get(access.TokenHeader)
		if shown == "" && req.AccessToken != nil {
			shown = *req.AccessToken
		}
		if !now.TokenFits(shown) {
			return errors.New(errors.Unauthenticated, "the access token is missing or wrong")
		}
		if req.AccessToken != nil {
			now.AccessToken = *req.AccessToken
		}
		if req.DefaultUser != nil {
			now.DefaultUser = *req.DefaultUser
		}
		if req.DefaultWorkdir != nil {
			now.Workdir = *req.DefaultWorkdir
		}
		maps.Copy(now.Env, req.EnvVars)
		return nil
	})
	if err != nil {
		wire.EnvdError(w, err)
		return
	}
	if req.Timestamp != nil {
		s.Clock.Set(*req.Timestamp)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}
