package domain_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func TestValidateMounts(t *testing.T) {
	t.Parallel()
	at := func(targets ...string) (all []domain.Mount) {
		for _, target := range targets {
			all = append(all, domain.Mount{Source: "data", Target: target})
		}
		return all
	}
	for _, good := range [][]domain.Mount{nil, at("/mnt/data"), at("/data", "/home/user/data"), at("/mnt/a", "/mnt/ab"), at("/etcetera"), at("/var/lib/app")} {
		if err := domain.ValidateMounts("mounts", good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	many := make([]string, domain.MaxMounts+1)
	for i := range many {
		many[i] = fmt.Sprintf("/mnt/%d", i)
	}
	for _, bad := range [][]domain.Mount{
		at(""), at("data"), at("/"), at("/mnt/"), at("/mnt/../etc"), at("/mnt//a"), at("/etc"), at("/etc/ssl"), at("/proc/1"), at("/dev/shm"), at("/usr/local/x"),
		at("/run/x"), at("/home"), at("/opt/aetherium/tools"), at("/mnt/a\x00b"), at("/mnt/a\nb"), at("/" + strings.Repeat("a", 600)),
		at("/mnt/a", "/mnt/a"), at("/mnt/a", "/mnt/a/b"), at("/mnt/a/b", "/mnt/a"), at(many...),
		{{Source: "", Target: "/mnt/a"}}, {{Source: "../x", Target: "/mnt/a"}},
	} {
		if err := domain.ValidateMounts("mounts", bad); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
