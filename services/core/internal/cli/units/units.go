// Package units reads and writes quantities as people do: 512MiB, 1.5 cores,
// 10m. Errors say what was wrong and what would be right.
package units

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// byteUnits are the suffixes of sizes in lower case. A bare letter is binary,
// as memory and disks are usually meant; MB and its like are decimal (SI).
var byteUnits = map[string]float64{
	"b": 1,
	"k": 1 << 10, "ki": 1 << 10, "kib": 1 << 10, "kb": 1e3,
	"m": 1 << 20, "mi": 1 << 20, "mib": 1 << 20, "mb": 1e6,
	"g": 1 << 30, "gi": 1 << 30, "gib": 1 << 30, "gb": 1e9,
	"t": 1 << 40, "ti": 1 << 40, "tib": 1 << 40, "tb": 1e12,
}

// ParseBytes reads a size such as 512MiB, 2G or 1.5GB. Returns InvalidArgument.
func ParseBytes(s string) (int64, error) {
	number, unit := split(s)
	factor, known := byteUnits[strings.ToLower(unit)]
	n, err := strconv.ParseFloat(number, 64)
	switch {
	case err != nil:
		return 0, invalid("%q is not a size", s).WithHint("a number and a unit, such as 512MiB, 2GiB or 1.5G")
	case unit == "":
		return 0, invalid("%q has no unit", s).WithHint("did you mean %sMiB?", number)
	case !known:
		return 0, invalid("%q is not a unit of size", unit).WithHint("use KiB, MiB, GiB or TiB (or K, M, G, T), as in %sMiB", number)
	}
	bytes := n * factor
	if bytes < 1 || bytes >= math.MaxInt64 {
		return 0, invalid("the size %s is out of range", s).
			WithHint("memory is between %s and %s, a disk between %s and %s",
				Bytes(domain.MinMemoryBytes), Bytes(domain.MaxMemoryBytes), Bytes(domain.MinDiskBytes), Bytes(domain.MaxDiskBytes))
	}
	return int64(bytes), nil
}

// ParseCPUs reads a number of cores such as 2, 0.5 or 250m (thousandths) and
// returns thousandths. Returns InvalidArgument.
func ParseCPUs(s string) (int64, error) {
	number, unit := split(s)
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || (unit != "" && unit != "m") {
		return 0, invalid("%q is not a number of cores", s).WithHint("such as 2, 0.5 or 250m (thousandths)")
	}
	if unit == "" {
		n *= 1000
	}
	n = math.Round(n)
	if n < domain.MinMilliCPU || n > domain.MaxMilliCPU {
		return 0, invalid("%s cores are out of range", s).WithHint("between %s and %s", CPUs(domain.MinMilliCPU), CPUs(domain.MaxMilliCPU))
	}
	return int64(n), nil
}

// ParseDuration reads a span of time such as 90s, 10m, 1h30m or 2d. Returns InvalidArgument.
func ParseDuration(s string) (time.Duration, error) {
	var d time.Duration
	rest := s
	if days, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || !(math.Abs(n) < 36500) {
			return 0, badDuration(s)
		}
		d, rest = time.Duration(n*24*float64(time.Hour)), after
	}
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil {
			if _, err := strconv.ParseFloat(s, 64); err == nil {
				return 0, invalid("%q has no unit", s).WithHint("did you mean %ss?", s)
			}
			if durationForm.MatchString(rest) { // so large that it has no value
				return 0, durationRange(s)
			}
			return 0, badDuration(s)
		}
		d += more
	}
	switch {
	case s == "":
		return 0, badDuration(s)
	case d < 0 || d > domain.MaxDuration:
		return 0, durationRange(s)
	}
	return d, nil
}

// durationForm is what time.ParseDuration takes, but for the sign.
var durationForm = regexp.MustCompile(`^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$`)

func durationRange(s string) error {
	return invalid("%s is out of range", s).WithHint("between 0 and %s", Duration(domain.MaxDuration))
}

func badDuration(s string) error {
	return invalid("%q is not a duration", s).WithHint("such as 90s, 10m, 1h30m or 2d")
}

func invalid(format string, args ...any) *errors.Error {
	return errors.New(errors.InvalidArgument, format, args...)
}

// split takes a number and its unit apart.
func split(s string) (number, unit string) {
	s = strings.TrimSpace(s)
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// Bytes writes a size with a binary unit and at most one decimal: 1.5 GiB.
func Bytes(n int64) string {
	const names = "KMGTPE"
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, i := float64(n)/(1<<10), 0
	for v >= 1023.95 && i < len(names)-1 {
		v, i = v/(1<<10), i+1
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + " " + names[i:i+1] + "iB"
}

// CPUs writes thousandths of a core as cores: 1.5.
func CPUs(milli int64) string {
	return strconv.FormatFloat(float64(milli)/1000, 'f', -1, 64)
}

// Duration writes a span with its one or two largest units: 2d3h, 5m10s, 340ms.
func Duration(d time.Duration) string {
	if d < 0 {
		return "-" + Duration(-d)
	}
	if d > 0 && d < time.Second {
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	}
	days, hours := int64(d/(24*time.Hour)), int64(d/time.Hour)%24
	minutes, seconds := int64(d/time.Minute)%60, int64(d/time.Second)%60
	switch {
	case days > 0:
		return pair(days, "d", hours, "h")
	case hours > 0:
		return pair(hours, "h", minutes, "m")
	}
	return pair(minutes, "m", seconds, "s")
}

func pair(a int64, aUnit string, b int64, bUnit string) string {
	switch {
	case a == 0:
		return strconv.FormatInt(b, 10) + bUnit
	case b == 0:
		return strconv.FormatInt(a, 10) + aUnit
	}
	return strconv.FormatInt(a, 10) + aUnit + strconv.FormatInt(b, 10) + bUnit
}
