// Package redis connects to the Redis that processes of an installation share,
// and tells its faults in the terms of this one.
package redis

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Bounds of one exchange with the server: whoever asks while it is away has an
// answer after a few seconds.
const (
	timeout = 2 * time.Second
	retries = 1
)

// Parse checks the address of a Redis: redis://, rediss:// (TLS) or unix://,
// with user, password and number of the database. Returns InvalidArgument,
// which never quotes the address.
func Parse(address logging.Secret) (*goredis.Options, error) {
	o, err := goredis.ParseURL(address.Reveal())
	if err != nil { // it may quote the password
		return nil, errors.New(errors.InvalidArgument, "this is not the address of a Redis").
			WithHint("redis://[user:password@]host:6379/0, rediss:// for TLS, or unix:///path/of/socket?db=0")
	}
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout = timeout, timeout, timeout
	o.MaxRetries, o.DialerRetries, o.ContextTimeoutEnabled = retries, 1, true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return o, nil
}

// Open connects to the Redis at an address. Returns InvalidArgument for an
// address or credentials that are wrong, Unavailable when nothing answers, and
// PreconditionFailed for a server that may throw away what it is given.
func Open(ctx context.Context, address logging.Secret, log *slog.Logger) (*goredis.Client, error) {
	o, err := Parse(address)
	if err != nil {
		return nil, err
	}
	c := goredis.NewClient(o)
	if err := keeps(ctx, c, log); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// keeps makes sure that the server evicts no key that is not to expire.
func keeps(ctx context.Context, c *goredis.Client, log *slog.Logger) error {
	info, err := c.Info(ctx, "memory").Result()
	switch {
	case err != nil && refused(err):
		return errors.Wrap(err, errors.InvalidArgument, "Redis at %s refuses the user or password", c.Options().Addr)
	case err != nil && strings.HasPrefix(err.Error(), "NOPERM"):
		log.Warn("Redis does not tell whether it evicts keys: its maxmemory-policy must be noeviction")
		return nil
	case err != nil:
		return Error(err)
	}
	for line := range strings.SplitSeq(info, "\n") {
		policy, found := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:")
		if found && strings.HasPrefix(policy, "allkeys") {
			return errors.New(errors.PreconditionFailed, "Redis at %s evicts keys when its memory is full (%s): jobs would be lost", c.Options().Addr, policy).
				WithHint("set its maxmemory-policy to noeviction")
		}
	}
	return nil
}

func refused(err error) bool {
	return goredis.HasErrorPrefix(err, "WRONGPASS") || goredis.HasErrorPrefix(err, "NOAUTH") || goredis.HasErrorPrefix(err, "ERR AUTH")
}

// LogTo has what the client library says of connections logged where it is of
// use, for all of this process: those who use one tell their faults themselves.
func LogTo(log *slog.Logger) { goredis.SetLogger(library{log}) }

type library struct{ log *slog.Logger }

// Printf implements the library's logging.
func (l library) Printf(ctx context.Context, format string, v ...any) {
	l.log.DebugContext(ctx, "redis client", "text", fmt.Sprintf(format, v...))
}

// Error gives an error of Redis its code: NoSpace when its memory is full,
// Canceled and DeadlineExceeded for the caller's context, Unavailable when the
// server is away or cannot serve now, else Internal. Nil stays nil.
func Error(err error) error {
	var network net.Error
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "OOM command not allowed"):
		return errors.Wrap(err, errors.NoSpace, "Redis has no memory left").WithHint("raise its maxmemory")
	case errors.Is(err, context.Canceled):
		return errors.Wrap(err, errors.Canceled, "Redis was not waited for")
	case errors.Is(err, context.DeadlineExceeded):
		return errors.Wrap(err, errors.DeadlineExceeded, "Redis did not answer in time")
	case refused(err):
		return errors.Wrap(err, errors.Unavailable, "Redis refuses the user or password")
	}
	for _, prefix := range []string{"LOADING", "READONLY", "MASTERDOWN", "MISCONF", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "ERR max number of clients"} {
		if goredis.HasErrorPrefix(err, prefix) {
			return errors.Wrap(err, errors.Unavailable, "Redis cannot serve now")
		}
	}
	var reply goredis.Error
	if errors.As(err, &network) || !errors.As(err, &reply) { // all that is no reply: refused, reset, ended
		return errors.Wrap(err, errors.Unavailable, "Redis does not answer")
	}
	return errors.Wrap(err, errors.Internal, "Redis failed")
}
