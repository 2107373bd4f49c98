package redis_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/services/core/pkg/redis"
	"github.com/aetherium/aetherium/services/core/pkg/redis/redistest"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	const secret = "hunter22"
	server := redistest.Start(t, "--requirepass", secret)
	at := func(userinfo string) logging.Secret {
		return logging.Secret(strings.Replace(server.Address().Reveal(), "unix://", "unix://"+userinfo, 1))
	}
	for _, c := range []struct {
		name    string
		address logging.Secret
		code    errors.Code
	}{
		{"good", at(":" + secret + "@"), ""},
		{"no password", at(""), errors.InvalidArgument},
		{"a wrong password", at(":wrong" + secret + "@"), errors.InvalidArgument},
		{"nobody there", "redis://:" + secret + "@127.0.0.1:1/0", errors.Unavailable},
		{"TLS, nobody there", "rediss://:" + secret + "@127.0.0.1:1/0", errors.Unavailable},
		{"another protocol", "http://:" + secret + "@127.0.0.1:1/0", errors.InvalidArgument},
		{"no address", "redis://:" + secret + "@%zz", errors.InvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			client, err := redis.Open(t.Context(), c.address, slog.New(slog.NewTextHandler(&log, nil)))
			switch {
			case c.code == "" && err != nil, c.code != "" && !errors.HasCode(err, c.code):
				t.Errorf("%v, want %q", err, c.code)
			case err != nil && strings.Contains(err.Error(), secret), strings.Contains(log.String(), secret):
				t.Errorf("the password is told: %v, %s", err, log.String())
			}
			if client != nil {
				if err := client.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestEviction(t *testing.T) {
	t.Parallel()
	for policy, code := range map[string]errors.Code{
		"allkeys-lru": errors.PreconditionFailed, "allkeys-random": errors.PreconditionFailed,
		"noeviction": "", "volatile-ttl": "", // what is volatile can be done without
	} {
		server := redistest.Start(t, "--maxmemory-policy", policy)
		client, err := redis.Open(context.Background(), server.Address(), slog.New(slog.DiscardHandler))
		if code == "" && err != nil || code != "" && !errors.HasCode(err, code) {
			t.Errorf("%s: %v", policy, err)
		}
		if client != nil {
			_ = client.Close()
		}
	}
}
