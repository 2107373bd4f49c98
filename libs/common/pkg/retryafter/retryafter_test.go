package retryafter_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/retryafter"
)

func TestRead(t *testing.T) {
	t.Parallel()
	const longest = 5 * time.Minute
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for _, tc := range []struct {
		after, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"7", "", 7 * time.Second},
		{"0", "", 0},
		{"-1", "", 0},
		{"soon", "", 0},
		{"86400", "", longest},
		{"4294967296", "", 0},
		{at(time.Minute), "", time.Minute},
		{at(-time.Minute), "", 0},
		{at(time.Hour), "", longest},
		{at(time.Minute), at(50 * time.Second), 10 * time.Second},
	} {
		h := http.Header{}
		h.Set("Retry-After", tc.after)
		h.Set("Date", tc.date)
		if got := retryafter.Read(h, now, longest); got != tc.want {
			t.Errorf("%q by %q: %s", tc.after, tc.date, got)
		}
	}
}
