package units_test

import (
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/internal/cli/units"
)

func check[T comparable](t *testing.T, parse func(string) (T, error), good map[string]T, bad ...string) {
	t.Helper()
	for in, want := range good {
		if got, err := parse(in); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range bad {
		got, err := parse(in)
		if !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%q: %v, %v; want an error", in, got, err)
		}
	}
}

func TestParseBytes(t *testing.T) {
	t.Parallel()
	check(t, units.ParseBytes, map[string]int64{
		"512MiB": 512 << 20, "512 mib": 512 << 20, "1G": 1 << 30, "1.5Gi": 3 << 29, "2GB": 2e9, "100B": 100, "4k": 4096, "1TiB": 1 << 40,
	}, "", "512", "-1GiB", "MiB", "1.2.3G", "5x", "0B", "99999999TiB", "NaNB", "1e3MiB", "infG")
}

func TestParseCPUs(t *testing.T) {
	t.Parallel()
	check(t, units.ParseCPUs, map[string]int64{"2": 2000, "0.5": 500, "1.5": 1500, "250m": 250, " 1 ": 1000},
		"", "0", "-1", "many", "1 core", "0.01", "99999", "NaN", "Inf", "1e3")
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	check(t, units.ParseDuration, map[string]time.Duration{
		"90s": 90 * time.Second, "10m": 10 * time.Minute, "1h30m": 90 * time.Minute, "2d": 48 * time.Hour, "1d12h": 36 * time.Hour, "0s": 0, "0.5d": 12 * time.Hour,
	}, "", "10", "-5s", "d", "soon", "1000d", "NaNd", "1e300d", "5 parsecs")
}

func TestFormats(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ got, want string }{
		{units.Bytes(0), "0 B"}, {units.Bytes(1023), "1023 B"}, {units.Bytes(1024), "1 KiB"}, {units.Bytes(1536), "1.5 KiB"},
		{units.Bytes(1<<20 - 1), "1 MiB"}, {units.Bytes(512 << 20), "512 MiB"}, {units.Bytes(1 << 60), "1 EiB"},
		{units.CPUs(1500), "1.5"}, {units.CPUs(250), "0.25"}, {units.CPUs(2000), "2"},
		{units.Duration(0), "0s"}, {units.Duration(340 * time.Millisecond), "340ms"}, {units.Duration(61 * time.Second), "1m1s"},
		{units.Duration(time.Hour), "1h"}, {units.Duration(51*time.Hour + time.Minute), "2d3h"}, {units.Duration(-time.Minute), "-1m"},
	} {
		if tc.got != tc.want {
			t.Errorf("got %q, want %q", tc.got, tc.want)
		}
	}
}
