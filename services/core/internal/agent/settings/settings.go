// Package settings holds what the host told the machine: environment, default
// user, access token. It is read on every request and changed rarely.
package settings

import (
	"crypto/subtle"
	"maps"
	"strings"
	"sync"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/agent/osuser"
)

// Bounds on what a machine is told.
const (
	maxEnv      = 8192
	maxEnvBytes = 1 << 20
	maxText     = 4096
)

// Settings is what the machine was told. A value is never changed once stored.
type Settings struct {
	Env         map[string]string
	DefaultUser string // empty: "user" where it exists, else "root"
	Workdir     string // empty: the user's home
	AccessToken string // what clients of the envd services must show; empty: none
}

// Store holds the current settings.
type Store struct {
	mu      sync.RWMutex
	current Settings
}

// Get reads the settings; the map must not be changed.
func (s *Store) Get() Settings {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.current
}

// Update replaces the settings by what change makes of a copy of them.
// change's error is returned and nothing is stored.
// Returns InvalidArgument or TooLarge for values that no process could be given.
func (s *Store) Update(change func(*Settings) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.current
	next.Env = maps.Clone(next.Env)
	if next.Env == nil {
		next.Env = map[string]string{}
	}
	if err := change(&next); err != nil {
		return err
	}
	if err := CheckEnv(next.Env); err != nil {
		return err
	}
	for _, text := range []string{next.DefaultUser, next.Workdir, next.AccessToken} {
		if len(text) > maxText || strings.Contains(text, "\x00") {
			return errors.New(errors.InvalidArgument, "a setting is longer than %d bytes or contains NUL", maxText)
		}
	}
	s.current = next
	return nil
}

// Clear forgets what the machine was told.
func (s *Store) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = Settings{}
}

// TokenFits compares a client's token in constant time. Without a token set
// everything fits.
func (s Settings) TokenFits(token string) bool {
	return s.AccessToken == "" || subtle.ConstantTimeCompare([]byte(s.AccessToken), []byte(token)) == 1
}

// User finds the OS user that a request names, or the default one.
// Returns Unauthenticated for an unknown user.
func (s Settings) User(users *osuser.DB, name string) (*osuser.User, error) {
	if name == "" {
		name = s.DefaultUser
	}
	if name != "" {
		return users.Lookup(name)
	}
	if u, err := users.Lookup("user"); err == nil {
		return u, nil
	}
	if u, err := users.Lookup("root"); err == nil {
		return u, nil
	}
	return users.Lookup("0") // an image without /etc/passwd
}

// CheckEnv reports names and values that an environment cannot hold, and too
// many of them.
func CheckEnv(env map[string]string) error {
	if len(env) > maxEnv {
		return errors.New(errors.TooLarge, "more than %d environment variables", maxEnv).WithField("env")
	}
	total := 0
	for name, value := range env {
		total += len(name) + len(value) + 2
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return errors.New(errors.InvalidArgument, "%.64q cannot be an environment variable", name).WithField("env")
		}
	}
	if total > maxEnvBytes {
		return errors.New(errors.TooLarge, "the environment is larger than %d bytes", maxEnvBytes).WithField("env")
	}
	return nil
}
